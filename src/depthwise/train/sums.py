"""An update's gradient as the sum over its shards, in the fixed order of a binary tree, on any number of processes.

Floating-point addition depends on its order. Here shards 0 and 1 are added, 2 and 3, then the two sums, and so on, so
that the bits do not depend on which process computed which shard. A process adds its own subtree on its own. Between
processes each one owns a slice of every bucket: it gets that slice from all, adds them up the rest of the tree, and
sends the sum to all, which is as much as an all-reduce moves.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

import torch
from torch import Tensor, nn

from depthwise.train.world import Share, World, shares

BUCKET, LEAST_BUCKETS, LEAST = 2**20, 4, 2**15
"""Numbers in a bucket, 4 MiB, which travels as a whole while the backward pass goes on. Nothing hides the last bucket,
so a network of fewer buckets than these has smaller ones, down to the least."""


class Tree:
    """Sums of aligned runs of shards, as they come in their order; equal neighbours are added at once."""

    def __init__(self) -> None:
        self._sums: list[tuple[int, Tensor]] = []

    def add(self, values: Tensor, count: int = 1) -> None:
        """The sum of the next `count` shards, a power of two; `values` are kept and changed."""
        while self._sums and self._sums[-1][0] == count:
            before = self._sums.pop()[1]
            values, count = before.add_(values), 2 * count
        self._sums.append((count, values))

    def take(self) -> Tensor:
        """The sum of all shards, of which there are a power of two."""
        ((_, values),) = self._sums
        self._sums = []
        return values


@dataclass(eq=False)
class _Bucket:
    """Parameters whose gradients travel together, [size * slice] with zeros at the end."""

    parameters: list[nn.Parameter]
    length: int
    tree: Tree = field(default_factory=Tree)
    waiting: int = 0
    sum: Tensor | None = None

    def flat(self) -> Tensor:
        """The gradients of a shard, which their parameters lose."""
        whole = self.parameters[0].new_zeros(self.length)
        for parameter, view in zip(self.parameters, self.views(whole), strict=True):
            if parameter.grad is not None:
                view.copy_(parameter.grad)
                parameter.grad = None
        return whole

    def views(self, whole: Tensor) -> Iterator[Tensor]:
        """The parts of `whole` with the shape and memory layout of each parameter."""
        place = whole.storage_offset()
        for parameter in self.parameters:
            yield whole.as_strided(parameter.size(), parameter.stride(), place)
            place += parameter.numel()


def in_buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those of a network's `parameters` that travel together, in the order in which gradients are made, about."""
    parts: list[list[nn.Parameter]] = [[]]
    most = min(BUCKET, max(LEAST, sum(p.numel() for p in parameters) // LEAST_BUCKETS))
    for parameter in reversed(parameters):
        if parts[-1] and sum(p.numel() for p in parts[-1]) + parameter.numel() > most:
            parts.append([])
        parts[-1].append(parameter)
    return [part for part in parts if part]


class ShardSums:
    """Adds up what the shards of an update come to: gradients, batch norm's running statistics, and the window.

    `all_reduce` adds between processes by the framework's own all-reduce: bits then depend on their number.

    Around each shard's passes `begin` and `end` are called, then `finish` once. Parameters then have their gradients,
    and buffers the mean over the shards of what each shard, from the same start, made of them. `seconds` is the time
    that buckets travelled, `waited` what of it the backward pass did not hide.
    """

    def __init__(self, module: nn.Module, num_shards: int, world: World, *, all_reduce: bool = False) -> None:
        self.num_shards, self.world, self.all_reduce = num_shards, world, all_reduce
        self.share: Share = shares(num_shards, world.size)[world.rank]
        self._counts = [share.count for share in shares(num_shards, world.size)]
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._buckets = [
            _Bucket(part, -(-sum(p.numel() for p in part) // world.size) * world.size)
            for part in in_buckets(self._parameters)
        ]
        self._place = {parameter: place for place, parameter in enumerate(self._parameters)}
        self._of = {parameter: bucket for bucket in self._buckets for parameter in bucket.parameters}
        self._hooks = [p.register_post_accumulate_grad_hook(self._ready) for p in self._parameters]
        self._buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        self._counters = [buffer for buffer in module.buffers() if not buffer.is_floating_point()]
        self._before: list[Tensor] = []
        self._small = Tree()
        self._shard, self._last_pass, self._sent = -1, False, 0
        self._has = torch.zeros(len(self._parameters))
        self.seconds = self.waited = 0.0
        self._courier = _Courier(self._travel, here=world.alone)

    def begin_update(self) -> None:
        """Keep what every shard starts from."""
        self._before = [buffer.clone() for buffer in (*self._buffers, *self._counters)]

    def begin(self, shard: int) -> None:
        """Start on a shard, from the buffers as they were before the update."""
        self._shard, self._last_pass, self._sent = shard, False, 0
        self._has.zero_()
        self.undo()
        for bucket in self._buckets:
            bucket.waiting = len(bucket.parameters)

    def last_pass(self) -> None:
        """The backward pass that follows is the shard's last: gradients are whole as soon as they come."""
        self._last_pass = True

    def end(self, window: Tensor) -> None:
        """A shard is done, whose part of the window is float32 [3]."""
        for bucket in self._buckets[self._sent :]:  # with parameters that had no gradient
            self._bucket_done(bucket)
        first = self._shard == 0
        moved = [(now - old) * first for now, old in zip(self._counters, self._old_counters, strict=True)]
        self._small.add(
            torch.cat(
                [
                    window.float(),
                    self._has.to(window.device),
                    *(buffer.detach().float().reshape(-1) for buffer in self._buffers),
                    *(count.float().reshape(-1) for count in moved),
                ]
            )
        )

    def finish(self) -> Tensor:
        """Set gradients and buffers to what all shards come to; the window's sum, float32 [3]."""
        began = time.monotonic()
        self._courier.wait()
        self.waited += time.monotonic() - began
        small = self._summed(_padded(self._small.take(), self.world.size))
        window, rest = small[:3], small[3:]
        has = dict(zip(self._parameters, (rest[: len(self._parameters)] > 0).tolist(), strict=True))
        rest = rest[len(self._parameters) :]
        with torch.no_grad():
            for buffer in self._buffers:
                buffer.copy_(rest[: buffer.numel()].view_as(buffer) / self.num_shards)
                rest = rest[buffer.numel() :]
            for counter, old in zip(self._counters, self._old_counters, strict=True):
                counter.copy_(old + rest[: counter.numel()].view_as(counter).to(counter.dtype))
                rest = rest[counter.numel() :]
        for bucket in self._buckets:
            assert bucket.sum is not None
            for parameter, view in zip(bucket.parameters, bucket.views(bucket.sum), strict=True):
                parameter.grad = view if has[parameter] else None
            bucket.sum = None
        self._before = []
        return window

    def close(self) -> None:
        """Let the module be as it was."""
        for hook in self._hooks:
            hook.remove()
        self._courier.close()

    @torch.no_grad()
    def undo(self) -> None:
        """Set the buffers back to what they were before the update that is under way, if one is."""
        kept = [*self._buffers, *self._counters] if self._before else []
        for buffer, before in zip(kept, self._before, strict=True):
            buffer.copy_(before)

    @property
    def _old_counters(self) -> list[Tensor]:
        return self._before[len(self._buffers) :]

    def _ready(self, parameter: nn.Parameter) -> None:
        """A backward pass has added to the gradient of a parameter."""
        if not self._last_pass:
            return
        self._of[parameter].waiting -= 1
        # In one order everywhere: what one process sends first the others wait for first.
        while self._sent < len(self._buckets) and not self._buckets[self._sent].waiting:
            self._bucket_done(self._buckets[self._sent])

    @torch.no_grad()
    def _bucket_done(self, bucket: _Bucket) -> None:
        self._sent += 1
        for parameter in bucket.parameters:
            self._has[self._place[parameter]] = float(parameter.grad is not None)
        bucket.tree.add(bucket.flat())
        if self._shard == self.share.first + self.share.count - 1:
            self._courier.send(bucket)

    def _travel(self, bucket: _Bucket) -> None:
        began = time.monotonic()
        bucket.sum = self._summed(bucket.tree.take())
        self.seconds += time.monotonic() - began

    @torch.no_grad()
    def _summed(self, flat: Tensor) -> Tensor:
        """The sum over the processes of `flat`, [size * n]."""
        if self.world.alone:
            return flat
        if self.all_reduce:
            self.world.add(flat)
            return flat
        tree = Tree()
        for count, part in zip(self._counts, self.world.to_owners(flat), strict=True):
            tree.add(part, count)
        return self.world.from_owners(tree.take())


def _padded(values: Tensor, size: int) -> Tensor:
    """`values` with zeros at the end, so that there are a multiple of `size`."""
    return nn.functional.pad(values, (0, -len(values) % size))


class _Courier:
    """Carries buckets, one after another, on a thread of its own, while the backward pass goes on."""

    def __init__(self, carry: Callable[[_Bucket], None], *, here: bool) -> None:
        self._carry, self._here = carry, here
        self._queue: SimpleQueue[_Bucket | None] = SimpleQueue()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._under_way = 0
        self._thread: threading.Thread | None = None

    def send(self, bucket: _Bucket) -> None:
        """Carry the bucket, after those that were sent before."""
        if self._here:
            self._carry(bucket)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._under_way += 1
        self._queue.put(bucket)

    def wait(self) -> None:
        """Until all have arrived; raises what the first of them met with."""
        failed = None
        while self._under_way:
            error = self._done.get()
            failed = failed or error
            self._under_way -= 1
        if failed:
            raise failed

    def close(self) -> None:
        """End the thread; one that waits for a process that is gone is left to itself."""
        if self._thread:
            self._queue.put(None)
            self._thread.join(timeout=1)
            self._thread = None

    def _work(self) -> None:
        failed = False
        while bucket := self._queue.get():
            try:
                if not failed:
                    self._carry(bucket)
                self._done.put(None)
            except BaseException as error:  # the training's own thread raises it
                failed = True
                self._done.put(error)
