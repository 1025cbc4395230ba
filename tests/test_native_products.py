"""The native products of a pointwise convolution, as the other kernels are tested."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests.conftest import RUNNABLE, using
from tests.test_native import assert_agree, dtype, image, operator_of, results
from torch import Tensor, nn

from depthwise import native

__all__ = ["dtype"]  # the fixture


def native_on(dtype: torch.dtype) -> list[str]:
    """The paths on which the products are the kernels' own."""
    return [path for path in RUNNABLE if path != ("avx2" if dtype is torch.float32 else "amx")]


def pointwise_of(channels: int, out: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, 1, bias=False)
    nn.init.normal_(conv.weight, std=channels**-0.5, generator=torch.Generator().manual_seed(5))
    conv.weight.data = conv.weight.data.bfloat16().float()
    return conv


@pytest.mark.parametrize(
    ("shape", "out", "stride"),
    [
        ((1, 2, 1, 1), 2, 1),
        ((3, 10, 7, 5), 6, 1),
        ((1, 728, 5, 5), 130, 1),
        ((2, 64, 9, 7), 200, 2),
        ((5, 48, 40, 35), 24, 1),  # a sum over pixels in several chunks
    ],
)
def test_pointwise(dtype: torch.dtype, shape: tuple[int, ...], out: int, stride: int) -> None:
    def make() -> tuple[Callable[..., Tensor], list[nn.Module]]:
        conv = pointwise_of(shape[1], out)
        return lambda x: native.pointwise_conv2d(x, conv.weight, stride), [conv]

    assert_agree(make, [image(*shape, dtype=dtype)], native_on(dtype))


def test_bits_of_products_do_not_depend_on_the_threads(dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    conv, x = pointwise_of(40, 56), image(3, 40, 59, 21, dtype=dtype)
    try:
        for path in native_on(dtype):
            outcomes = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                with using(path):
                    found = results(
                        lambda x: native.pointwise_conv2d(x, conv.weight, 1), [conv], [x], double=False
                    )
                outcomes.append([t.clone() for t in found])
            for outcome in outcomes[1:]:
                assert all(torch.equal(a, b) for a, b in zip(outcomes[0], outcome, strict=True))
    finally:
        torch.set_num_threads(before)


def test_pointwise_falls_back(path: str) -> None:
    conv, x = pointwise_of(6, 4), image(2, 6, 5, 4).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert operator_of(native.pointwise_conv2d(x, conv.weight, 1)) == "ConvolutionBackward0"
        for odd in (pointwise_of(6, 3), pointwise_of(5, 4)):
            part = x[:, : odd.in_channels].bfloat16().contiguous(memory_format=torch.channels_last)
            y = native.pointwise_conv2d(part, odd.weight, 1)
            assert operator_of(y) != "PointwiseBackward"
            torch.testing.assert_close(y, F.conv2d(part, odd.weight))
    with torch.no_grad():
        assert native.pointwise_conv2d(x, conv.weight, 1).grad_fn is None
    y = native.pointwise_conv2d(x.double(), conv.weight.double(), 1)
    torch.testing.assert_close(y, F.conv2d(x.double(), conv.weight.double()))


def test_pointwise_gives_only_the_gradients_that_are_asked_for(path: str) -> None:
    conv, x = pointwise_of(8, 12), image(2, 8, 5, 4)
    dy = image(2, 12, 5, 4, seed=1)
    x.requires_grad_()
    both = torch.autograd.grad(native.pointwise_conv2d(x, conv.weight, 1), [x, conv.weight], dy)
    frozen = native.pointwise_conv2d(x, conv.weight.detach(), 1)
    torch.testing.assert_close(torch.autograd.grad(frozen, x, dy)[0], both[0])
    first = native.pointwise_conv2d(x.detach(), conv.weight, 1)
    torch.testing.assert_close(torch.autograd.grad(first, conv.weight, dy)[0], both[1])
