"""MobileNet V1 against the paper's tables and against timm's network."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise.analysis.cost import cost
from depthwise.errors import DepthwiseError, UsageError
from depthwise.layers import PointwiseConv2d
from depthwise.models.mobilenet_v1 import mobilenet_v1
from depthwise.models.network import Network
from depthwise.weights import LAYOUTS

Randomise = Callable[[nn.Module], None]
Difference = Callable[[Tensor, Tensor], float]


def small(**arguments: Any) -> Network:
    """A network for 16x16 that runs in milliseconds."""
    arguments = {"num_classes": 10, "in_channels": 1, "width": 0.125, "stem": "small"} | arguments
    torch.manual_seed(0)
    return mobilenet_v1(**arguments)


@pytest.mark.parametrize(
    ("width", "size", "parameters", "millions", "mult_adds"),
    [
        (1.0, 224, 4_231_976, 4.2, 569),
        (0.75, 224, 2_585_560, 2.6, 325),
        (0.5, 224, 1_331_592, 1.3, 149),
        (0.25, 224, 470_072, 0.5, 41),
        (1.0, 192, 4_231_976, 4.2, 418),
        (1.0, 160, 4_231_976, 4.2, 290),
        (1.0, 128, 4_231_976, 4.2, 186),
    ],
)
def test_both_multipliers_give_the_published_numbers(
    width: float, size: int, parameters: int, millions: float, mult_adds: int
) -> None:
    """Howard 2017, Tables 6 and 7: whole millions, not always rounded up; the exact counts are Keras'."""
    bill = cost(mobilenet_v1(width=width), (3, size, size))
    assert bill.parameters == bill.trainable == parameters
    assert round(parameters / 1e6, 1) == millions
    assert bill.macs == pytest.approx(mult_adds * 1e6, abs=1e6)


def test_28_layers_with_the_maps_of_table_1() -> None:
    network = mobilenet_v1(width=0.125).eval()
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | PointwiseConv2d | nn.Linear)]
    assert len(layers) == 28
    assert sum(isinstance(m, nn.ReLU6) for m in network.modules()) == 27
    assert (network.input_size, network.min_size, network.dropout.p) == (224, 32, 1e-3)
    with torch.no_grad():
        maps = network.features(torch.randn(1, 3, 224, 224))
    assert {name: x.shape[2] for name, x in maps.items()} == {
        "stride2": 112,
        "stride4": 56,
        "stride8": 28,
        "stride16": 14,
        "stride32": 7,
    }
    assert {name: x.shape[1] for name, x in maps.items()} == network.feature_channels


@pytest.mark.parametrize("name", ["mobilenetv1_100", "mobilenetv1_100h", "mobilenetv1_125"])
def test_equal_to_timm(name: str, randomise: Randomise, difference: Difference) -> None:
    timm = import_module("timm")
    theirs = timm.create_model(name, pretrained=False).eval()
    randomise(theirs)
    translation = LAYOUTS["timm"][name].translate(theirs.state_dict())
    ours = mobilenet_v1(**translation.arguments).eval()
    ours.load_state_dict(translation.weights)
    for size in ((224, 224), (161, 127)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            last, maps = theirs.forward_intermediates(x)
            # The map of stride 32 is the last one here, and the one before the head among theirs.
            for feature, expected in zip(ours.features(x).values(), [*maps[:-1], last], strict=True):
                assert difference(feature, expected) < 1e-4
            assert difference(ours(x), theirs(x)) < 1e-4


def test_weights_start_as_in_the_release() -> None:
    network = mobilenet_v1(width=0.25)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | PointwiseConv2d | nn.Linear):
            assert module.weight.abs().max() <= 0.18
        if isinstance(module, PointwiseConv2d) and module.weight.numel() > 1000:
            # Cut off at two deviations a normal distribution keeps 0.88 of its deviation.
            assert module.weight.std().item() == pytest.approx(0.88 * 0.09, rel=0.1)
    assert not network.classifier.bias.any()


def test_depth_and_width_are_data() -> None:
    network = small(width=1, widths=[[16], [24, 24], [40]])
    assert [len(stage) for stage in network.stages[1:]] == [1, 2, 1]
    assert network.min_size == 4
    assert network.feature_channels == {"stride1": 16, "stride2": 24, "stride4": 40}
    assert network(torch.randn(2, 1, 9, 8)).shape == (2, 10)


def test_errors_name_the_value() -> None:
    with pytest.raises(DepthwiseError, match=re.escape("0,): 0 must be at least 1 and at most 65,536")):
        small(widths=((8,), (0,)))
    with pytest.raises(DepthwiseError, match=re.escape("widths=((8,), ()): () must hold 1 to 256 values")):
        small(widths=((8,), ()))
    with pytest.raises(DepthwiseError, match=re.escape("head=-1 must be at least 0 and at most 65,536")):
        small(head=-1)
    with pytest.raises(UsageError, match=re.escape("unknown padding 'valid': use one of")):
        small(padding="valid")
    with pytest.raises(
        DepthwiseError, match=re.escape("an image of 31x40 is below this network's minimum of 32x32")
    ):
        mobilenet_v1(width=0.125)(torch.zeros(1, 3, 31, 40))
