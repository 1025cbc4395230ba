"""Starting the other processes of a run on this machine: `--processes`. Elsewhere torchrun or Ray start them."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from depthwise.data.pool import CONTEXT, script_left_alone, stops_held_back
from depthwise.errors import DepthwiseError
from depthwise.stops import released
from depthwise.train.world import LostProcessError, World, address, join_at

GRACE, SHORT_GRACE = 10.0, 1.0
"""Seconds that the others have to end by themselves, and if one of them does not answer."""


@contextmanager
def started(processes: int, follow: Callable[[World], Any], *, patience: float) -> Iterator[World]:
    """This process leads `processes` of them, the others of which do follow(world), in `threads_each` each.

    `follow` is pickled. PyTorch's threads stay at that number. Raises LostProcessError, which says how one ended.
    """
    torch.set_num_threads(threads_each(processes))
    others: list[BaseProcess] = []
    grace = GRACE
    try:
        with address(processes) as port:
            with stops_held_back(), script_left_alone(follow):
                for rank in range(1, processes):
                    given = (follow, port, rank, processes, patience, torch.get_num_threads())
                    # Not a daemon: it has data workers of its own.
                    others.append(CONTEXT.Process(target=_other, args=given))
                    others[-1].start()
            world = join_at(port, 0, processes, patience)
            try:
                yield world
            finally:
                world.close()
    except LostProcessError as error:
        grace = SHORT_GRACE
        lost, semicolon, rest = error.args[0].partition(";")
        raise LostProcessError(f"{_how_ended(others) or lost}{semicolon}{rest}") from None
    finally:
        end = time.monotonic() + grace
        for other in others:
            other.join(max(0.0, end - time.monotonic()))
            other.kill()
            other.join()


def threads_each(processes: int) -> int:
    """Threads of each of so many processes on this machine; OMP_NUM_THREADS, as everywhere, says otherwise."""
    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    return max(1, len(os.sched_getaffinity(0)) // processes)


def _other(
    follow: Callable[[World], Any], port: int, rank: int, size: int, patience: float, threads: int
) -> None:
    # Ctrl-C reaches every process of a terminal: the leader answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    released()
    torch.set_num_threads(threads)
    os.environ["LOCAL_RANK"] = str(rank)  # which of several GPUs is its own
    code = 0
    try:
        follow(join_at(port, rank, size, patience))
    except LostProcessError:
        code = 1  # the leader says it
    except KeyboardInterrupt:
        code = 130
    except DepthwiseError as error:
        code = 1
        print(f"error: process {rank}: {error}", file=sys.stderr)
    # Not by way of exit: a process group that lost one of its own ends the interpreter with a word of its own.
    sys.stderr.flush()
    os._exit(code)


def _how_ended(others: list[BaseProcess]) -> str:
    """How the first of the processes that have failed did so; "" if none has yet."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        for rank, other in enumerate(others, start=1):
            code = other.exitcode
            if code is not None and code < 0:
                return f"process {rank} was killed by signal {-code} ({signal.Signals(-code).name})"
            if code:
                return f"process {rank} ended (exit code {code})"
        time.sleep(0.05)
    return ""
