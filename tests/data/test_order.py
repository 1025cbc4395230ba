"""A batch's images are a function of (seed, epoch, batch, rank, world), for sets of any size and division."""

import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import depthwise
from depthwise.data.order import MOST_DRAWN, WINDOW, Order, mix_seed, permuted, scrambled

SOURCE = Path(depthwise.__file__).parent

some_blocks = st.lists(st.integers(0, 9), min_size=1, max_size=3 * WINDOW).filter(any).map(tuple)


def epoch_of(order: Order, epoch: int) -> list[int]:
    return torch.cat([order.indices(epoch, batch) for batch in range(len(order))]).tolist()


@pytest.mark.parametrize("n", [1, 7, 50, 1437])
def test_a_set_in_one_block_is_in_the_order_that_it_always_had(n: int) -> None:
    order = Order((n,), 3, seed=5)
    for epoch in range(3):
        generator = torch.Generator().manual_seed(mix_seed(5, epoch, "order"))
        drawn = torch.randperm(n, generator=generator).tolist()
        assert epoch_of(order, epoch) == drawn[: len(order) * 3]


def test_the_order_of_a_seed_never_changes() -> None:
    assert Order((10,), 10, seed=0).indices(0, 0).tolist() == [3, 2, 6, 4, 1, 5, 8, 7, 0, 9]
    assert Order((2, 3, 5), 10, seed=0).indices(1, 0).tolist() == [7, 5, 3, 0, 9, 4, 1, 8, 2, 6]
    large = Order((5 * MOST_DRAWN,), 5, seed=0)
    assert large.indices(0, 0).tolist() == [13622292, 16246249, 16715568, 10439444, 12447849]


@given(blocks=some_blocks, batch_size=st.integers(1, 40), seed=st.integers(0, 99))
def test_an_epoch_holds_every_image_once_but_for_a_last_batch_that_is_not_full(
    blocks: tuple[int, ...], batch_size: int, seed: int
) -> None:
    n = sum(blocks)
    order = Order(blocks, batch_size, seed)
    found = epoch_of(order, epoch=2)
    assert len(found) == len(set(found)) == (n // batch_size * batch_size or n)
    assert set(found) <= set(range(n))


@given(
    blocks=some_blocks,
    batch_size=st.integers(1, 24),
    world=st.integers(1, 12),
    seed=st.none() | st.integers(0, 9),
)
def test_the_parts_of_all_ranks_are_the_batch_of_one_process(
    blocks: tuple[int, ...], batch_size: int, world: int, seed: int | None
) -> None:
    order = Order(blocks, batch_size, seed)
    for batch in range(len(order)):
        parts = [order.indices(1, batch, rank, world) for rank in range(world)]
        assert torch.equal(torch.cat(parts), order.indices(1, batch))
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1
        if batch_size % world == 0 and len(order.indices(1, batch)) == batch_size:
            assert set(lengths) == {batch_size // world}


@given(blocks=some_blocks, batch_size=st.integers(1, 40))
def test_without_a_seed_images_come_as_they_lie(blocks: tuple[int, ...], batch_size: int) -> None:
    assert epoch_of(Order(blocks, batch_size), epoch=3) == list(range(sum(blocks)))


def test_a_window_holds_few_blocks_and_mixes_them() -> None:
    size, count = 20, 5 * WINDOW
    block_of = torch.tensor(epoch_of(Order((size,) * count, 1, seed=3), epoch=0)) // size
    windows = block_of.reshape(-1, WINDOW * size)
    drawn = [set(window.tolist()) for window in windows]
    assert [len(blocks) for blocks in drawn] == [WINDOW] * 5
    assert set.union(*drawn) == set(range(count))
    assert all(max(blocks) - min(blocks) > 2 * WINDOW for blocks in drawn)  # blocks from all over the set
    assert all(
        len(set(window[:WINDOW].tolist())) > WINDOW // 3 for window in windows
    )  # not one after the other


def test_epochs_and_seeds_differ_in_blocks_and_within_them() -> None:
    blocks = (50,) * 40
    orders = [epoch_of(Order(blocks, 100, seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(index // 50 for index in order) for order in orders}) == 4


@pytest.mark.parametrize("n", [*range(1, 40), 255, 256, 257, 4097, 100_003])
def test_scrambling_is_a_permutation_of_any_length(n: int) -> None:
    found = scrambled(torch.arange(n), n, seed=7)
    assert torch.equal(found.sort().values, torch.arange(n))
    if n > 9:
        assert not torch.equal(found, scrambled(torch.arange(n), n, seed=8))


def test_scrambling_leaves_no_trace_of_where_an_image_stood() -> None:
    """Neighbours land independently: quarters of the places against quarters of the images, chi squared."""
    n = 80_000
    found = scrambled(torch.arange(n), n, seed=1)
    for places in (torch.arange(n) * 4 // n, torch.arange(n) % 4):
        for landed in (found * 4 // n, found % 4):
            counts = torch.bincount(places * 4 + landed, minlength=16).double()
            assert ((counts - n / 16).square() / (n / 16)).sum() < 40  # 9 degrees of freedom: 1 in 100,000
    assert found.diff().abs().double().mean() / n == pytest.approx(1 / 3, abs=0.01)


def test_of_a_large_set_nothing_of_its_length_is_made() -> None:
    n = 10 * MOST_DRAWN
    order = Order((n,), 64, seed=0)
    began = time.perf_counter()
    tracemalloc.start()
    first, last = order.indices(0, 0), order.indices(0, len(order) - 1)
    assert (
        tracemalloc.get_traced_memory()[1] < 1 << 20
    )  # NumPy's arrays are traced; one of length n has 320 MiB
    tracemalloc.stop()
    assert time.perf_counter() - began < 1
    together = torch.cat([first, last])
    assert len(together.unique()) == 128
    assert together.min() >= 0
    assert together.max() < n
    assert together.double().std() / n == pytest.approx(12**-0.5, rel=0.2)


@pytest.mark.parametrize("readers", [1, 3, 8])
def test_any_number_of_readers_reads_every_image_once(readers: int) -> None:
    blocks = (250,) * 40 + (7, 0, 93)
    order = Order(blocks, 64, seed=0)
    parts = [order.indices(3, batch, rank, readers) for batch in range(len(order)) for rank in range(readers)]
    found = torch.cat(parts)
    assert len(found) == len(found.unique()) == len(order) * 64 > sum(blocks) - 64


def test_in_350_million_images_of_35_thousand_shards_any_batch_is_found_at_once() -> None:
    order = Order((10_000,) * 35_000, 64, seed=0)
    for batch in (0, int(0.8 * len(order))):  # the first, and where a run goes on
        began = time.perf_counter()
        found = order.indices(0, batch)
        assert time.perf_counter() - began < 1
        assert len(found.unique()) == 64
        assert len((found // 10_000).unique()) <= WINDOW


def test_just_above_what_is_drawn_places_are_still_told_apart() -> None:
    n = MOST_DRAWN + 3
    found = permuted(torch.arange(n - 200_000, n), n, seed=2)
    assert len(found.unique()) == 200_000
    assert found.max() < n


def test_nobody_else_permutes_a_set() -> None:
    places = {
        str(file.relative_to(SOURCE)) for file in SOURCE.rglob("*.py") if "randperm" in file.read_text()
    }
    assert places == {"data/order.py"}
