"""How threads are shared out between those that read images and the network that runs beside them."""

import math
from dataclasses import dataclass
from statistics import mean

SETTLING = 2
"""Batches that the network runs alone, to be timed."""

MOST_READS = 1000
"""Images whose reading is timed."""


@dataclass(frozen=True)
class Threads:
    """How many decode images, how many the network has while they do, and how many when none is to be decoded."""

    decoding: int
    network: int
    alone: int


def divided(threads: int, decoding: float, network: float) -> Threads:
    """`threads` shared out by the seconds that an image takes one thread, both shares rounded up: no core idles."""
    share = decoding / (decoding + network)
    return Threads(max(1, math.ceil(threads * share)), max(1, math.ceil(threads * (1 - share))), threads)


class Sharing:
    """The shares of a network that is given any images, by what the first of them took; for good, because a plan keeps
    memory for each number of threads. Several threads may use it."""

    def __init__(self) -> None:
        self._reads: list[float] = []
        self._runs: list[float] = []
        self._shares: dict[int, Threads] = {}

    def read(self, seconds: float) -> None:
        """An image took its thread so many seconds of the processor."""
        if len(self._reads) < MOST_READS:
            self._reads.append(seconds)

    def ran(self, seconds: float) -> None:
        """In a batch an image took so many seconds, times the threads of the network."""
        if len(self._runs) < SETTLING:
            self._runs.append(seconds)

    def shares(self, threads: int) -> Threads | None:
        """Of so many threads; None until enough is known."""
        if threads not in self._shares and self._reads and len(self._runs) == SETTLING:
            self._shares[threads] = divided(threads, max(mean(self._reads), 1e-9), min(self._runs))
        return self._shares.get(threads)
