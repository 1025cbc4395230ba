"""The shared blocks against the dumbest implementation: a NumPy loop."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from depthwise.errors import DepthwiseError
from depthwise.layers import (
    ConvNorm,
    MaxPool2d,
    PointwiseConv2d,
    SeparableConv2d,
    check_input,
    initialise,
    same_pad,
    scale_width,
)

Array = NDArray[np.float64]


def windows(x: Array, kernel: int, stride: int, fill: float) -> Array:
    """SAME windows of x [N, C, H, W] as [N, C, H', W', kernel, kernel], one at a time."""
    n, c, height, width = x.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    top = max((out_height - 1) * stride + kernel - height, 0) // 2
    left = max((out_width - 1) * stride + kernel - width, 0) // 2
    result = np.full((n, c, out_height, out_width, kernel, kernel), fill)
    for i, j, di, dj in np.ndindex(out_height, out_width, kernel, kernel):
        row, column = i * stride - top + di, j * stride - left + dj
        if 0 <= row < height and 0 <= column < width:
            result[:, :, i, j, di, dj] = x[:, :, row, column]
    return result


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (10, 5), (2, 1)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3, 17])
def test_separable_convolution_equals_the_loop(
    channels: int, kernel: int, stride: int, height: int, width: int
) -> None:
    layer = SeparableConv2d(channels, 5, kernel, stride).double()
    x = torch.randn(2, channels, height, width, dtype=torch.float64)
    depthwise = layer.depthwise.weight.detach().numpy()[:, 0]
    pointwise = layer.pointwise.weight.detach().numpy()[:, :, 0, 0]

    spatial = np.einsum("nchwij,cij->nchw", windows(x.numpy(), kernel, stride, 0.0), depthwise)
    expected = np.einsum("nchw,kc->nkhw", spatial, pointwise)

    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (3, 1), (5, 3)])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (10, 5), (2, 1)])
def test_max_pooling_equals_the_loop(kernel: int, stride: int, height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    expected = windows(x.numpy(), kernel, stride, -np.inf).max(axis=(4, 5))
    np.testing.assert_array_equal(MaxPool2d(kernel, stride)(x).numpy(), expected)


def test_same_pad_puts_the_odd_pixel_after() -> None:
    assert same_pad(74, 3, 2) == (0, 1)
    assert same_pad(147, 3, 2) == (1, 1)
    assert same_pad(28, 5, 1) == (2, 2)
    assert same_pad(8, 1, 2) == (0, 0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_pointwise_is_a_convolution_forwards_and_backwards(
    stride: int, layout: torch.memory_format, dtype: torch.dtype, tolerance: float
) -> None:
    layer = PointwiseConv2d(17, 12, stride).to(dtype)
    x = torch.randn(3, 17, 9, 6).to(dtype).contiguous(memory_format=layout).requires_grad_()
    upstream = torch.randn(3, 12, -(-9 // stride), -(-6 // stride))

    y = layer(x)
    y.backward(upstream.to(dtype))
    reference = [tensor.detach().float().requires_grad_() for tensor in (x, layer.weight)]
    expected = F.conv2d(*reference, stride=stride)
    expected.backward(upstream)

    for ours, theirs in zip(
        (y, x.grad, layer.weight.grad), (expected, *(t.grad for t in reference)), strict=True
    ):
        assert ours is not None
        assert theirs is not None
        assert (ours.float() - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_between_stands_between_depthwise_and_pointwise() -> None:
    layer = SeparableConv2d(4, 6, between=nn.ReLU)
    x = torch.randn(1, 4, 7, 7)
    expected = F.conv2d(
        F.relu(F.conv2d(x, layer.depthwise.weight, padding=1, groups=4)), layer.pointwise.weight
    )
    torch.testing.assert_close(layer(x), expected)


def test_conv_norm_uses_the_constants_of_the_published_weights() -> None:
    norm = ConvNorm(nn.Conv2d(3, 8, 1, bias=False), 8).norm
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)


def test_initialisation_keeps_the_variance_in_depthwise_and_regular_convolutions() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(SeparableConv2d(512, 512), nn.Conv2d(64, 256, 3), nn.Linear(512, 100))
    initialise(network)
    deviations = [float(parameter.detach().std()) for parameter in network.parameters() if parameter.ndim > 1]
    expected = [(2 / 9) ** 0.5, (2 / 512) ** 0.5, (2 / 576) ** 0.5, 0.01]
    assert deviations == pytest.approx(expected, rel=0.05)
    assert not network[2].bias.any()


def test_widths_scale_to_multiples_of_eight() -> None:
    assert [scale_width(c, 1.0) for c in (32, 728, 2048, 5)] == [32, 728, 2048, 5]
    assert [scale_width(c, 0.25) for c in (32, 64, 728, 2048)] == [8, 16, 184, 512]
    assert scale_width(8, 0.01) == 8
    assert scale_width(728, 1.5) == 1096
    assert [scale_width(c, (0.25, 1)) for c in (32, 64, 730, 2)] == [8, 16, 183, 1]
    assert [scale_width(c, (0.125, 4), multiple=6) for c in (96, 700)] == [12, 84]
    assert scale_width(1280, (0.25, 2), at_least=1.0) == 1280


def test_an_input_that_does_not_fit_is_named() -> None:
    check_input(torch.zeros(1, 3, 71, 99), 3, 71)
    with pytest.raises(
        DepthwiseError,
        match=re.escape(
            "an image of 80x70 is below this network's minimum of 71x71: enlarge it, or build the network"
        )
        + '.*stem="small"',
    ):
        check_input(torch.zeros(1, 3, 80, 70), 3, 71)
    with pytest.raises(
        DepthwiseError, match=re.escape("[1, 1, 80, 80] does not fit this network's [N, 3, H, W]")
    ):
        check_input(torch.zeros(1, 1, 80, 80), 3, 71)
    with pytest.raises(DepthwiseError, match=re.escape("[3, 80, 80] does not fit")):
        check_input(torch.zeros(3, 80, 80), 3, 71)


def test_a_narrow_strided_pointwise_trains_without_harm() -> None:
    """PyTorch 2.14's own strided 1x1 backward corrupts memory at these shapes: the process would die here."""
    script = """
import torch
from depthwise.layers import PointwiseConv2d
for channels in (8, 12):
    for batch in (7, 25):
        conv = PointwiseConv2d(channels, channels, stride=2)
        for _ in range(20):
            x = torch.randn(batch, channels, 14, 14).to(memory_format=torch.channels_last).requires_grad_()
            conv(x).sum().backward()
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "alive\n", done.stderr
