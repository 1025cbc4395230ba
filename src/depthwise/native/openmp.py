"""The OpenMP library of PyTorch, whose threads the kernels use too, and what happens to these threads in a fork.

A forked child has only the thread that forked. GNU's OpenMP would wait there forever for the threads that it had
started before. So before a thread forks, it ends its OpenMP threads, and both processes start new ones when they need
them.
"""

import ctypes
import os
from pathlib import Path

ENTRIES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
HARD = 2  # omp_pause_hard in <omp.h>: keep nothing


def find() -> ctypes.CDLL | None:
    """The OpenMP library that PyTorch has loaded; None if it has none with the entry points that are needed."""
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
    """What is done around a fork; `released` says whether the thread that forks has ended its OpenMP threads."""

    def __init__(self, runtime: ctypes.CDLL | None) -> None:
        self.pause = getattr(runtime, "omp_pause_resource_all", None)
        self.released = False

    def before(self) -> None:
        self.released = self.pause is not None and self.pause(HARD) == 0

    def in_parent(self) -> None:
        self.released = False

    def in_child(self) -> None:
        import torch

        # One thread never waits. It is what is left with an OpenMP before 5.0, or if C code forked without telling
        # Python in advance. Setting the number also makes a new pool in PyTorch, before several threads try to in a
        # backward.
        torch.set_num_threads(torch.get_num_threads() if self.released else 1)
        self.released = False


def survive_forks(runtime: ctypes.CDLL | None) -> None:
    """From now on a forked child can use as many threads as its parent, or one where that is impossible."""
    forks = _Forks(runtime)
    os.register_at_fork(before=forks.before, after_in_parent=forks.in_parent, after_in_child=forks.in_child)
