"""Jobs done by a cluster's tasks: where a worker or a whole node is lost, its jobs are given to others."""

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from depthwise.cluster.connection import Cluster
from depthwise.errors import DepthwiseError

Job = TypeVar("Job", bound=Hashable)

MOST_LOSSES = 4
"""So often a job loses its worker until it is taken to be the reason."""

STOP_SECONDS = 120.0
WAIT_SECONDS = 1.0


class LostError(Exception):
    """A job did not come to its end by no fault of its own, and may be done again; pickled, so with its text alone."""


def events(
    cluster: Cluster,
    work: Callable[[Any], Iterator[Any]],
    jobs: Iterable[tuple[Job, Any]],
    *,
    at_once: int | None = None,
    cpus: int = 1,
    gpus: int = 0,
    lost: Callable[[Job, str], None],
) -> Generator[tuple[Job, Any], None, None]:
    """What `work(argument)` gives for each of `jobs`, pairs of a job and its argument, as it comes: (job, event).

    work: a generator function of a module. at_once: tasks that are under way together, by default as many as there are
    CPUs for, and a few that wait. A task whose worker dies, or that raises LostError, is done again from its beginning,
    after `lost` was called with the reason. When this generator is closed, tasks under way get a KeyboardInterrupt, and
    are waited for.

    Raises DepthwiseError for a job that loses MOST_LOSSES workers or raises anything else, and if no node has so many
    CPUs.
    """
    _check_nodes(cluster, cpus, gpus)
    how = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "num_returns": "streaming"}
    task = cluster.ray.remote(work).options(scheduling_strategy="SPREAD", **how)
    under_way: dict[Any, tuple[Job, Any]] = {}
    losses, again, left = Counter[Job](), list[tuple[Job, Any]](), iter(jobs)
    try:
        while True:
            most = at_once or _cpus(cluster) // cpus + 2
            while len(under_way) < most and (pair := again.pop() if again else next(left, None)):
                under_way[task.remote(pair[1])] = pair
            if not under_way:
                return
            for stream in cluster.ray.wait(list(under_way), timeout=WAIT_SECONDS)[0]:
                job, _ = under_way[stream]
                try:
                    event = cluster.ray.get(next(stream))
                except StopIteration:
                    del under_way[stream]
                    continue
                except cluster.ray.exceptions.RayError as error:
                    pair = under_way.pop(stream)
                    losses[job] += 1
                    lost(job, _why(cluster, job, error, losses[job]))
                    again.append(pair)
                    continue
                yield job, event
    finally:
        _stop(cluster, list(under_way))


def _why(cluster: Cluster, job: Any, error: Any, losses: int) -> str:
    """The reason of a loss, for a sentence; raises DepthwiseError if it is none, or one too many."""
    if isinstance(error, cluster.ray.exceptions.RayTaskError):
        if not isinstance(error.cause, LostError):
            text = " ".join(str(error.cause).split())
            if "failed to import" in text:
                text = "a node cannot import what the work is: install the same depthwise on all nodes"
            raise DepthwiseError(f"{job}: {type(error.cause).__name__} on the cluster: {text:.500}") from None
        reason = str(error.cause)
    else:
        reason = "its worker or its node died"
    if losses >= MOST_LOSSES:
        raise DepthwiseError(
            f"{job} was lost {losses} times, the last time because {reason}: see Ray's logs on that node, perhaps "
            f"memory ran out"
        ) from None
    return reason


def _check_nodes(cluster: Cluster, cpus: int, gpus: int) -> None:
    alive = [node["Resources"] for node in cluster.ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in alive):
        raise DepthwiseError(
            f"no node of the cluster has {cpus} CPUs and {gpus} GPUs, which one task takes: start a larger one, or ask "
            f"for less"
        )


def _cpus(cluster: Cluster) -> int:
    """By now: nodes come and go."""
    return int(cluster.ray.cluster_resources().get("CPU", 0))


def _stop(cluster: Cluster, streams: list[Any]) -> None:
    end = time.monotonic() + STOP_SECONDS
    for stream in streams:
        with suppress(cluster.ray.exceptions.RayError):
            cluster.ray.cancel(stream)
    while streams and time.monotonic() < end:
        for stream in cluster.ray.wait(streams, timeout=WAIT_SECONDS)[0]:
            with suppress(cluster.ray.exceptions.RayError), suppress(StopIteration):
                cluster.ray.get(next(stream))
                continue
            streams.remove(stream)


def stand_in(folder: str) -> None:
    """Let paths mean here what they mean where the command was given. Raises DepthwiseError."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise DepthwiseError(
            f"{folder} is not seen on {os.uname().nodename} ({error.strerror}): start the nodes where they share it, "
            f"or give the command from a place that all have"
        ) from None
