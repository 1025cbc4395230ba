"""Engines timed in turns: each in a persistent process, none beside another, and only if it says what PyTorch says."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from depthwise.bench.engines import ENGINES
from depthwise.errors import DepthwiseError, unknown_name

TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
"""The largest difference of a logit from PyTorch's, relative to the largest logit, of an engine that may be timed."""

REST = 0.03  # seconds between two runs: the threads of the one before still spin


@dataclass(frozen=True)
class Measured:
    """One engine's runs: seconds of each, in the order of the rounds; or why it is absent. error: see TOLERANCE."""

    engine: str
    precision: str
    seconds: tuple[float, ...] = ()
    error: float = 0.0
    absent: str = ""

    def to_json(self, batch: int, ours: "Measured | None") -> dict[str, Any]:
        """Median and tenth percentile in milliseconds, images per second, and how many times as fast ours is."""
        if self.absent:
            return {"engine": self.engine, "precision": self.precision, "absent": self.absent}
        middle = median(self.seconds)
        document = {
            "engine": self.engine,
            "precision": self.precision,
            "milliseconds": 1e3 * middle,
            "p10": 1e3 * quantiles(self.seconds, n=10)[0],
            "images_per_second": batch / middle,
            "error": self.error,
        }
        if ours is not None and ours is not self:
            ratios = [theirs / mine for theirs, mine in zip(self.seconds, ours.seconds, strict=True)]
            document |= {"ours": median(ratios), "ours_lowest": min(ratios), "ours_highest": max(ratios)}
        return document


def bench(
    name: str,
    arguments: dict[str, Any],
    shape: Sequence[int],
    *,
    engines: Iterable[str] = tuple(ENGINES),
    threads: int,
    rounds: int = 20,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Measured]:
    """Time the network `name` of the catalogue, with random weights, on images of `shape`, [N, C, H, W].

    Each round runs every engine once, in an order that turns. Raises UsageError for an unknown engine, DepthwiseError
    if not even PyTorch runs the network.
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
            precision, package = ENGINES[engine].precision, ENGINES[engine].package
            if find_spec(package) is None:
                results[engine] = Measured(engine, precision, absent=f"{package} is not installed")
                continue
            worker = stack.enter_context(_Worker({**job, "engine": engine}, Path(folder) / f"{done}.pt"))
            if worker.absent:
                results[engine] = Measured(engine, precision, absent=worker.absent)
                continue
            logits = worker.logits()
            reference = logits if reference is None else reference
            error = float((logits - reference).abs().max() / reference.abs().max())
            if not error <= TOLERANCE[precision]:
                results[engine] = Measured(
                    engine, precision, error=error, absent=f"its logits differ by {error:.1g}"
                )
                continue
            results[engine] = Measured(engine, precision, error=error)
            workers[engine] = worker
        if "pytorch" not in workers:
            raise DepthwiseError(f"PyTorch does not run {name}: {results['pytorch'].absent}")
        seconds: dict[str, list[float]] = {engine: [] for engine in workers}
        names = list(workers)
        for turn in range(rounds):
            progress(len(chosen) + turn, len(chosen) + rounds)
            for engine in names[turn % len(names) :] + names[: turn % len(names)]:
                time.sleep(REST)
                seconds[engine].append(workers[engine].run())
    return [
        Measured(engine, measured.precision, tuple(seconds.get(engine, ())), measured.error, measured.absent)
        for engine, measured in results.items()
    ]


class _Worker:
    def __init__(self, job: dict[str, Any], logits: Path) -> None:
        self._job, self._logits = {**job, "logits": str(logits)}, logits

    def __enter__(self) -> "_Worker":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "depthwise.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.absent = str(json.loads(self._ask(json.dumps(self._job)) or "{}").get("absent", ""))
        if self._process.poll() is not None and not self.absent:
            self.absent = f"its process ended with code {self._process.returncode}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def logits(self) -> torch.Tensor:
        return torch.load(self._logits, weights_only=True)

    def run(self) -> float:
        return float(self._ask(""))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._process.stdout.readline()
