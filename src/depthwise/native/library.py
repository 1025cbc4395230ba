"""Finding, loading and choosing the kernels, and setting up their threads and memory."""

import ctypes
import os
import sys
from pathlib import Path

from depthwise.errors import DepthwiseError
from depthwise.native import openmp, structs

PATHS = ("amx", "avx512bf16", "avx512", "avx2", "portable")


class Library:
    """The shared library of kernels: `handle` if it is in use, `loaded` if it can be, else `reason` says why not."""

    def __init__(self) -> None:
        self.handle: ctypes.CDLL | None = None
        self.path = "off"
        choice = os.environ.get("DEPTHWISE_NATIVE") or "best"
        if choice not in ("best", "off", *PATHS):
            raise DepthwiseError(
                f"DEPTHWISE_NATIVE={choice} is no path: take off, {', '.join(PATHS)}, or none"
            )
        self.loaded, self.reason = _load()
        self.use(choice)

    def use(self, path: str) -> None:
        if path == "off" or (path == "best" and self.loaded is None):
            self.handle, self.path = None, "off"
            return
        # The portable kernels are slower than PyTorch's own operators, so they run only if asked for by name.
        for candidate in PATHS[:-1] if path == "best" else (path,):
            if self.loaded is not None and self.loaded.depthwise_use(candidate.encode()):
                self.handle, self.path = self.loaded, candidate
                return
        if path == "best":
            self.handle, self.path, self.reason = None, "off", "this processor has neither AVX2 nor AVX-512"
            return
        raise DepthwiseError(
            f"this machine cannot run the {path} kernels: {self.reason or 'take another path'}"
        )


def _load() -> tuple[ctypes.CDLL | None, str]:
    # Another build of the same sources, for example with sanitizers, in place of the installed one.
    folder = Path(os.environ.get("DEPTHWISE_KERNELS") or Path(__file__).parent)
    file = next(iter(sorted(folder.glob("_kernels*.so"))), None)
    if file is None:
        return None, "no C++ compiler was found when the package was installed"
    runtime = openmp.find()
    if runtime is None:
        return None, "this PyTorch does not run on an OpenMP library whose threads can be shared"
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        return None, f"the kernels could not be loaded ({error})"
    if _struct_sizes(library) != [ctypes.sizeof(struct) for struct in structs.KERNELS]:
        return None, "the kernels were built from another version: install the package again"
    library.depthwise_use.argtypes = [ctypes.c_char_p]
    library.depthwise_panel.restype = ctypes.c_int64
    library.depthwise_parted.restype = ctypes.c_int64
    library.depthwise_peak.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int]
    library.depthwise_peak.restype = ctypes.c_int64
    library.depthwise_read_memory.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p]
    library.depthwise_scratch_bytes.argtypes = [ctypes.POINTER(structs.Run)]
    library.depthwise_scratch_bytes.restype = ctypes.c_int64
    library.depthwise_run_plans.argtypes = [
        ctypes.POINTER(structs.Run),
        ctypes.c_int64,
        ctypes.POINTER(structs.Fault),
    ]
    library.depthwise_run_plans.restype = ctypes.c_int64
    library.depthwise_threads.argtypes = [ctypes.c_void_p] * 3
    for struct, names in structs.KERNELS.items():
        for name in names:
            function = getattr(library, f"depthwise_{name}")
            function.argtypes, function.restype = [ctypes.POINTER(struct)], None
    library.depthwise_threads(
        *(ctypes.cast(getattr(runtime, name), ctypes.c_void_p) for name in openmp.ENTRIES)
    )
    return library, ""


def _struct_sizes(library: ctypes.CDLL) -> list[int]:
    """The sizes in bytes of the structs that `library` takes; empty for a library that does not tell."""
    if not hasattr(library, "depthwise_struct_sizes"):
        return []
    sizes = (ctypes.c_int64 * len(structs.KERNELS))()
    library.depthwise_struct_sizes.restype = ctypes.c_int64
    count = library.depthwise_struct_sizes(sizes, ctypes.c_int64(len(sizes)))
    return list(sizes) if count == len(sizes) else []


library = Library()
openmp.survive_forks(openmp.find())


def status() -> str:
    """One sentence: which kernels run, or why PyTorch's own operators do."""
    if library.handle is not None:
        return f"native kernels for training run on this CPU ({library.path})"
    return f"training runs on PyTorch's own operators: {library.reason or 'native kernels are switched off'}"


def use(path: str) -> None:
    """Force `path`, one of PATHS, "off" or "best"; raise DepthwiseError if this machine does not have it."""
    library.use(path)


def tune_allocator() -> None:
    """Make glibc's malloc keep freed memory; with other libraries do nothing. Call it once, before training.

    By default every large buffer is returned to the system, and the next one costs a page fault for each page: 5 to 15%
    of a training step of Xception. The price is that the process never shrinks below its peak.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # M_TRIM_THRESHOLD and so on in <malloc.h>
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(top_pad, 64 << 20)
    mallopt(arena_max, 1)
