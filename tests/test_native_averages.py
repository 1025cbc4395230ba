"""The native averages, as the other kernels are tested."""

import pytest
import torch
from tests.conftest import using
from tests.test_native import assert_agree, dtype, image, operator_of, results
from torch import Tensor, nn

from depthwise import native
from depthwise.layers import GlobalAverage, SqueezeExcite
from depthwise.native.averages import average_pool2d
from depthwise.native.fused import max_pool

__all__ = ["dtype"]  # the fixture

SHAPES = [(1, 1, 9, 4), (5, 3, 7, 5), (1, 17, 2, 1), (2, 64, 8, 6), (2, 728, 9, 9)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("kernel", [3, 5])
def test_average_pool(dtype: torch.dtype, shape: tuple[int, ...], kernel: int, count_padding: bool) -> None:
    pool = nn.AvgPool2d(kernel, 1, kernel // 2, count_include_pad=count_padding)
    assert_agree(lambda: (lambda x: average_pool2d(x, pool), []), [image(*shape, dtype=dtype)])


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 1),
        nn.AvgPool2d((3, 5), 1, (1, 2)),
        nn.AvgPool2d(3, 1, 1, divisor_override=2),
    ],
)
def test_other_average_pools_fall_back(pool: nn.AvgPool2d) -> None:
    x = image(2, 8, 9, 7).requires_grad_()
    y = average_pool2d(x, pool)
    assert operator_of(y) == "AvgPool2DBackward0"
    assert torch.equal(y, pool(x))


@pytest.mark.parametrize("size", [4, 5, 8, 9])
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 1, 1, ceil_mode=True),
        nn.MaxPool2d(2, 3, ceil_mode=True),
    ],
)
def test_max_pool_of_a_module(path: str, pool: nn.MaxPool2d, size: int) -> None:
    x = image(2, 20, size, size + 3).requires_grad_()
    y, want = max_pool(x, pool), pool(x)
    assert operator_of(y) == "MaxPoolBackward"
    assert torch.equal(y, want)
    dy = torch.randn_like(want)
    torch.testing.assert_close(torch.autograd.grad(y, x, dy)[0], torch.autograd.grad(want, x, dy)[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_global_mean(path: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, own = (image(*shape, dtype=dtype).requires_grad_() for _ in range(2))
    want, got = x.mean((2, 3)), native.global_mean(own)
    assert operator_of(got) == "_GlobalMeanBackward"
    torch.testing.assert_close(got, want)
    dy = torch.randn_like(want)
    want.backward(dy), got.backward(dy)
    torch.testing.assert_close(own.grad, x.grad)
    assert own.grad is not None
    assert own.grad.is_contiguous(memory_format=torch.channels_last)


def test_global_mean_of_a_graph_and_without_gradients_is_pytorchs() -> None:
    x = image(2, 16, 5, 6)
    with torch.no_grad():
        assert torch.equal(native.global_mean(x), x.mean((2, 3)))
    assert [node.op for node in torch.fx.symbolic_trace(GlobalAverage()).graph.nodes] == [
        "placeholder",
        "call_method",
        "output",
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_squeeze_and_excitation(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    def make() -> tuple[nn.Module, list[nn.Module]]:
        torch.manual_seed(0)
        module = SqueezeExcite(shape[1], 4)
        return module, [module]

    assert_agree(make, [image(*shape, dtype=dtype)])


def test_squeeze_and_excitation_of_what_is_frozen(path: str) -> None:
    torch.manual_seed(0)
    module, x = SqueezeExcite(16, 4), image(2, 16, 5, 6)
    module.squeeze.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    module(leaf).square().sum().backward()
    assert module.squeeze.weight.grad is None
    found = [leaf.grad, module.excite.weight.grad]
    with using("off"):
        module.zero_grad()
        other = x.clone().requires_grad_()
        module(other).square().sum().backward()
    for got, want in zip(found, [other.grad, module.excite.weight.grad], strict=True):
        torch.testing.assert_close(got, want)
    module(x).sum().backward()  # the map itself needs no gradient


def test_hooks_of_a_gate_see_it_once(path: str) -> None:
    module, seen = SqueezeExcite(16, 4), []
    module.excite.register_forward_hook(lambda *_: seen.append(1))
    module(image(2, 16, 5, 6).requires_grad_()).sum().backward()
    assert seen == [1]


def test_bits_of_averages_do_not_depend_on_the_threads(path: str, dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    pool = nn.AvgPool2d(3, 1, 1)
    outcomes: list[list[Tensor]] = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x = image(3, 40, 19, 21, dtype=dtype)
            found = results(
                lambda x: average_pool2d(native.gated(x, torch.sigmoid, []), pool), [], [x], double=False
            )
            outcomes.append([t.clone() for t in found])
    finally:
        torch.set_num_threads(before)
    for outcome in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], outcome, strict=True))
