"""Asynchrony made up: workers of given speeds, whose pulls and pushes an event queue puts in order.

The order depends on these values alone, not on weights or clocks, so it is known before anything is computed.
"""

import heapq
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from depthwise.bounds import Bounds, OneOf, check
from depthwise.errors import UsageError
from depthwise.train.asynchronous.ledger import Lease
from depthwise.train.asynchronous.pushes import Push
from depthwise.train.asynchronous.service import (
    known_settings,
    ledger_of,
    needed_of,
    num_workers_of,
    refuse_stale,
    words_of,
)

SPREAD = 0.5


@dataclass(frozen=True)
class Simulation:
    """Workers that do not exist. The unit of time is that in which an ordinary one computes a batch, on average.

    workers: how many. speed: "constant", or "lognormal", each batch's time drawn anew with a standard deviation of
    `spread` in its logarithm, by `seed`. slow: how many times as long the last worker takes. bound: the largest
    staleness of a gradient that counts; a worker further behind must pull again, and its batch is leased again. divide:
    the learning rate of a gradient is divided by its staleness, if that is above 1 (Zhang 2016, arXiv 1511.05950).
    backup: nobody else waits for anybody, but with a number here all do: an update is then the mean of the first
    `workers` gradients of that many and the backup workers, and later ones are dropped (Chen 2016, arXiv 1604.00981).
    """

    workers: Annotated[int, Bounds(1, 4096)] = 1
    speed: Annotated[str, OneOf("constant", "lognormal")] = "constant"
    spread: Annotated[float, Bounds(0, 4)] = SPREAD
    slow: Annotated[float, Bounds(1, 1e6)] = 1.0
    seed: Annotated[int, Bounds(0, 2**63 - 1)] = 0
    bound: Annotated[int, Bounds(0, 2**40)] | None = None
    divide: bool = False
    backup: Annotated[int, Bounds(0, 4096)] | None = None

    def __post_init__(self) -> None:
        check(self, "simulate")
        if self.speed == "constant" and self.spread != SPREAD:
            raise UsageError(
                f"simulate.spread={self.spread:g} is of speeds that are drawn: add speed=lognormal"
            )
        refuse_stale("simulate", self)

    @staticmethod
    def of(settings: Iterable[tuple[str, Any]]) -> "Simulation":
        """From pairs of a field and its value; raises UsageError, naming the nearest, for a field that is none."""
        return Simulation(**known_settings(Simulation, "--simulate", settings))

    @property
    def needed(self) -> int:
        """Gradients in an update."""
        return needed_of(self)

    @property
    def num_workers(self) -> int:
        """Workers in all."""
        return num_workers_of(self)

    @property
    def words(self) -> str:
        """It as it is typed."""
        return words_of(self, "workers")


def simulated(simulation: Simulation, num_updates: int) -> Iterator[Push]:
    """Every push of a run of so many updates, in the order in which they arrive; of equal times the first worker's.

    A worker pulls as soon as it has pushed; in an update of several gradients, when the update is done. One for which
    no batch is left waits for one to be returned.
    """
    ledger, clocks = ledger_of(simulation, num_updates), _Clocks(simulation)
    under_way: list[tuple[float, int, Lease]] = []
    idle = list(range(simulation.num_workers))
    now = 0.0

    def pull() -> None:
        """Let those pull that wait, who has waited longest first."""
        left = []
        for worker in idle:
            if lease := ledger.lease(worker):
                time = now + clocks.seconds(worker)
                heapq.heappush(under_way, (time, worker, lease))
            else:
                left.append(worker)
        idle[:] = left

    pull()
    while under_way:
        now, worker, lease = heapq.heappop(under_way)  # a worker has but one: leases are never compared
        version = ledger.version
        written = ledger.push(worker, lease)
        yield Push(worker, lease.batch, lease.pulled, written, round(now, 6))
        idle.append(worker)
        if written is None or ledger.version > version:
            pull()
        if ledger.ended:
            return


class _Clocks:
    """How long each worker takes for its next batch."""

    def __init__(self, simulation: Simulation) -> None:
        from depthwise.data.order import mix_seed  # with which torchvision comes

        self._simulation = simulation
        last = simulation.num_workers - 1
        self._factors = {last: simulation.slow}
        self._chances = [
            random.Random(mix_seed(simulation.seed, worker, "speed")) for worker in range(last + 1)
        ]

    def seconds(self, worker: int) -> float:
        factor, spread = self._factors.get(worker, 1.0), self._simulation.spread
        if self._simulation.speed == "constant":
            return factor
        return factor * self._chances[worker].lognormvariate(-(spread**2) / 2, spread)  # of mean 1
