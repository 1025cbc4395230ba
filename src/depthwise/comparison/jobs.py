"""Runs done several at once, each in a process of its own, so that what one takes or breaks leaves the others alone."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthwise.errors import DepthwiseError
from depthwise.stops import held_back

STOP_SECONDS = 120.0


@dataclass(frozen=True)
class Share:
    """What of the machine runs take: so many `at_once`, each on `threads`, with `workers` processes for its images."""

    at_once: int = 1
    threads: int = 1
    workers: int = 0
    device: str = "auto"


def share_of(jobs: int | None, workers: int, device: str, scale: str) -> Share:
    """What of the machine each run gets: at the scale mini networks run side by side, else one takes all cores."""
    from depthwise.train.run import (
        choose_device,
    )  # with torch, for which a task that only starts runs has no use

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = jobs or (cores if scale == "mini" and choose_device(device).type == "cpu" else 1)
    return Share(at_once, max(1, cores // at_once), workers, device)


@dataclass(frozen=True)
class Assignment:
    """A run to be done: what it is `called`, its directory, what its data are called, and its recipe. columns: how a
    manifest is read. simulate: what makes it an asynchronous one. All are JSON's values."""

    called: str
    out: Path
    data: str
    recipe: dict[str, Any]
    columns: dict[str, Any] | None = None
    simulate: dict[str, Any] | None = None


Progress = Callable[[Assignment, int, int], None]
"""Called with a run, the updates it has done, and how many it has."""


Answers = Generator[tuple[Assignment, dict[str, Any]], None, None]
"""A run and what `worker.py` says of it, as it comes. Closed, it stops the runs under way, each with a checkpoint."""

Carry = Callable[[Sequence[Assignment], Share], Answers]
"""Does runs in their order, as many at once as the share says."""


class DeadError(DepthwiseError):
    """The process of a run has ended without a word."""


def do_all(
    runs: Sequence[Assignment],
    share: Share,
    ended: Callable[[Assignment], None],
    progress: Progress,
    diverged: Callable[[Assignment, str], None],
    carry: Carry | None = None,
) -> None:
    """Do `runs` as `carry` does, by default in processes here; `ended` is called after each, or `diverged`, with the
    sentence, and the others go on.

    Ctrl-C stops those under way at their next update, each with a checkpoint, and comes out as KeyboardInterrupt.
    Raises DepthwiseError, after the others under way were stopped so, for a run that cannot be done, or was stopped by
    itself.
    """
    if not runs:
        return
    with closing((carry or by_processes)(runs, share)) as answers:
        for run, answer in answers:
            if "step" in answer:
                progress(run, answer["step"], answer["of"])
            elif "diverged" in answer:
                diverged(run, answer["diverged"])
            elif "ended" in answer:
                ended(run)
            elif "stopped" in answer:
                raise DepthwiseError(f"{run.called} ({run.out}) was stopped: give the command again to go on")
            elif sentence := answer.get("failed") or answer.get("busy"):
                raise DepthwiseError(f"{run.called} ({run.out}): {sentence}")


def by_processes(runs: Sequence[Assignment], share: Share) -> Answers:
    """A `Carry`: each in a process of its own. Raises DeadError if one ends that should not."""
    left = iter(runs)
    events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    with _workers(min(share.at_once, len(runs)), share, events) as workers:
        busy: dict[_Worker, Assignment] = {}
        for worker in workers:
            _next(worker, left, busy, share)
        while busy:
            worker, answer = _wait(events)
            run = busy[worker]
            if answer is None:
                raise DeadError(
                    f"the process that trained {run.called} ({run.out}) ended with code {worker.code()}: give the "
                    f"command again to go on, with fewer --jobs if memory ran out"
                )
            yield run, answer
            if "step" not in answer:
                _next(worker, left, busy, share)


def _next(
    worker: "_Worker", left: Iterator[Assignment], busy: "dict[_Worker, Assignment]", share: Share
) -> None:
    busy.pop(worker, None)
    if run := next(left, None):
        busy[worker] = run
        worker.ask(run, share)


def _wait(events: "queue.Queue[Any]") -> Any:
    """The next event; in short waits, for a wait without end hears no Ctrl-C on some systems."""
    while True:
        with suppress(queue.Empty):
            return events.get(timeout=1.0)


def _begun(**environment: str) -> "subprocess.Popen[str]":
    with held_back():
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "depthwise.comparison.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )


class _Worker:
    """A process of `worker.py`, and a thread that hears it."""

    def __init__(self, share: Share, events: "queue.Queue[Any]") -> None:
        threads = str(share.threads)
        # Before it imports anything: OpenMP reads it once.
        self._process = _begun(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
        threading.Thread(target=self._hear, args=(events,), daemon=True).start()

    def ask(self, run: Assignment, share: Share) -> None:
        document = {
            "out": str(run.out),
            "data": run.data,
            "recipe": run.recipe,
            "workers": share.workers,
            "device": share.device,
            "columns": run.columns,
            "simulate": run.simulate,
        }
        assert self._process.stdin
        with suppress(BrokenPipeError):  # which `_hear` tells, too
            self._process.stdin.write(json.dumps(document) + "\n")
            self._process.stdin.flush()

    def _hear(self, events: "queue.Queue[Any]") -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            events.put((self, json.loads(line)))
        events.put((self, None))

    def code(self) -> int:
        return self._process.wait()

    def dismiss(self) -> None:
        """Let it end, after a checkpoint of the run under way."""
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.close()

    def close(self) -> None:
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        except KeyboardInterrupt:  # a second one: what was done since the last checkpoint is lost
            self._process.kill()
            raise


@contextmanager
def _workers(number: int, share: Share, events: "queue.Queue[Any]") -> Iterator[list[_Worker]]:
    workers: list[_Worker] = []
    try:
        for _ in range(number):
            workers.append(_Worker(share, events))
        yield workers
    finally:
        for worker in workers:
            worker.dismiss()
        for worker in workers:
            worker.close()
