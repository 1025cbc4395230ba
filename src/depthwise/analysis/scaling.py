"""What training on several processes costs: bytes over the network, time, efficiency. Arithmetic over plain values.

Synchronous training is that of `train/sums.py`: an update's shards are shared out, and the processes add up their
gradients bucket after bucket while the backward pass goes on. In asynchronous training (Dean 2012) workers pull the
weights from parameter servers, compute, and push a gradient, and none waits for another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from depthwise.analysis.cost import Cost
from depthwise.errors import UsageError
from depthwise.words import number_of

NUMBER_BYTES = 4
"""Of a float32, as everything travels."""

BACKWARD = 2 / 3
"""The backward pass's part of a step: it multiplies each layer's gradient by its input and by its weights."""

WINDOW = 3
"""Numbers beside gradients and buffers: loss, hits and images of the update; and one for each parameter says whether it
has a gradient."""

GATHERS = 3
"""In an update, of a few numbers: the leader's word, how many numbers each process has, and the loss's normalisers."""

MOST_SERVERS = 4096


@dataclass(frozen=True)
class Bucket:
    """So many `numbers` travel together, from the moment when the backward pass has spent the fraction `ready` of its
    time."""

    numbers: int
    ready: float


@dataclass(frozen=True)
class Traffic:
    """What a process adds to the others' in an update: the gradients in their buckets, in the order in which they
    travel, and `rest` numbers after the backward pass.

    tensors: the numbers of each parameter; buffers: those of batch norm's running statistics and counters.
    """

    buckets: tuple[Bucket, ...]
    rest: int
    tensors: tuple[int, ...]
    buffers: int


@dataclass(frozen=True)
class Link:
    """The network as each process has it: `gbit` a second in each direction at once, and `latency_ms` a message."""

    gbit: float
    latency_ms: float

    @property
    def bytes_per_second(self) -> float:
        """In each direction."""
        return self.gbit * 1e9 / 8

    def seconds(self, sent: float, messages: int) -> float:
        """For `sent` bytes in so many messages, each of which waits for the one before it."""
        return sent / self.bytes_per_second + messages * self.latency_ms / 1000


@dataclass(frozen=True)
class Step:
    """Forward and backward pass of `images` by one process alone, with the update of the weights."""

    seconds: float
    images: int


@dataclass(frozen=True)
class Synchronous:
    """An update of `images` on `processes`, of which the one with most computes `held` shards.

    sent_bytes: what each process sends, and receives as much. travel_seconds: how long it is under way in all, of which
    the backward pass hides `hidden_seconds`. efficiency: images a second over those of as many processes that need no
    others.
    """

    processes: int
    held: int
    images: int
    sent_bytes: int
    travel_seconds: float
    hidden_seconds: float
    update_seconds: float
    efficiency: float

    @property
    def images_per_second(self) -> float:
        """Of all processes together."""
        return self.images / self.update_seconds


@dataclass(frozen=True)
class Asynchronous:
    """So many `workers` that push to `servers` without waiting for each other; every push is an update.

    pull_bytes, push_bytes: of a worker, for each update. fullest_bytes: those of the server that has most. load: the
    part of its link's bandwidth that is in use, in each direction. staleness: updates by others, on average, between a
    worker's pull and its push. efficiency: as in `Synchronous`.
    """

    workers: int
    servers: int
    pull_bytes: int
    push_bytes: int
    fullest_bytes: int
    updates_per_second: float
    load: float
    staleness: int
    efficiency: float
    images: int

    @property
    def images_per_second(self) -> float:
        """Of all workers together."""
        return self.images * self.updates_per_second


def traffic(module: nn.Module, bill: Cost, buckets: Sequence[Sequence[nn.Parameter]]) -> Traffic:
    """What travels in an update of `module`, whose parameters are shared out to `buckets`.

    A gradient is ready when the backward pass has come to its layer, from the last to the first; its time is shared
    out by the multiply-adds of the `bill`.
    """
    macs = {layer.name: layer.macs for layer in bill.layers}
    done, ready = 0, {}
    for name, parameter in reversed(list(module.named_parameters())):
        done += macs.pop(name.rpartition(".")[0], 0)
        ready[parameter] = done / bill.macs if bill.macs else 1.0
    tensors = [parameter.numel() for bucket in buckets for parameter in bucket]
    buffers = sum(buffer.numel() for buffer in module.buffers())
    return Traffic(
        buckets=tuple(
            Bucket(sum(p.numel() for p in bucket), max(ready[p] for p in bucket)) for bucket in buckets
        ),
        rest=WINDOW + len(tensors) + buffers,
        tensors=tuple(tensors),
        buffers=buffers,
    )


def exchanged_bytes(numbers: int, processes: int) -> int:
    """What each process sends so that all have the sum of `numbers` of each: every other one the slice that it owns,
    then its own slice's sum to every other one. It receives as much."""
    return 2 * (processes - 1) * math.ceil(numbers / processes) * NUMBER_BYTES


def synchronous(
    traffic: Traffic, step: Step, link: Link, *, num_shards: int, processes: int, held: int
) -> Synchronous:
    """An update of `num_shards` times the step's images, by `processes`, one of which holds `held` shards and none
    more.

    Buckets travel one after another, each from when it is ready in the last shard's backward pass. The slices of a
    bucket go out at once, the sums go round a ring, as gloo and NCCL gather: a message, and then one for each other
    process.
    """

    def exchange(numbers: int) -> float:
        return link.seconds(exchanged_bytes(numbers, processes), processes if processes > 1 else 0)

    backward = BACKWARD * step.seconds
    arrived, carried = 0.0, 0.0
    for bucket in traffic.buckets:
        taken = exchange(bucket.numbers)
        arrived, carried = max(arrived, bucket.ready * backward) + taken, carried + taken
    exposed = max(0.0, arrived - backward) if processes > 1 else 0.0
    words = GATHERS * (processes - 1) + math.ceil(math.log2(processes))
    after = exchange(traffic.rest) + link.seconds(0, words)
    update, images = held * step.seconds + exposed + after, num_shards * step.images
    return Synchronous(
        processes=processes,
        held=held,
        images=images,
        sent_bytes=sum(
            exchanged_bytes(numbers, processes)
            for numbers in (*(bucket.numbers for bucket in traffic.buckets), traffic.rest)
        ),
        travel_seconds=carried + after,
        hidden_seconds=carried - exposed,
        update_seconds=update,
        efficiency=images / update / (processes * step.images / step.seconds),
    )


def asynchronous(traffic: Traffic, step: Step, link: Link, *, workers: int, servers: int) -> Asynchronous:
    """Workers that pull, compute a step and push one after another, at the rate that the servers' links allow.

    Each of the others, as fast as a worker, pushes once between its pull and its push, so staleness is their number.
    """
    whole = (sum(traffic.tensors) + traffic.buffers) * NUMBER_BYTES
    fullest = max(server_bytes(traffic, servers))
    turn = step.seconds + 2 * link.seconds(whole, 1)
    most = link.bytes_per_second / fullest
    rate = min(workers / turn, most)
    return Asynchronous(
        workers=workers,
        servers=servers,
        pull_bytes=whole,
        push_bytes=whole,
        fullest_bytes=fullest,
        updates_per_second=rate,
        load=rate / most,
        staleness=workers - 1,
        efficiency=rate * step.seconds / workers,
        images=step.images,
    )


def server_bytes(traffic: Traffic, servers: int) -> tuple[int, ...]:
    """What each parameter server holds."""
    numbers = (*traffic.tensors, traffic.buffers)
    return tuple(
        NUMBER_BYTES * sum(numbers[place] for place in places)
        for places in shared_out(traffic.tensors, traffic.buffers, servers)
    )


def shared_out(tensors: Sequence[int], rest: int, servers: int) -> list[list[int]]:
    """Which of the `tensors`, by their places, each parameter server holds: the largest first, each to who has least so
    far; then the `rest`, whose place is the one after the last, likewise.

    tensors: the size of each that learns. Raises UsageError if a server would have none.
    """
    if servers > len(tensors):
        raise UsageError(f"{servers} servers for {number_of(len(tensors), 'parameter')}: take fewer")
    sizes, loads = [*tensors, rest], [0] * servers
    found: list[list[int]] = [[] for _ in range(servers)]
    for place in [*sorted(range(len(tensors)), key=lambda place: -sizes[place]), len(tensors)]:
        server = loads.index(min(loads))
        found[server].append(place)
        loads[server] += sizes[place]
    return found


def enough_servers(traffic: Traffic, step: Step, link: Link, workers: int) -> int:
    """The fewest servers that let so many workers go on at their own pace, if any number does; else the fewest after
    which more change nothing, for one tensor fills a link."""
    largest = NUMBER_BYTES * max((*traffic.tensors, traffic.buffers))
    for servers in range(1, min(len(traffic.tensors), MOST_SERVERS) + 1):
        found = asynchronous(traffic, step, link, workers=workers, servers=servers)
        if found.load < 1 or found.fullest_bytes == largest:
            return servers
    return servers
