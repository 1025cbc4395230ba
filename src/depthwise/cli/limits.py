"""What the system does not give: told in a sentence, and where it can be, done without."""

import errno
import mmap
import os
import sys
import threading

_REMEDIES = {
    errno.EMFILE: "this process may open no more files: allow more (ulimit -n 1024)",
    errno.ENFILE: "the system has too many files open: end other programs",
    errno.ENOMEM: "out of memory: use a smaller batch, smaller images or fewer workers, or allow more (ulimit -v)",
    errno.EAGAIN: "no more threads or processes may be started: allow more (ulimit -u), or use --workers 0",
    errno.EFBIG: "a file may not grow so large: allow it (ulimit -f)",
}

_WORDS = {
    "can't start new thread": errno.EAGAIN,
    "thread creation failed": errno.EAGAIN,
    "can't allocate memory": errno.ENOMEM,
    "cannot allocate memory": errno.ENOMEM,
    "failed to map segment": errno.ENOMEM,
    "bad_alloc": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "returned null without setting": errno.ENOMEM,
    "resource temporarily unavailable": errno.EAGAIN,
    "too many open files": errno.EMFILE,
}
"""How libraries tell of a limit in errors that are not the system's own."""


_RESERVE = 1 << 30  # addresses: each of OpenMP's threads has an arena of malloc, or ends the process


def limit_reached(error: BaseException) -> str:
    """What to tell if a limit of the system is the cause of `error`, with the file that it was about; else ""."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        if sentence := _limit(cause):
            return sentence
        cause = cause.__cause__ or cause.__context__
    return ""


def _limit(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return _REMEDIES[errno.ENOMEM]
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return _REMEDIES[error.errno] + (f", for {error.filename}" if error.filename else "")
    if isinstance(error, RuntimeError | ImportError | SystemError | OSError):
        text = str(error).lower()
        return next((_REMEDIES[number] for words, number in _WORDS.items() if words in text), "")
    return ""


def spare_threads() -> None:
    """Let everything compute on one thread where no others may be started: OpenMP would end the process."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    wanted = int(asked) if asked.isdecimal() and len(asked) < 5 else os.cpu_count() or 1
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(wanted - 1)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    except RuntimeError:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = "1"
    finally:
        stop.set()
        for thread in started:
            thread.join()


def try_torch_first() -> None:
    """Where addresses are limited, have a forked child import torch first: short of some, libraries end the process,
    or wait for them for ever."""
    try:
        import resource

        limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    except (ImportError, OSError):
        return
    if limited and "torch" not in sys.modules:
        sys.meta_path.insert(0, _TorchTried())


class _TorchTried:
    """An importer that finds nothing, and at the first import of torch raises MemoryError if a child lacks memory."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name != "torch":
            return
        sys.meta_path.remove(self)
        child = os.fork()
        if child == 0:
            os._exit(_import_torch())
        if os.waitpid(child, 0)[1] != 0:
            raise MemoryError("torch cannot be loaded")


def _import_torch() -> int:
    """In a child, silently; 1 if memory is short, with what is loaded after torch."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        import torch  # noqa: F401

        mmap.mmap(-1, _RESERVE).close()
    except ModuleNotFoundError:
        return 0  # the parent's own to see
    except BaseException:  # of any kind: what could not be loaded is missed later, as an attribute or a name
        return 1
    return 0
