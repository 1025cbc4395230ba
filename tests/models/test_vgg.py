"""VGG-16 against torchvision and timm, under the same weights."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.models import create_model
from depthwise.models.network import Network
from depthwise.models.vgg import vgg16
from depthwise.weights import translate


def small(**arguments: Any) -> Network:
    """A network for 16x16 that runs in milliseconds."""
    arguments = {"num_classes": 10, "in_channels": 1, "width": 0.125, "stem": "small"} | arguments
    torch.manual_seed(0)
    return vgg16(**arguments)


@pytest.mark.parametrize("source", ["torchvision", "timm"])
@pytest.mark.parametrize("model", ["vgg16", "vgg16_bn"])
def test_equal_to_the_peers(
    model: str,
    source: str,
    randomise: Callable[[nn.Module], None],
    difference: Callable[[Tensor, Tensor], float],
) -> None:
    """timm slides its fully connected layers over maps above 7x7, so the odd size is one below."""
    if source == "timm":
        theirs = import_module("timm").create_model(model, pretrained=False)
    else:
        theirs = torchvision.models.get_model(model)
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.bias, std=0.1)
    randomise(theirs)
    weights, arguments = translate(theirs.state_dict(), source=source, model=model)
    with torch.device("meta"):
        ours = create_model(model, **arguments)
    ours.load_state_dict(weights, assign=True)
    theirs.eval()
    ours.eval()
    for size in ((224, 224), (197, 75)):
        x = torch.randn(1, 3, *size)
        with torch.inference_mode():
            assert difference(ours(x), theirs(x)) < 1e-4


def test_feature_maps_are_those_before_each_pooling() -> None:
    network = small(batch_norm=True).eval()
    x = torch.randn(2, 1, 32, 48)
    features = network.features(x)
    assert {key: tuple(map_.shape[1:]) for key, map_ in features.items()} == {
        "stride1": (16, 32, 48),
        "stride2": (32, 16, 24),
        "stride4": (64, 8, 12),
        "stride8": (64, 4, 6),
        "stride16": (64, 2, 3),
    }
    assert network.pooled(x).shape == (2, network.num_features) == (2, 512)
    torch.testing.assert_close(network.classifier(network.pooled(x)), network(x))


def test_min_size() -> None:
    network = vgg16(10, width=0.125, hidden=(8,)).eval()
    assert network.min_size == 32
    assert network(torch.randn(1, 3, 32, 45)).shape == (1, 10)
    with pytest.raises(DepthwiseError, match=re.escape("an image of 31x40 is below this network's minimum")):
        network(torch.zeros(1, 3, 31, 40))


def test_the_signal_keeps_its_size_without_batch_norm() -> None:
    for width in (0.25, 1.0):
        pooled = small(width=width).eval().pooled(torch.randn(8, 1, 32, 32))
        assert 0.1 < pooled.square().mean().sqrt() < 10


def test_the_papers_own_start_is_drawn_with_one_deviation() -> None:
    torch.manual_seed(0)
    layers = [layer for layer in small(init_std=0.01).modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 16
    for layer in layers[3:]:
        assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.1)


def test_errors_name_the_value() -> None:
    with pytest.raises(DepthwiseError, match=re.escape("blocks=((8,), ()): () must hold 1 to 256 values")):
        small(blocks=((8,), ()))
    with pytest.raises(DepthwiseError, match=re.escape("hidden=(0,): 0 must be at least 1")):
        small(hidden=(0,))


def test_without_hidden_layers_it_averages_the_maps() -> None:
    network = small(hidden=()).eval()
    x = torch.randn(2, network.in_channels, 40, 33)
    with torch.no_grad():
        last = list(network.features(x).values())[-1]
        torch.testing.assert_close(network.pooled(x), last.mean((2, 3)))
        torch.testing.assert_close(network(x), network.classifier(last.mean((2, 3))))
