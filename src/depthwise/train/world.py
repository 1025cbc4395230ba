"""The processes that train one network together: the only module that knows of process groups.

Process 0 leads. It alone has the run's files; before each step it tells the others, who follow, what comes next, so
nothing that is decided by a clock, a file or a signal is decided twice.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from depthwise.errors import DepthwiseError, UsageError
from depthwise.train.options import PATIENCE, Options

LONGEST = 1800.0
"""Seconds in which all processes must have opened the images."""


class LostProcessError(DepthwiseError):
    """Another process of the run has ended, hangs, or cannot be reached any more."""


@dataclass(frozen=True)
class Share:
    """What a process holds of an update's shards: those from `first` on, `count` of them, a subtree of the tree by
    which the gradients of all are added."""

    first: int
    count: int


def shares(num_shards: int, size: int) -> tuple[Share, ...]:
    """The shards of each of `size` processes, in order.

    num_shards: a power of two. The largest share is halved, of equals the first, until there are enough.
    """
    if size > num_shards:
        raise UsageError(
            f"{size} processes have {num_shards} shards of each update between them (virtual_shards): start at most "
            f"{num_shards} processes"
        )
    found = [Share(0, num_shards)]
    while len(found) < size:
        place = max(range(len(found)), key=lambda k: found[k].count)
        first, half = found[place].first, found[place].count // 2
        found[place : place + 1] = [Share(first, half), Share(first + half, half)]
    return tuple(found)


@dataclass(frozen=True)
class Order:
    """What the leader says comes next: its name, and what else is to be known of it."""

    name: str
    values: Any = None


class World:
    """The processes of a run as one of them sees them; `rank` 0 leads, of `size`.

    Every method but `close` is called by all processes, in the same order. Raises LostProcessError where another one
    cannot be reached within `patience` seconds.
    """

    def __init__(self, rank: int = 0, size: int = 1, patience: float = PATIENCE) -> None:
        self.rank, self.size, self.patience = rank, size, patience
        self.stop_asked = False

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def lead(self, name: str, values: Any = None) -> None:
        """Tell the others what comes next, in plain `values`; `stop_asked` says whether one was asked to stop."""
        if self.alone:
            return
        text = json.dumps([name, values]).encode()
        heads = self._gather(torch.tensor([len(text), 0]))
        self.stop_asked = self.stop_asked or any(int(head[1]) for head in heads[1:])
        self.share_bytes(text)

    def follow(self, *, stopping: bool) -> Order:
        """What the leader says comes next; `stopping` tells it that this process was asked to stop."""
        heads = self._gather(torch.tensor([0, int(stopping)]))
        return Order(*json.loads(self.share_bytes(b"\0" * int(heads[0][0]))))

    def meet(self) -> None:
        """Wait for the others, which may take long: each is opening the images for itself, or the leader measures."""
        if not self.alone:
            with self._telling():
                dist.monitored_barrier(timeout=timedelta(seconds=max(self.patience, LONGEST)))

    def share_bytes(self, values: bytes) -> bytes:
        """The leader's `values`, everywhere; the others give as many of their own."""
        if self.alone:
            return values
        tensor = torch.frombuffer(bytearray(values), dtype=torch.uint8)
        with self._telling():
            dist.broadcast(tensor, 0)
        return tensor.numpy().tobytes()

    def share_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite the others' `tensors` by the leader's; names and shapes are the same everywhere."""
        if self.alone:
            return
        with self._telling():
            for name in sorted(tensors):
                whole = tensors[name].detach().contiguous()
                dist.broadcast(whole, 0)
                if whole.data_ptr() != tensors[name].data_ptr():
                    tensors[name].detach().copy_(whole)

    def numbers(self, own: Sequence[float]) -> list[float]:
        """The numbers of all processes, in the order of their ranks; each may give another number of them."""
        if self.alone:
            return list(own)
        counts = [int(count) for count in self._gather(torch.tensor([len(own)]))]
        padded = torch.zeros(max(counts), dtype=torch.float64)
        padded[: len(own)] = torch.tensor(own, dtype=torch.float64)
        found = self._gather(padded)
        return [number for part, count in zip(found, counts, strict=True) for number in part[:count].tolist()]

    def texts(self, own: str) -> list[str]:
        """What each process says, in the order of their ranks."""
        if self.alone:
            return [own]
        mine = own.encode()
        lengths = [int(length) for length in self._gather(torch.tensor([len(mine)]))]
        padded = torch.zeros(max(1, *lengths), dtype=torch.uint8)
        padded[: len(mine)] = torch.frombuffer(bytearray(mine or b"\0"), dtype=torch.uint8)[: len(mine)]
        found = self._gather(padded)
        return [bytes(part[:n].tolist()).decode() for part, n in zip(found, lengths, strict=True)]

    def collect(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """On the leader the `tensors` of each process, in the order of their ranks; nothing on the others."""
        if self.alone:
            return [tensors]
        packed = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        lengths = [int(length) for length in self._gather(torch.tensor([len(packed)]))]
        with self._telling():
            if self.rank:
                dist.send(torch.frombuffer(bytearray(packed), dtype=torch.uint8), 0)
                return []
            found = [tensors]
            for rank in range(1, self.size):
                received = torch.empty(lengths[rank], dtype=torch.uint8)
                dist.recv(received, rank)
                found.append(safetensors.torch.load(received.numpy().tobytes()))
        return found

    def to_owners(self, flat: Tensor) -> list[Tensor]:
        """Of `flat`, [size * n] everywhere, the n values that this process owns, as each process has them."""
        if self.alone:
            return [flat]
        received = torch.empty_like(flat)
        with self._telling():
            dist.all_to_all_single(received, flat)
        return list(received.chunk(self.size))

    def from_owners(self, own: Tensor) -> Tensor:
        """The values [n] that each process owns, put together, [size * n]."""
        if self.alone:
            return own
        whole = own.new_empty(self.size * len(own))
        with self._telling():
            dist.all_gather(list(whole.chunk(self.size)), own)
        return whole

    def add(self, flat: Tensor) -> None:
        """Add up `flat` over the processes in place, by the framework's own all-reduce."""
        if not self.alone:
            with self._telling():
                dist.all_reduce(flat)

    def close(self) -> None:
        """Leave the others."""
        if not self.alone and dist.is_initialized():
            dist.destroy_process_group()

    def _gather(self, own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with self._telling():
            dist.all_gather(parts, own)
        return parts

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            reason = str(error).rpartition("] ")[2].partition(". This is")[0]
            silent = f"said nothing for {self.patience:g} s" if "imed out" in reason else "ended"
            raise LostProcessError(f"another of the {self.size} processes {silent} ({reason:.120})") from None


ALONE = World()


def launched() -> bool:
    """Whether something started this process as one of several, torchrun or Ray, and not `--processes`."""
    return dist.is_available() and (dist.is_initialized() or int(os.environ.get("WORLD_SIZE") or 1) > 1)


def leads() -> bool:
    """Whether this process is one that tells a person what came of a run."""
    return (
        not launched()
        or int(os.environ.get("RANK") or (dist.get_rank() if dist.is_initialized() else 0)) == 0
    )


def launch() -> str | None:
    """What tells one start of torchrun from others, the same when it starts processes again after one failed."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0
    return name if name != "none" or again else None


def join(patience: float = PATIENCE) -> World:
    """The world that this process was started in; ALONE if by nobody.

    The process group is the one that there is, or the one that torchrun's environment describes. Raises
    LostProcessError if the others do not come.
    """
    if not launched():
        return ALONE
    if dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), patience)
    limit = timedelta(seconds=patience)
    with _found(int(os.environ["WORLD_SIZE"]), patience, "start all of them, where each can reach the first"):
        store, rank, size = next(dist.rendezvous("env://", timeout=limit))
        # torchrun keeps the store when it starts processes again, with the addresses of those that are gone.
        attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)} of {size}"
        store = dist.PrefixStore(f"depthwise/{attempt}", store)
        dist.init_process_group(_backend(), store=store, rank=rank, world_size=size, timeout=limit)
    return World(rank, size, patience)


@contextmanager
def address(size: int) -> Iterator[int]:
    """The port on this machine where so many processes find each other, by `join_at`."""
    store = dist.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
    yield store.port
    del store


def join_at(port: int, rank: int, size: int, patience: float) -> World:
    """The world of the processes on this machine that meet at `port`; as `join`."""
    remedy = "the machine may be busy: try again, or give a larger --patience"
    with _found(size, patience, remedy):
        store = dist.TCPStore("127.0.0.1", port, size, timeout=timedelta(seconds=patience))
        limit = timedelta(seconds=patience)
        dist.init_process_group(_backend(), store=store, rank=rank, world_size=size, timeout=limit)
    return World(rank, size, patience)


def _backend() -> str:
    """What carries tensors: gloo those of CPUs, NCCL those of GPUs."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


@contextmanager
def _found(size: int, patience: float, remedy: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        waited = "timeout" in reason or "timed out" in reason
        why = "" if waited else f" ({reason:.200})"
        raise LostProcessError(
            f"the {size} processes did not find each other within {patience:g} s{why}: {remedy}"
        ) from None


T = TypeVar("T")


def with_others(options: Options, lead: Callable[[World], T], follow: Callable[[World], T]) -> T:
    """What `lead` gives in the process that leads, and `follow`, which is pickled, in the others: those that
    `options.processes` asks for, which are started here, or those that torchrun has started."""
    if options.processes > 1:
        from depthwise.train.launch import started

        with started(options.processes, follow, patience=options.patience) as world:
            return lead(world)
    if not launched():
        return lead(ALONE)
    world = join(options.patience)
    try:
        return follow(world) if world.rank else lead(world)
    finally:
        world.close()
