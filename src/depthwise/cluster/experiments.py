"""Runs of an experiment by a cluster: each a task, which does on its node what the local runner does here.

A run lies in a directory that all nodes share. The task is a process beside the run's own: if either dies, the run goes
on from its checkpoint in another task.
"""

import os
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depthwise.cluster.connection import Cluster
from depthwise.cluster.tasks import LostError, events, stand_in
from depthwise.comparison.jobs import Assignment, Carry, DeadError, Share, by_processes
from depthwise.errors import DepthwiseError

BUSY_SECONDS = 120.0
"""So long a run's directory may be held by the process of a task that died: it ends after its next update."""


def by_tasks(cluster: Cluster, say: Callable[[str], None]) -> Carry:
    """A `Carry`: by tasks of `share.threads` CPUs, and a GPU if there are any and the device may be one.

    say: called with a sentence for each run that goes on elsewhere.
    """

    def carry(
        runs: Sequence[Assignment], share: Share
    ) -> Generator[tuple[Assignment, dict[str, Any]], None, None]:
        mark = Path(
            os.path.commonpath([os.path.abspath(run.out.parent) for run in runs]), f".{uuid.uuid4().hex}.seen"
        )
        of = {f"{run.called} ({run.out})": run for run in runs}
        orders = [
            (name, _Order(os.getcwd(), str(mark), replace(run, out=Path(os.path.abspath(run.out))), share))
            for name, run in of.items()
        ]

        def lost(name: str, reason: str) -> None:
            say(f"{of[name].called} goes on from its checkpoint: {reason}")

        gpus = 1 if cluster.gpus and share.device != "cpu" else 0
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        try:
            how: dict[str, Any] = {
                "at_once": share.at_once,
                "cpus": share.threads,
                "gpus": gpus,
                "lost": lost,
            }
            with closing(events(cluster, _do, orders, **how)) as found:
                for name, answer in found:
                    yield of[name], answer
        finally:
            mark.unlink(missing_ok=True)

    return carry


def share_on(cluster: Cluster, jobs: int | None, here: Share) -> Share:
    """What each run gets on a cluster: what it gets `here` by default, so that results are equal; `jobs` at once."""
    return replace(here, at_once=jobs or max(1, cluster.cpus // here.threads))


@dataclass(frozen=True)
class _Order:
    """A run, the folder in which paths are meant, and a file that is there if the place is shared."""

    folder: str
    mark: str
    run: Assignment
    share: Share


def _do(order: _Order) -> Iterator[dict[str, Any]]:
    """In a worker: the answers of a local runner that has this run alone."""
    try:
        stand_in(order.folder)
        _check_shared(Path(order.mark))
    except DepthwiseError as error:
        yield {"failed": str(error)}
        return
    end = time.monotonic() + BUSY_SECONDS
    while True:
        busy = False
        try:
            with closing(by_processes([order.run], replace(order.share, at_once=1))) as answers:
                for _, answer in answers:
                    if "busy" in answer and time.monotonic() < end:
                        busy = True
                        break
                    if "stopped" in answer:
                        raise LostError("its process was stopped")
                    yield answer
        except DeadError as error:
            raise LostError(str(error)) from None
        if not busy:
            return
        time.sleep(1)


def _check_shared(mark: Path) -> None:
    if not mark.exists():
        raise DepthwiseError(
            f"{mark.parent} is not seen on {os.uname().nodename}: give --runs a folder that all nodes share"
        )
