"""The OpenMP library that PyTorch runs on: its threads are the kernels' too, and what becomes of them in a fork.

A forked child has the thread that forked and no other. GNU's OpenMP would still wait there for the threads that it had
started before, for ever. So a thread lets its own go before it forks, and both processes start new ones when they
need them.
"""

import ctypes
import os
from pathlib import Path

ENTRIES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
HARD = 2  # omp_pause_hard in <omp.h>: keep nothing


def find() -> ctypes.CDLL | None:
    """The library that is loaded with PyTorch; None if none of its kind is."""
    import torch  # noqa: F401 (its OpenMP library must be loaded before it can be found)

    try:
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    except OSError:
        return None
    for file in sorted(m for m in mapped if Path(m).name.startswith(("libgomp", "libomp", "libiomp5"))):
        runtime = ctypes.CDLL(file)
        if all(hasattr(runtime, name) for name in ENTRIES):
            return runtime
    return None


class _Forks:
    """What is done around a fork; `released` is whether the thread that forks has let its threads go."""

    def __init__(self, runtime: ctypes.CDLL | None) -> None:
        self.pause = getattr(runtime, "omp_pause_resource_all", None)
        self.released = False

    def before(self) -> None:
        self.released = self.pause is not None and self.pause(HARD) == 0

    def in_parent(self) -> None:
        self.released = False

    def in_child(self) -> None:
        import torch

        # One thread waits for nobody: with an OpenMP before 5.0, or where C code forked and told Python afterwards.
        # Setting the number also renews PyTorch's own pool, which its threads for backward would do all at once.
        torch.set_num_threads(torch.get_num_threads() if self.released else 1)
        self.released = False


def survive_forks(runtime: ctypes.CDLL | None) -> None:
    """From now on a forked child can run what it likes, with as many threads, or with one where that cannot be had."""
    forks = _Forks(runtime)
    os.register_at_fork(before=forks.before, after_in_parent=forks.in_parent, after_in_child=forks.in_child)
