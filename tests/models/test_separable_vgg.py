"""The VGG-like separable network: its budget, its plan, and that it trains."""

import re
from typing import Any

import pytest
import torch

from depthwise.analysis.cost import cost
from depthwise.errors import DepthwiseError
from depthwise.layers import ConvNorm, MaxPool2d, Residual, SeparableConv2d
from depthwise.models.network import Network
from depthwise.models.separable_vgg import separable_vgg


def small(**arguments: Any) -> Network:
    """A network for 16x16 that runs in milliseconds."""
    arguments = {"num_classes": 10, "in_channels": 1, "width": 0.125, "stem": "small"} | arguments
    torch.manual_seed(0)
    return separable_vgg(**arguments)


def test_parameters_are_those_of_inception_v3_within_half_a_percent() -> None:
    """23,626,728 is what Chollet 2017, Table 3, counts for Inception V3."""
    bill = cost(separable_vgg(), (3, 299, 299))
    assert bill.trainable == 23_594_024
    assert bill.trainable == pytest.approx(23_626_728, rel=0.005)
    assert bill.macs == pytest.approx(6.42e9, rel=0.005)


def test_a_stack_of_13_convolutions_and_4_poolings_without_residuals() -> None:
    network = separable_vgg(width=0.125).eval()
    modules = list(network.modules())
    assert sum(isinstance(m, ConvNorm) for m in modules) == 13
    assert sum(isinstance(m, SeparableConv2d) for m in modules) == 12
    assert sum(isinstance(m, MaxPool2d) for m in modules) == 4
    assert not any(isinstance(m, Residual) for m in modules)
    with torch.no_grad():
        maps = network.features(torch.randn(1, 3, 299, 299))
    assert [x.shape[2] for x in maps.values()] == [150, 75, 38, 19, 10]
    assert {name: x.shape[1] for name, x in maps.items()} == network.feature_channels


def test_depth_and_width_are_data() -> None:
    network = small(width=1, widths=[[16], [24, 32]], conv="segments-8")
    assert network.feature_channels == {"stride1": 16, "stride2": 32}
    assert network.min_size == 2
    assert network(torch.randn(2, 1, 9, 8)).shape == (2, 10)


def test_errors_name_the_value() -> None:
    with pytest.raises(
        DepthwiseError,
        match=re.escape("widths=((8,), ()): () must hold 1 to 256 values"),
    ):
        small(widths=((8,), ()))
    with pytest.raises(DepthwiseError, match=re.escape("0,): 0 must be at least 1 and at most 65,536")):
        small(widths=((8,), (0,)))
    with pytest.raises(
        DepthwiseError, match=re.escape("conv='segments-3' must cut 16, 32, 64, 248 channels into equal")
    ):
        small(conv="segments-3")
