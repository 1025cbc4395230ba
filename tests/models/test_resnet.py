"""The ResNet family against torchvision and timm, under the same weights."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from depthwise.analysis.cost import multiply_adds
from depthwise.errors import DepthwiseError, UsageError
from depthwise.layers import SqueezeExcite
from depthwise.models import create_model
from depthwise.models.network import Network
from depthwise.models.resnet import resnet, resnet50, resnext50_32x4d, senet154
from depthwise.weights import translate

Randomise = Callable[[nn.Module], None]
Difference = Callable[[Tensor, Tensor], float]

# Model, source, its name there. At 224 and an odd size, which the pooling of the Caffe networks sees otherwise.
PEERS = [
    ("resnet50", "torchvision", "resnet50"),
    ("resnet101", "torchvision", "resnet101"),
    ("resnet152", "torchvision", "resnet152"),
    ("resnext50_32x4d", "torchvision", "resnext50_32x4d"),
    ("resnext101_32x8d", "torchvision", "resnext101_32x8d"),
    ("resnet50", "timm", "resnet50"),
    ("resnext50_32x4d", "timm", "resnext50_32x4d"),
    ("se_resnet50", "timm", "legacy_seresnet50"),
    ("se_resnext50_32x4d", "timm", "legacy_seresnext50_32x4d"),
    ("senet154", "timm", "legacy_senet154"),
    ("se_resnet50", "timm", "seresnet50"),
    ("se_resnext50_32x4d", "timm", "seresnext50_32x4d"),
]


def peer(source: str, name: str) -> Any:
    if source == "timm":
        # Its SE networks drop a fifth of the features unless told otherwise, where only SENet-154's authors did.
        return import_module("timm").create_model(name, pretrained=False, drop_rate=0.0)
    return torchvision.models.get_model(name)


def moved(theirs: nn.Module, source: str, model: str) -> Any:
    """Our `model` with their weights, by the road that files take."""
    weights, arguments = translate(theirs.state_dict(), source=source, model=model)
    with torch.device("meta"):
        ours = create_model(model, **arguments)
    ours.load_state_dict(weights, assign=True)
    return ours


def small(**arguments: Any) -> Network:
    """A network for 16x16 that runs in milliseconds."""
    given = {"num_classes": 10, "in_channels": 1, "width": 0.125, "stem": "small", "depths": (1, 2, 1, 1)}
    torch.manual_seed(0)
    return resnet(**(given | arguments))


@pytest.mark.parametrize(("model", "source", "name"), PEERS)
def test_equal_to_the_peers(
    model: str, source: str, name: str, randomise: Randomise, difference: Difference
) -> None:
    theirs = peer(source, name)
    randomise(theirs)
    ours = moved(theirs, source, model)
    theirs.eval()
    ours.eval()
    for size in ((224, 224), (97, 75)):
        x = torch.randn(1, 3, *size)
        with torch.inference_mode():
            assert difference(ours(x), theirs(x)) < 1e-4


def test_feature_maps_are_torchvisions(randomise: Randomise, difference: Difference) -> None:
    theirs = peer("torchvision", "resnext50_32x4d").eval()
    randomise(theirs)
    ours = moved(theirs, "torchvision", "resnext50_32x4d").eval()
    names = {
        "relu": "stride2",
        "layer1": "stride4",
        "layer2": "stride8",
        "layer3": "stride16",
        "layer4": "stride32",
    }
    x = torch.randn(1, 3, 97, 128)
    with torch.no_grad():
        expected = create_feature_extractor(theirs, names)(x)
        features = ours.features(x)
        pooled = ours.pooled(x)
        assert list(features) == list(names.values())
        for key in features:
            assert difference(features[key], expected[key]) < 1e-4
            assert features[key].shape[1] == ours.feature_channels[key]
        assert difference(pooled, expected["stride32"].mean((2, 3))) < 1e-4


def test_gradients_are_timms(difference: Difference) -> None:
    """In training mode; in float64, because timm's own float32 is up to 0.2 away from that on maps this small."""
    theirs = peer("timm", "legacy_seresnext50_32x4d").double().train()
    ours = moved(theirs, "timm", "se_resnext50_32x4d").train()
    x, target = torch.randn(4, 3, 64, 64, dtype=torch.float64), torch.arange(4)
    for network in (theirs, ours):
        nn.functional.cross_entropy(network(x), target).backward()
    expected, _ = translate(
        {name: p.grad for name, p in theirs.named_parameters()}, source="timm", model="se_resnext50_32x4d"
    )
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert difference(gradient, expected[name]) < 1e-3, name


def test_the_papers_place_of_the_stride() -> None:
    """He 2016, Table 1: 3.8, 7.6 and 11.3 billion multiply-adds."""
    for depth, billions in ((50, 3.8), (101, 7.6), (152, 11.3)):
        with torch.device("meta"):
            network = create_model(f"resnet{depth}", stride_in="1x1")
        # The paper's figures are cut off or rounded after the first digit.
        assert multiply_adds(network, (3, 224, 224)) / 1e9 == pytest.approx(billions, abs=0.1)


def test_width_keeps_groups_whole() -> None:
    for width in (0.125, 0.3, 0.5, 1.5):
        with torch.device("meta"):
            for builder in (resnet50, resnext50_32x4d, senet154):
                network = builder(width=width)
                for module in network.modules():
                    if isinstance(module, nn.Conv2d) and module.groups > 1:
                        assert module.groups in (32, 64)
                channels = network.feature_channels.values()
                assert all(c % 8 == 0 for c in channels)
    assert small(width=0.25, groups=32, group_width=4).feature_channels == {
        "stride1": 64,
        "stride2": 128,
        "stride4": 256,
        "stride8": 512,
    }


def test_a_gate_in_every_block_of_an_se_network() -> None:
    with torch.device("meta"):
        network = senet154()
    gates = [m for m in network.modules() if isinstance(m, SqueezeExcite)]
    assert network.dropout.p == 0.2
    assert len(gates) == 3 + 8 + 36 + 3
    assert all(gate.squeeze.out_channels == gate.squeeze.in_channels // 16 for gate in gates)


@pytest.mark.parametrize("pool", ["symmetric", "ceil"])
def test_min_size(pool: str) -> None:
    network = resnet(10, width=0.125, depths=(1, 1, 1, 1), pool=pool).eval()
    assert network.min_size == 32
    assert network.stages(torch.randn(1, 3, 32, 45)).shape[2:] == (1, 2)
    with pytest.raises(DepthwiseError, match=re.escape("an image of 31x40 is below this network's minimum")):
        network(torch.zeros(1, 3, 31, 40))


def test_errors_name_the_value() -> None:
    with pytest.raises(
        DepthwiseError, match=re.escape("depths=(3, 0): 0 must be at least 1 and at most 256")
    ):
        resnet(depths=(3, 0))
    with pytest.raises(DepthwiseError, match=re.escape("groups=0 must be at least 1 and at most 1,024")):
        resnet(groups=0)
    with pytest.raises(DepthwiseError, match=re.escape("skip_size=2 must be 1 or 3 or 5 or 7")):
        resnet(skip_size=2)
    with pytest.raises(UsageError, match=re.escape("unknown stride_in '5x5': use one of")):
        resnet(stride_in="5x5")
    with pytest.raises(UsageError, match=re.escape("unknown pool 'same': use one of ceil, symmetric")):
        resnet(pool="same")
