"""Engines timed in turns, in inference or in training: each in a persistent process, none beside another."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from depthwise.bench.engines import ENGINES
from depthwise.bench.roofline import MEMORY
from depthwise.bench.training import LOOPS
from depthwise.errors import DepthwiseError, UsageError, unknown_name
from depthwise.models import create_model
from depthwise.stops import held_back
from depthwise.timing import REST, in_turns, ratio, settled

ROOFLINE = "roofline"
"""What the loops that measure the machine are called among the engines."""

TOLERANCE = {"fp32": 1e-3, "bf16": 0.5, "int8": 0.9}
"""The largest error of an engine that may be timed.

It is to find an engine that is broken or runs another network, not to judge rounding: random weights carry a rounding
on from layer to layer, which trained ones dampen, so that bfloat16 was measured at 0.02 (Xception) to 0.20 (Inception
V3) and at 0.27 on a small network. Two networks that have nothing in common come to about 1.4.
"""


@dataclass(frozen=True)
class Entry:
    """Who has a turn: its process is told `job`, see worker.py, and needs `package` to be installed."""

    precision: str
    package: str
    job: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One engine's runs: seconds of each, in the order of the rounds; or why it is absent.

    error: of its logits, see `_error`. losses: of a training's first updates. memory: bytes that the process grew by
    for the network, its example and its working memory, of a training the most at any time of an update; None if the
    system does not tell.
    """

    engine: str
    precision: str
    seconds: tuple[float, ...] = ()
    error: float = 0.0
    losses: tuple[float, ...] = ()
    memory: int | None = None
    absent: str = ""


Progress = Callable[[int, int], None]
"""Hears how much is done, and of how much."""

Admit = Callable[[Measured, dict[str, Any]], Measured]
"""What is known of an engine once it is ready, and what its process said then; absent if it may not be timed."""


@dataclass(frozen=True)
class Comparison:
    """Engines side by side on `batch` images at a time. roofline: what each round measured, see roofline.prepare."""

    batch: int
    threads: int
    engines: tuple[Measured, ...]
    roofline: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def to_json(self, macs: int) -> dict[str, Any]:
        """All that was measured and what follows from it; a run is of `macs` multiply-adds an image."""
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
            "seconds": list(measured.seconds),
        }
        if measured.losses:
            row |= {"steps_per_second": 1 / middle, "losses": list(measured.losses)}
        else:
            row |= {"error": measured.error}
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
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Time the network `name` of the catalogue, with random weights, on images of `shape`, [N, C, H, W].

    An engine is timed only if it says what PyTorch says.

    Raises UsageError for an unknown engine, DepthwiseError if not even PyTorch runs the network.
    """
    chosen = _known(["pytorch", *engines], ENGINES)
    reference: list[Tensor] = []

    def admit(measured: Measured, ready: dict[str, Any]) -> Measured:
        logits = torch.load(ready["logits"], weights_only=True)
        reference[:] = reference or [logits]
        error = _error(logits, reference[0])
        if not error <= TOLERANCE[measured.precision]:
            return replace(measured, error=error, absent=f"its logits differ by {error:.1g}")
        return replace(measured, error=error, memory=ready["memory"])

    with tempfile.TemporaryDirectory() as folder:
        job = {"kind": "inference", "name": name, "arguments": arguments, "seed": 0, "shape": list(shape)}
        entries = {
            engine: Entry(
                ENGINES[engine].precision,
                ENGINES[engine].package,
                {**job, "engine": engine, "logits": f"{folder}/{number}.pt"},
            )
            for number, engine in enumerate(chosen)
        }
        return measure(entries, admit, batch=shape[0], threads=threads, rounds=rounds, progress=progress)


def bench_training(
    name: str,
    arguments: dict[str, Any],
    shape: Sequence[int],
    *,
    engines: Iterable[str] = tuple(LOOPS),
    threads: int,
    rounds: int = 9,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Time updates of the network `name` of the catalogue on images of `shape`, [N, C, H, W], by these of LOOPS.

    Raises UsageError for an unknown engine, DepthwiseError if the first one does not train the network.
    """
    entries = {engine: training_entry(name, arguments, shape, engine) for engine in _known(engines, LOOPS)}
    return measure(entries, begun, batch=shape[0], threads=threads, rounds=rounds, progress=progress)


def training_entry(name: str, arguments: dict[str, Any], shape: Sequence[int], engine: str) -> Entry:
    """The network `name` trained by one of LOOPS. Raises UsageError for one without classes."""
    with torch.device("meta"):
        num_classes = create_model(name, **arguments).num_classes
    if not num_classes:
        raise UsageError("num_classes=0 leaves nothing to train for: give --set num_classes=10")
    loop = LOOPS[engine]
    job = {"kind": "training", "name": name, "arguments": arguments, "seed": 0, "shape": list(shape)}
    return Entry(
        loop.precision,
        loop.architecture(name, arguments).package,
        {**job, "num_classes": num_classes, "engine": engine},
    )


def begun(measured: Measured, ready: dict[str, Any]) -> Measured:
    """A training that has done its first updates may be timed."""
    return replace(measured, losses=tuple(ready["losses"]), memory=ready["memory"])


def _known(engines: Iterable[str], table: Mapping[str, Any]) -> list[str]:
    chosen = list(dict.fromkeys(engines))
    for engine in chosen:
        if engine not in table:
            raise unknown_name("engine", engine, table)
    return chosen


def measure(
    entries: Mapping[str, Entry],
    admit: Admit,
    *,
    batch: int,
    threads: int,
    rounds: int,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Time all of `entries` that `admit` lets in.

    Each round runs every engine once, in an order that turns, and the loops that measure the machine's own limits as
    one of them. What comes out too noisy to compare is measured again, see timing.py.

    Raises DepthwiseError if the first does not run.
    """
    total = len(entries) + rounds
    with ExitStack() as stack:
        workers: dict[str, _Worker] = {}
        results: dict[str, Measured] = {}
        for done, (engine, entry) in enumerate(entries.items()):
            progress(done, total)
            results[engine] = result = Measured(engine, entry.precision)
            if find_spec(entry.package) is None:
                results[engine] = replace(result, absent=f"{entry.package} is not installed")
                continue
            worker = _begun({**entry.job, "threads": threads}, stack)
            ready = worker.prepare()
            absent = ready.get("absent")
            results[engine] = replace(result, absent=absent) if absent else admit(result, ready)
            if not results[engine].absent:
                workers[engine] = worker
        first = next(iter(results))
        if first not in workers:
            raise DepthwiseError(
                f"{first} does not run {entries[first].job['name']}: {results[first].absent}"
            )
        roofline = _begun({"kind": ROOFLINE, "threads": threads}, stack)
        if "absent" not in roofline.prepare():
            workers[ROOFLINE] = roofline
        measured, rates = settled(
            lambda: _timed(workers, results, rounds, lambda turn: progress(len(entries) + turn, total)),
            _spread,
        )
    return Comparison(
        batch=batch,
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


def _error(logits: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference, relative to that of the reference about its mean over images and classes."""
    return float((logits - reference).square().mean().sqrt() / reference.std(correction=0))


def _begun(job: dict[str, Any], stack: ExitStack) -> "_Worker":
    """A worker at work, which `stack` ends; Ctrl-C leaves no process behind, whenever it comes."""
    worker = _Worker(job)
    stack.callback(worker.close)
    worker.start()
    return worker


class _Worker:
    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
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
