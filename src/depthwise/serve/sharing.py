"""How threads are shared out between those that decode images and the network that runs beside them."""

import math
from dataclasses import dataclass


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
