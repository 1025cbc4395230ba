"""Engines timed in turns: each in a persistent process, none beside another, and only if it says what PyTorch says."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from depthwise.bench.engines import ENGINES
from depthwise.bench.roofline import MEMORY
from depthwise.bench.worker import ROOFLINE
from depthwise.errors import DepthwiseError, unknown_name
from depthwise.stops import held_back
from depthwise.timing import REST, in_turns, ratio, settled

TOLERANCE = {"fp32": 1e-3, "bf16": 0.5, "int8": 0.9}
"""The largest error of an engine that may be timed.

It is to find an engine that is broken or runs another network, not to judge rounding: random weights carry a rounding
on from layer to layer, which trained ones dampen, so that bfloat16 was measured at 0.02 (Xception) to 0.20 (Inception
V3) and at 0.27 on a small network. Two networks that have nothing in common come to about 1.4.
"""


@dataclass(frozen=True)
class Measured:
    """One engine's runs: seconds of each, in the order of the rounds; or why it is absent.

    error: of its logits, see `_error`. memory: bytes that the process grew by for the network, its example and its
    working memory; None if the system does not tell.
    """

    engine: str
    precision: str
    seconds: tuple[float, ...] = ()
    error: float = 0.0
    memory: int | None = None
    absent: str = ""


@dataclass(frozen=True)
class Comparison:
    """Engines side by side on `batch` images at a time. roofline: what each round measured, see roofline.prepare."""

    batch: int
    threads: int
    engines: tuple[Measured, ...]
    roofline: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def to_json(self, macs: int) -> dict[str, Any]:
        """All that was measured and what follows from it, for a network of `macs` multiply-adds an image."""
        peaks = {name: max(rates) / 1e9 for name, rates in self.roofline.items()}
        return {
            "batch": self.batch,
            "threads": self.threads,
            "peak_gmacs_per_second": {name: rate for name, rate in peaks.items() if name != MEMORY},
            "memory_gb_per_second": peaks.get(MEMORY),
            "roofline": {name: list(rates) for name, rates in self.roofline.items()},
            "engines": [self._row(measured, macs, peaks) for measured in self.engines],
        }

    def _row(self, measured: Measured, macs: int, peaks: dict[str, float]) -> dict[str, Any]:
        """Times in milliseconds; `ours`: how many times as fast the compiled network of that precision is, None where
        the rounds are too far apart to say."""
        row: dict[str, Any] = {"engine": measured.engine, "precision": measured.precision}
        if measured.absent:
            return {**row, "absent": measured.absent}
        middle = median(measured.seconds)
        rate = self.batch * macs / middle / 1e9
        row |= {
            "milliseconds": 1e3 * middle,
            "p10": 1e3 * quantiles(measured.seconds, n=10, method="inclusive")[0],
            "images_per_second": self.batch / middle,
            "gmacs_per_second": rate,
            "share_of_peak": rate / peaks[measured.precision] if measured.precision in peaks else None,
            "memory_mb": None if measured.memory is None else measured.memory / 1e6,
            "error": measured.error,
            "seconds": list(measured.seconds),
        }
        ours = _ours(measured, self.engines)
        if ours:
            speed = ratio(measured.seconds, ours.seconds)
            row |= {"ours": speed.times, "ours_lowest": speed.lowest, "ours_highest": speed.highest}
        return row


def _ours(measured: Measured, engines: Iterable[Measured]) -> Measured | None:
    """The compiled network that `measured` is compared with."""
    name = f"depthwise {measured.precision}"
    return next((m for m in engines if m.engine == name and m is not measured and m.seconds), None)


def swept(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The runs of a document of `depthwise bench` that differ in `key`, batch or threads, in the order asked for."""
    other = {"batch": "threads", "threads": "batch"}[key]
    runs = {run[key]: run for run in document["runs"] if run[other] == document[other]}
    return [runs[value] for value in document["sweeps"][key]]


def bench(
    name: str,
    arguments: dict[str, Any],
    shape: Sequence[int],
    *,
    engines: Iterable[str] = tuple(ENGINES),
    threads: int,
    rounds: int = 20,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Time the network `name` of the catalogue, with random weights, on images of `shape`, [N, C, H, W].

    Each round runs every engine once, in an order that turns, and the loops that measure the machine's own limits as
    one of them. What comes out too noisy to compare is measured again, see timing.py.

    Raises UsageError for an unknown engine, DepthwiseError if not even PyTorch runs the network.
    """
    chosen = list(dict.fromkeys(["pytorch", *engines]))
    for engine in chosen:
        if engine not in ENGINES:
            raise unknown_name("engine", engine, ENGINES)
    job = {"name": name, "arguments": arguments, "seed": 0, "shape": list(shape), "threads": threads}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers: dict[str, _Worker] = {}
        results: dict[str, Measured] = {}
        reference = None
        for done, engine in enumerate(chosen):
            progress(done, len(chosen) + rounds)
            if reason := _not_installed(engine):
                results[engine] = Measured(engine, ENGINES[engine].precision, absent=reason)
                continue
            worker = _begun({**job, "engine": engine}, Path(folder) / f"{done}.pt", stack)
            results[engine], reference = _compared(engine, worker, reference)
            if not results[engine].absent:
                workers[engine] = worker
        if "pytorch" not in workers:
            raise DepthwiseError(f"PyTorch does not run {name}: {results['pytorch'].absent}")
        roofline = _begun({**job, "engine": ROOFLINE}, Path(folder) / "none.pt", stack)
        if "absent" not in roofline.prepare():
            workers[ROOFLINE] = roofline
        total = len(chosen) + rounds
        measured, rates = settled(
            lambda: _timed(workers, results, rounds, lambda turn: progress(len(chosen) + turn, total)),
            _spread,
        )
    return Comparison(
        batch=shape[0],
        threads=threads,
        engines=measured,
        roofline={name: tuple(rate[name] for rate in rates) for name in (rates[0] if rates else ())},
    )


_Timed = tuple[tuple[Measured, ...], list[dict[str, float]]]
"""The engines with their times, and what each round measured of the machine."""


def _timed(
    workers: "dict[str, _Worker]", results: dict[str, Measured], rounds: int, tick: Callable[[int], None]
) -> _Timed:
    """Each of `workers` in each round; one that ends is taken out of them, and `results` say why."""

    def ask(engine: str) -> Any:
        answer = workers[engine].ask("")
        if answer is None:  # out of memory, as a rule; the others go on
            results[engine] = replace(results[engine], absent=workers[engine].ending())
            del workers[engine]
        return answer

    questions = {engine: partial(ask, engine) for engine in workers}
    answers: dict[str, list[Any]] = in_turns(questions, rounds, rest=REST, progress=tick)
    rates = answers.pop(ROOFLINE, [])
    engines = tuple(
        measured if measured.absent else replace(measured, seconds=tuple(answers[engine]))
        for engine, measured in results.items()
    )
    return engines, rates


def _spread(timed: _Timed) -> float:
    """That of the ratio that is the least certain."""
    pairs = [(theirs, _ours(theirs, timed[0])) for theirs in timed[0] if not theirs.absent]
    return max((ratio(theirs.seconds, ours.seconds).spread for theirs, ours in pairs if ours), default=1.0)


def _not_installed(engine: str) -> str:
    package = ENGINES[engine].package
    return "" if find_spec(package) else f"{package} is not installed"


def _compared(engine: str, worker: "_Worker", reference: Tensor | None) -> tuple[Measured, Tensor | None]:
    """The engine without its times, or why it cannot be timed; and the logits for all, which are the first ones."""
    measured = Measured(engine, ENGINES[engine].precision)
    ready = worker.prepare()
    if "absent" in ready:
        return replace(measured, absent=ready["absent"]), reference
    logits = worker.logits()
    reference = logits if reference is None else reference
    error = _error(logits, reference)
    if not error <= TOLERANCE[measured.precision]:
        return replace(measured, error=error, absent=f"its logits differ by {error:.1g}"), reference
    return replace(measured, error=error, memory=ready["memory"]), reference


def _error(logits: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference, relative to that of the reference about its mean over images and classes."""
    return float((logits - reference).square().mean().sqrt() / reference.std(correction=0))


def _begun(job: dict[str, Any], logits: Path, stack: ExitStack) -> "_Worker":
    """A worker at work, which `stack` ends; Ctrl-C leaves no process behind, whenever it comes."""
    worker = _Worker(job, logits)
    stack.callback(worker.close)
    worker.start()
    return worker


class _Worker:
    def __init__(self, job: dict[str, Any], logits: Path) -> None:
        self._job, self._logits = {**job, "logits": str(logits)}, logits
        self._started: subprocess.Popen[str] | None = None

    def start(self) -> None:
        # In a session of its own, so that Ctrl-C reaches this process alone and what an engine starts ends with it.
        with held_back():
            self._started = subprocess.Popen(
                [sys.executable, "-P", "-m", "depthwise.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )

    def close(self) -> None:
        """End the process and all that it started, if there is one."""
        if self._started:
            with suppress(ProcessLookupError):
                os.killpg(self._started.pid, signal.SIGKILL)
            self._started.communicate()

    @property
    def _process(self) -> subprocess.Popen[str]:
        assert self._started is not None
        return self._started

    def prepare(self) -> dict[str, Any]:
        """What the worker says when it is ready, or {"absent": why}."""
        ready = self.ask(json.dumps(self._job))
        return {"absent": self.ending()} if ready is None else ready

    def logits(self) -> Tensor:
        return torch.load(self._logits, weights_only=True)

    def ending(self) -> str:
        return f"its process ended with code {self._process.wait()}"

    def ask(self, line: str) -> Any:
        """The worker's answer, None if it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else None
