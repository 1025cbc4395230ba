"""MobileNet V2 against the paper's table and against torchvision's and timm's networks."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2 as torchvision_mobilenet_v2

from depthwise.analysis.cost import cost
from depthwise.errors import DepthwiseError
from depthwise.layers import ConvNorm, PointwiseConv2d, Residual
from depthwise.models.mobilenet_v2 import mobilenet_v2
from depthwise.models.network import Network
from depthwise.weights import LAYOUTS, translate

Randomise = Callable[[nn.Module], None]
Difference = Callable[[Tensor, Tensor], float]


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def small(**arguments: Any) -> Network:
    """A network for 16x16 that runs in milliseconds."""
    arguments = {"num_classes": 10, "in_channels": 1, "width": 0.125, "stem": "small", "head": 64} | arguments
    torch.manual_seed(0)
    return mobilenet_v2(**arguments)


def test_the_published_numbers() -> None:
    """Sandler 2018, Table 4: 3.4 million parameters (without biases), 300 million multiply-adds; 585 at 1.4."""
    bill = cost(mobilenet_v2(), (3, 224, 224))
    assert bill.parameters == bill.trainable == 3_504_872
    assert bill.macs == pytest.approx(300e6, rel=0.005)
    assert cost(mobilenet_v2(width=1.4), (3, 224, 224)).macs == pytest.approx(585e6, rel=0.005)


def test_17_bottlenecks_of_which_10_are_residual() -> None:
    network = mobilenet_v2(width=0.5).eval()
    linear = [
        m
        for m in network.stages.modules()
        if isinstance(m, ConvNorm) and isinstance(m.activation, nn.Identity)
    ]
    assert len(linear) == 17
    assert sum(isinstance(m, Residual) for m in network.modules()) == 10
    assert network.dropout.p == 0.2
    with torch.no_grad():
        maps = network.features(torch.randn(1, 3, 224, 224))
    assert [x.shape[2] for x in maps.values()] == [112, 56, 28, 14, 7]
    assert {name: x.shape[1] for name, x in maps.items()} == network.feature_channels
    assert network.feature_channels["stride32"] == 1280


@pytest.mark.parametrize("width", [0.25, 0.35, 0.5, 0.6, 0.75, 1.0, 1.3, 1.4, 2.0])
def test_width_rounds_as_torchvision_does(width: float) -> None:
    with torch.device("meta"):
        ours, theirs = mobilenet_v2(width=width), torchvision_mobilenet_v2(width_mult=width)
    assert [p.shape[0] for p in ours.parameters()] == [p.shape[0] for p in theirs.parameters()]
    assert count(ours) == count(theirs)


def test_equal_to_torchvision_feature_by_feature(randomise: Randomise, difference: Difference) -> None:
    theirs = torchvision_mobilenet_v2().eval()
    randomise(theirs)
    weights, arguments = translate(theirs.state_dict(), source="torchvision", model="mobilenet_v2")
    ours = mobilenet_v2(**arguments).eval()
    ours.load_state_dict(weights)
    for size in ((224, 224), (161, 127)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert difference(ours(x), theirs(x)) < 1e-4
            maps, y = ours.features(x), x
            expected = []
            for i, block in enumerate(theirs.features):
                y = block(y)
                if i in (1, 3, 6, 13, 18):
                    expected.append(y)
            for feature, their_feature in zip(maps.values(), expected, strict=True):
                assert difference(feature, their_feature) < 1e-4


@pytest.mark.parametrize("variant", ["035", "050", "075", "100", "140", "110d", "120d"])
def test_equal_to_timm(variant: str, randomise: Randomise, difference: Difference) -> None:
    timm = import_module("timm")
    name = f"mobilenetv2_{variant}"
    theirs = timm.create_model(name, pretrained=False).eval()
    randomise(theirs)
    translation = LAYOUTS["timm"][name].translate(theirs.state_dict())
    ours = mobilenet_v2(**translation.arguments).eval()
    ours.load_state_dict(translation.weights)
    for size in ((224, 224), (161, 127)) if variant == "100" else ((96, 129),):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert difference(ours(x), theirs(x)) < 1e-4


def test_weights_start_as_in_the_release() -> None:
    network = mobilenet_v2(width=0.5)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | PointwiseConv2d | nn.Linear):
            assert module.weight.abs().max() <= 0.18
    # Cut off at two deviations a normal distribution keeps 0.88 of its deviation.
    assert network.classifier.weight.std().item() == pytest.approx(0.88 * 0.09, rel=0.01)
    assert not network.classifier.bias.any()


def test_depth_and_width_are_data() -> None:
    network = small(width=1, blocks=[[1, 16, 1, 1], [4, 24, 2, 2]], head=48)
    assert [type(block) for block in network.stages.bottleneck2] == [nn.Sequential, Residual]
    assert network.feature_channels == {"stride1": 16, "stride2": 48}
    assert network(torch.randn(2, 1, 9, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ((6, 16, 1), "(6, 16, 1) must hold 4 values"),
        ((6, 16, 1, 3), "blocks=(6, 16, 1, 3): 3 must be at least 1 and at most 2"),
        ((0, 16, 1, 1), "blocks=(0, 16, 1, 1): 0 must be at least 1 and at most 64"),
    ],
)
def test_a_wrong_row_is_named(row: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(DepthwiseError, match=re.escape(sentence)):
        small(blocks=((1, 16, 1, 1), row))
    with pytest.raises(DepthwiseError, match=re.escape("head=0 must be at least 1 and at most 65,536")):
        small(head=0)
