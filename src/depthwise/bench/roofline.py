"""The machine's own limits, measured: how fast it multiplies in each precision, and how fast memory is read."""

import os
import time
from collections.abc import Callable

import torch

from depthwise.errors import DepthwiseError
from depthwise.native.library import library

PRECISIONS = ("fp32", "bf16", "int8")
"""In the order in which the native loops number them."""

MEMORY = "memory"

REPETITIONS = 2_000_000  # of a dozen instructions: some milliseconds on any processor
TRIES = 3  # of which the fastest counts: what disturbs a loop only makes it slower
LEAST_BYTES = 256 << 20


def prepare(threads: int) -> Callable[[], dict[str, float]]:
    """A function that measures on `threads`: multiply-adds a second of each precision, bytes a second of memory.

    The loops repeat the instruction with which the native kernels multiply, on registers alone; memory is summed up
    over a buffer of eight times the last-level cache. There is no loop for the tiles of AMX: on that path nothing is
    said of bf16 and int8. Raises DepthwiseError where the native kernels do not run.
    """
    handle = library.handle
    if handle is None:
        raise DepthwiseError(
            f"the native kernels do not run here: {library.reason or 'they are switched off'}"
        )
    precisions = PRECISIONS[:1] if library.path == "amx" else PRECISIONS
    values = torch.ones(max(8 * _cache_bytes(), LEAST_BYTES) // 4)
    sums = torch.zeros(threads)

    def multiply(precision: int) -> int:
        return int(handle.depthwise_peak(precision, REPETITIONS, threads))

    def read() -> int:
        handle.depthwise_read_memory(values.data_ptr(), len(values), threads, sums.data_ptr())
        return values.nbytes

    def measure() -> dict[str, float]:
        rates = {name: _rate(multiply, number) for number, name in enumerate(precisions)}
        return {**rates, MEMORY: _rate(read)}

    return measure


def _rate(work: Callable[..., int], *arguments: int) -> float:
    best = 0.0
    for _ in range(TRIES):
        began = time.perf_counter()
        done = work(*arguments)
        best = max(best, done / (time.perf_counter() - began))
    return best


def _cache_bytes() -> int:
    """Of the last level, as far as the system tells."""
    name = "SC_LEVEL3_CACHE_SIZE"
    return max(0, os.sysconf(name)) if name in os.sysconf_names else 0
