"""What several processes cost: closed formulas, cases worked out by hand, and bytes counted between two processes."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from depthwise.analysis.cost import cost
from depthwise.analysis.scaling import (
    Bucket,
    Link,
    Step,
    Traffic,
    asynchronous,
    enough_servers,
    exchanged_bytes,
    server_bytes,
    shared_out,
    synchronous,
    traffic,
)
from depthwise.errors import UsageError
from depthwise.models import create_model
from depthwise.train.launch import started
from depthwise.train.sums import ShardSums, in_buckets
from depthwise.train.world import World

STEP = Step(seconds=3.0, images=10)  # of which the backward pass takes 2
SLOW = Link(gbit=8e-9, latency_ms=0)  # a byte a second


def early(*numbers: int) -> Traffic:
    """Buckets that are ready as soon as the backward pass begins."""
    return Traffic(tuple(Bucket(n, 0.0) for n in numbers), 0, numbers, 0)


def late(*numbers: int) -> Traffic:
    """Buckets that are ready when it ends."""
    return Traffic(tuple(Bucket(n, 1.0) for n in numbers), 0, numbers, 0)


@pytest.mark.parametrize("processes", range(1, 9))
def test_bytes_are_those_of_an_all_reduce(processes: int) -> None:
    numbers = 840
    assert exchanged_bytes(numbers, processes) == pytest.approx(2 * (processes - 1) / processes * 4 * numbers)
    assert exchanged_bytes(numbers + 1, processes) == exchanged_bytes(
        math.ceil((numbers + 1) / processes) * processes, processes
    )


def test_one_process_sends_nothing_and_takes_a_step_a_shard() -> None:
    found = synchronous(late(100, 100), STEP, Link(1, latency_ms=5), num_shards=4, processes=1, held=4)
    assert (found.sent_bytes, found.travel_seconds, found.hidden_seconds) == (0, 0, 0)
    assert (found.update_seconds, found.efficiency) == (12, 1)
    assert found.images_per_second == pytest.approx(10 / 3)


@pytest.mark.parametrize("seconds", [0.5, 1.9, 2, 2.1, 40])
def test_what_is_ready_at_once_is_hidden_as_far_as_the_backward_pass_is_long(seconds: float) -> None:
    link = Link(gbit=exchanged_bytes(1000, 4) * 8e-9 / seconds, latency_ms=0)
    found = synchronous(early(1000), STEP, link, num_shards=8, processes=4, held=2)
    assert found.travel_seconds == pytest.approx(seconds)
    assert found.hidden_seconds == pytest.approx(min(seconds, 2))
    assert found.update_seconds == pytest.approx(6 + max(0, seconds - 2))
    assert found.efficiency == pytest.approx(6 / found.update_seconds)


def test_what_is_ready_at_the_end_is_waited_for() -> None:
    found = synchronous(late(1, 1), STEP, SLOW, num_shards=2, processes=2, held=1)
    assert (found.travel_seconds, found.hidden_seconds, found.update_seconds) == (16, 0, 19)


def test_buckets_travel_one_after_another_from_when_they_are_ready() -> None:
    """The backward pass begins at 1 and ends at 3: one travels from 1 to 1.8, waits until 2, to 2.8, and to 3.6."""
    buckets = (Bucket(1, 0.0), Bucket(1, 0.5), Bucket(1, 0.6))
    link = Link(gbit=exchanged_bytes(1, 2) * 8e-9 / 0.8, latency_ms=0)
    found = synchronous(Traffic(buckets, 1, (1,) * 3, 0), STEP, link, num_shards=2, processes=2, held=1)
    assert found.travel_seconds == pytest.approx(3 * 0.8 + 0.8)
    assert found.update_seconds == pytest.approx(3.6 + 0.8)  # the rest comes after it
    assert found.sent_bytes == 4 * 8


@pytest.mark.parametrize("processes", [2, 3, 4, 60])
def test_messages_that_wait_for_each_other(processes: int) -> None:
    """Of each exchange one and a ring, of each gathering a ring, and the leader's word by a tree."""
    link = Link(gbit=1e6, latency_ms=1000)
    found = synchronous(late(1, 1), Step(1e-9, 1), link, num_shards=64, processes=processes, held=1)
    messages = 3 * processes + 3 * (processes - 1) + math.ceil(math.log2(processes))
    assert found.travel_seconds == pytest.approx(messages, rel=1e-6)


def test_uneven_shares_cost_what_the_largest_does() -> None:
    free = Link(gbit=1e6, latency_ms=0)
    assert synchronous(early(1), STEP, free, num_shards=64, processes=60, held=2).efficiency == pytest.approx(
        64 / 120
    )


def test_workers_that_nobody_holds_up() -> None:
    """Each turn is a step, a pull and a push of 40 bytes at a byte a second."""
    found = asynchronous(early(10), STEP, SLOW, workers=1, servers=1)
    assert (found.pull_bytes, found.push_bytes, found.fullest_bytes) == (40, 40, 40)
    assert found.updates_per_second == pytest.approx(1 / 83)
    assert found.load == pytest.approx(40 / 83)
    assert (found.staleness, found.images_per_second) == (0, pytest.approx(10 / 83))
    both = asynchronous(early(10), STEP, SLOW, workers=2, servers=1)
    assert (both.updates_per_second, both.staleness) == (pytest.approx(2 / 83), 1)


def test_a_full_link_limits_all_workers() -> None:
    found = asynchronous(early(10, 10), STEP, SLOW, workers=60, servers=1)
    assert (found.updates_per_second, found.load, found.staleness) == (pytest.approx(1 / 80), 1, 59)
    shared = asynchronous(early(10, 10), STEP, SLOW, workers=60, servers=2)
    assert (shared.updates_per_second, shared.fullest_bytes) == (pytest.approx(1 / 40), 40)
    assert shared.efficiency == pytest.approx(3 / 40 / 60)


def test_servers_share_whole_tensors_by_their_bytes() -> None:
    """The largest first, batch norm's buffers as one: 9, 6 + 2 and 5 + 3."""
    whole = Traffic((), 0, (3, 9, 5, 6), 2)
    assert server_bytes(whole, 3) == (36, 32, 32)
    assert server_bytes(whole, 1) == (100,)
    assert shared_out([3, 9, 5, 6], 2, 3) == [[1], [3, 4], [2, 0]]
    with pytest.raises(UsageError, match=r"9 servers for 4 parameters: take fewer"):
        server_bytes(whole, 9)


def test_enough_servers_are_the_fewest() -> None:
    network = early(*[100] * 32)
    fast = Link(gbit=10 * 8e-9 * 12_800, latency_ms=0)
    enough = enough_servers(network, STEP, fast, workers=60)
    assert enough > 1
    assert asynchronous(network, STEP, fast, workers=60, servers=enough).load < 1
    assert asynchronous(network, STEP, fast, workers=60, servers=enough - 1).load == 1
    assert enough_servers(early(10, 10, 90), STEP, SLOW, workers=60) == 2  # the largest tensor has one alone


def test_xception_travels_whole_and_in_the_order_of_its_backward_pass() -> None:
    with torch.device("meta"):
        module = create_model("xception")
    found = traffic(module, cost(module, (3, 299, 299)), in_buckets(list(module.parameters())))
    assert sum(bucket.numbers for bucket in found.buckets) == sum(found.tensors) == 22_855_952
    ready = [bucket.ready for bucket in found.buckets]
    assert ready == sorted(ready)
    assert ready[0] == pytest.approx(2_048_000 / 8_357_403_496)  # the classifier's own
    assert ready[-1] == 1
    assert found.rest == 3 + len(list(module.parameters())) + sum(b.numel() for b in module.buffers())
    row = synchronous(found, Step(1, 32), Link(10, 0), num_shards=64, processes=64, held=1)
    numbers = [bucket.numbers for bucket in found.buckets] + [found.rest]
    assert row.sent_bytes == pytest.approx(2 * 63 / 64 * 4 * sum(numbers), rel=1e-4)


def tiny() -> nn.Module:
    """Of more than one bucket, with batch norm."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(64, 20_001), nn.Linear(20_001, 3))


def one_update(world: World) -> None:
    module = tiny()
    sums = ShardSums(module, 2, world)
    sums.begin_update()
    sums.begin(world.rank)
    sums.last_pass()
    module(torch.ones(2, 3, 8, 8)).sum().backward()
    sums.end(torch.zeros(3))
    sums.finish()
    sums.close()


def test_two_processes_send_as_much_as_is_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    module, sent = tiny(), []
    to_owners, from_owners = dist.all_to_all_single, dist.all_gather

    def counted_slices(received: torch.Tensor, flat: torch.Tensor) -> Any:
        sent.append(flat.nbytes // 2)  # the half that the other owns
        return to_owners(received, flat)

    def counted_sums(parts: list[torch.Tensor], own: torch.Tensor) -> Any:
        sent.append(own.nbytes)
        return from_owners(parts, own)

    with started(2, one_update, patience=60) as world:
        monkeypatch.setattr(dist, "all_to_all_single", counted_slices)
        monkeypatch.setattr(dist, "all_gather", counted_sums)
        one_update(world)
    planned = traffic(module, cost(module, (3, 8, 8)), in_buckets(list(module.parameters())))
    assert len(planned.buckets) == 3
    assert len(sent) == 2 * (3 + 1)
    assert sum(sent) == synchronous(planned, STEP, SLOW, num_shards=2, processes=2, held=1).sent_bytes
