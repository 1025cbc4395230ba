"""The kernel of an update by itself: its bits on every instruction set, its roundings, and what it refuses to take."""

import pytest
import torch
from tests.conftest import RUNNABLE, using
from torch import Tensor

from depthwise.native.update import Rates, Row, Table

LENGTHS = (1, 3, 15, 16, 17, 31, 33, 8191, 8193, 40001)
RATES = {
    "sgd": Rates(0.1, 1e-4, 0.9, 0, 0, 1),
    "adamw": Rates(0.1, 0.99, 0.9, 0.999, 1e-8),
    "rmsprop": Rates(0.1, 1e-5, 0.9, 0.95, 1e-3),
}


def values(length: int, seed: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(seed))


def updated(rule: str) -> list[Tensor]:
    """What an update makes of random tensors: weights, slots, averages, and gradients, which it clips."""
    rows, gradients = [], []
    for seed, length in enumerate(LENGTHS):
        weight, first, second, average, gradient = (values(length, 5 * seed + k) for k in range(5))
        updates = torch.tensor(4.0) if rule == "adamw" else None
        rows.append(Row(weight, True, 0, first.abs(), second.abs(), updates, average))
        gradients.append(gradient)
    table = Table(rule, rows)
    assert table.take(gradients)
    table.run([RATES[rule]], clip=0.3, follow=0.6)
    return [tensor for row in rows for tensor in row.written()] + gradients


@pytest.mark.parametrize("rule", RATES)
def test_bits_depend_neither_on_the_threads_nor_on_the_path(rule: str) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for path in RUNNABLE:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                with using(path):
                    found.append(updated(rule))
    finally:
        torch.set_num_threads(before)
    assert len(found) >= 3
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_a_product_and_the_sum_with_it_are_rounded_once(path: str) -> None:
    """1 + 2^-23 + 2^-24 - 2^-70 is nearer to 1 + 2^-23; in double precision it is a tie, which goes the other way."""
    weight, gradient = torch.full((19,), 1 + 2**-23), torch.full((19,), -(1 - 2**-23) * 2**-24)
    table = Table("sgd", [Row(weight, True)])
    assert table.take([gradient])
    table.run([Rates(1 + 2**-23, 0, 0)], clip=1.0, follow=0.0)
    assert torch.equal(weight, torch.full((19,), 1 + 2**-23))


def test_what_is_not_finite_goes_where_pytorch_lets_it_go(path: str) -> None:
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 3e38, 1e-45, 1.0] * 5)
    weight, average = torch.randn(40), torch.randn(40)
    want, want_average = weight.clone(), average.clone()
    momentum = odd.clone().mul_(0.9).add_(odd)
    want.add_(odd.add(momentum, alpha=0.9), alpha=-0.1)
    want_average.lerp_(want, 0.7)
    table = Table("sgd", [Row(weight, True, first=odd.clone(), average=average)])
    assert table.take([odd])
    table.run([Rates(0.1, 0, 0.9, 0, 0, 1)], clip=1.0, follow=0.7)
    torch.testing.assert_close(weight, want, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(average, want_average, rtol=0, atol=0, equal_nan=True)


def test_rows_of_other_types_or_layouts_do_not_suit() -> None:
    weight = torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    depthwise = torch.randn(4, 1, 3, 3)
    assert Row(weight, first=torch.randn_like(weight)).suits()
    # Where a dimension has one place, its stride says nothing.
    assert Row(depthwise, average=depthwise.clone(memory_format=torch.channels_last)).suits()
    for other in (weight.double(), weight.bfloat16(), weight.contiguous(), weight[:3], weight.to("meta")):
        assert not Row(weight, first=other).suits()
    for alone in (weight.double(), weight[:, :4], torch.randn(1).expand(4), torch.randn(4).to_sparse()):
        assert not Row(alone).suits()
    with torch.inference_mode():
        assert not Row(torch.randn(4)).suits()


def test_gradients_that_the_kernel_cannot_take_are_refused() -> None:
    weight, other = torch.randn(4, 6).t(), torch.randn(10)
    table = Table("sgd", [Row(weight, True), Row(other, True)])
    fine, aside = torch.randn(4, 6).t(), torch.randn(10)
    assert table.take([fine, None])
    assert table.take([None, aside])
    assert table.take([fine, aside])
    shared = torch.randn(34)
    for gradients in (
        [fine.contiguous(), aside],
        [fine.double(), aside],
        [fine, torch.randn(12)],
        [fine, aside.to_sparse()],
        [fine, torch.zeros(1).expand(10)],
        [fine, torch._neg_view(aside)],
        [fine, torch._efficientzerotensor(10)],
        [fine, other],
        [shared[:24].view(4, 6).t(), shared[20:30]],
    ):
        assert not table.take(gradients)


def test_a_tensor_that_moved_is_noticed() -> None:
    weight = torch.randn(10)
    table = Table("sgd", [Row(weight, True)])
    assert table.holds()
    weight.data = torch.randn(10)
    assert not table.holds()
