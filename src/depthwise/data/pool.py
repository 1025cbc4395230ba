"""Worker processes that fill batches: each task is a whole batch, written into memory that all of them share.

Not torch's DataLoader, whose handler raises wherever the main program happens to be when a worker dies, which
allocates shared memory anew for every batch, and which draws from the global generator.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.stops import STOPS, held_back

# A worker starts from a clean process: one forked from a program in which torch's threads run may wait forever for a
# lock that one of them held. The server from which it is forked instead has this package loaded already.
CONTEXT = (
    multiprocessing.get_context("forkserver")
    if "forkserver" in multiprocessing.get_all_start_methods()
    else multiprocessing.get_context("spawn")
)

_TASKS_A_WORKER = 2  # one at work, one waiting
_FILES, _FILES_A_WORKER = 24, 4  # that the server of the workers, or this process, has open at most

Task = tuple[Any, ...]
Fill = Callable[..., Any]
"""fill(*task, out) writes a batch into `out` and returns what else there is to say about it."""


class Pool:
    """`workers` processes with `fill` and, for every task under way, a place of `shape` (uint8) to write to."""

    def __init__(self, fill: Fill, shape: Sequence[int], workers: int) -> None:
        self._places = _shared((_TASKS_A_WORKER * workers, *shape))
        self._awaited: deque[tuple[int, Task]] = deque()
        self._connections: list[Connection] = []
        self._processes = []
        _require_files(workers)
        CONTEXT.set_forkserver_preload(["depthwise.data.loader"])
        try:
            with stops_held_back(), script_left_alone(fill):
                for _ in range(workers):
                    ours, theirs = CONTEXT.Pipe()
                    process = CONTEXT.Process(target=_work, args=(theirs, fill, self._places), daemon=True)
                    process.start()
                    theirs.close()
                    self._connections.append(ours)
                    self._processes.append(process)
        except (OSError, EOFError) as error:
            self.close()
            reason = getattr(error, "strerror", None) or "the server that starts them ended"
            raise DepthwiseError(
                f"{workers} data workers cannot be started ({reason}): use fewer, or --workers 0 to decode here"
            ) from None

    def run(self, tasks: Iterable[Task], finish: Callable[[Task, Any, Tensor], Any]) -> Iterator[Any]:
        """finish(task, answer, place) of each task in order; `finish` must leave nothing in `place`.

        A task is taken from `tasks` when there is a place for it. Only one run is under way at a time: a new one drops
        what is left of the last. Raises DepthwiseError if a worker dies.
        """
        try:
            while self._awaited:  # what an abandoned run had asked for
                self._answer()
            following = enumerate(tasks)
            for number, task in islice(following, len(self._places)):
                self._ask(number, task)
            for number in count():
                if not self._awaited:
                    return
                result = finish(*self._answer(), self._places[number % len(self._places)])
                for later, task in islice(following, 1):
                    self._ask(later, task)
                yield result
        except GeneratorExit:
            raise
        except BaseException:  # an interrupted read leaves half a message behind
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return bool(self._processes)

    def close(self) -> None:
        """Ends the processes at once; they hold nothing that is worth keeping."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []

    def _ask(self, number: int, task: Task) -> None:
        worker = number % len(self._processes)
        self._awaited.append((worker, task))
        try:
            self._connections[worker].send((number % len(self._places), task))
        except OSError:
            self._fail(worker)

    def _answer(self) -> tuple[Task, Any]:
        """The task asked for longest ago, and what came of it: a worker answers its tasks in order."""
        worker, task = self._awaited.popleft()
        connection, process = self._connections[worker], self._processes[worker]
        if connection not in wait([connection, process.sentinel]):
            self._fail(worker)
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            self._fail(worker)
        if isinstance(answer, Exception):
            raise answer
        return task, answer

    def _fail(self, worker: int) -> NoReturn:
        process = self._processes[worker]
        process.join(timeout=5)
        code = process.exitcode
        if code is not None and code < 0:
            how = f"killed by signal {-code} ({signal.Signals(-code).name})"
            remedy = "often memory ran out, use fewer workers or smaller batches"
        else:
            how = f"exit code {code}, its own words are above"
            remedy = "a script that starts workers must do so under `if __name__ == '__main__':`"
        raise DepthwiseError(f"data worker {process.pid} died ({how}): {remedy}")


@contextmanager
def stops_held_back() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal, and some managers stop whole groups; the main program alone answers,
    and ends the workers. What it starts inside inherits that these signals wait: a server or a worker that is just
    importing would otherwise die of them."""
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # on its way it lets the signals through again
    with held_back():
        yield


@contextmanager
def script_left_alone(fill: Fill) -> Iterator[None]:
    """What is started inside does not run the script of this program again, as multiprocessing has it, unless `fill` is
    made of something that the script defines: so a script needs no `if __name__ == "__main__":`."""
    script = sys.modules["__main__"]
    if b"__main__" in pickle.dumps(fill):
        yield
        return
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _work(connection: Connection, fill: Fill, places: Tensor) -> None:
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    while True:
        try:
            place, task = connection.recv()
            try:
                answer = fill(*task, places[place])
            except DepthwiseError as error:
                answer = DepthwiseError(str(error))
            except MemoryError as error:  # the main program says what can be done
                answer = error
            except Exception:
                answer = RuntimeError(f"in a data worker:\n{traceback.format_exc()}")
            connection.send(answer)
        except (EOFError, OSError):  # the main program is gone
            return


def _require_files(workers: int) -> None:
    """Raise DepthwiseError where a process may open too few files: the server of the workers would fail with a
    traceback of its own, and this process later on."""
    try:
        import resource

        limit, opened = resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(os.listdir("/dev/fd"))
    except (ImportError, OSError):
        return
    needed = opened + _FILES + _FILES_A_WORKER * workers
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise DepthwiseError(
            f"{workers} data workers take up to {needed} open files, and this process may have {limit}: allow more "
            f"(ulimit -n {needed}), or use --workers 0 to decode in this process"
        )


def _shared(shape: tuple[int, ...]) -> Tensor:
    """uint8 memory that worker processes see, too. Raises DepthwiseError if there is not enough: writing to what is
    not there would kill the program without a word."""
    size = 1
    for side in shape:
        size *= side
    if os.path.isdir("/dev/shm"):
        place = os.statvfs("/dev/shm")
        free = place.f_bavail * place.f_frsize
        if size > free:
            raise DepthwiseError(
                f"{shape[0]} batches under way take {size >> 20} MiB of shared memory, and /dev/shm has {free >> 20}: "
                "give a container more (docker run --shm-size=1g), or use smaller batches or fewer workers"
            )
    try:
        return torch.empty(shape, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise DepthwiseError(
            f"no shared memory can be had for {shape[0]} batches ({reason}): make /dev/shm writable, or use "
            f"--workers 0 to decode in this process"
        ) from None
