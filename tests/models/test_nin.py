"""NIN against the layers of its authors' Caffe model, and maxout against its definition."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise.analysis.cost import multiply_adds
from depthwise.errors import DepthwiseError
from depthwise.models.network import Network
from depthwise.models.nin import Maxout, nin, nin_maxout

Difference = Callable[[Tensor, Tensor], float]

# nin_imagenet, layer by layer: maps in and out, kernel, stride, padding; None is the 3x3/2 max pooling.
CAFFE = [
    *((3, 96, 11, 4, 0), (96, 96, 1, 1, 0), (96, 96, 1, 1, 0), None),
    *((96, 256, 5, 1, 2), (256, 256, 1, 1, 0), (256, 256, 1, 1, 0), None),
    *((256, 384, 3, 1, 1), (384, 384, 1, 1, 0), (384, 384, 1, 1, 0), None),
    *((384, 1024, 3, 1, 1), (1024, 1024, 1, 1, 0)),
]


def caffe() -> nn.Sequential:
    """The model up to the averages of the classes' maps, without the ReLU behind these."""
    layers = nn.Sequential()
    for layer in CAFFE:
        if layer is None:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        else:
            layers.extend([nn.Conv2d(*layer), nn.ReLU()])
    return layers.extend([nn.Conv2d(1024, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()])


def small(builder: Callable[..., Network] = nin, **arguments: Any) -> Network:
    """A network for 16x16 that runs in milliseconds."""
    arguments = {"num_classes": 10, "in_channels": 1, "width": 0.125, "stem": "small"} | arguments
    torch.manual_seed(0)
    return builder(**arguments)


def test_equal_to_the_authors_layers(difference: Difference) -> None:
    theirs, ours = caffe(), nin().eval()
    # Both have their layers in the order of the forward pass; the classifier is their last convolution.
    for tensor, value in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        tensor.copy_(value.view_as(tensor))
    for size in ((224, 224), (227, 227), (97, 115)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert difference(ours(x), theirs(x)) < 1e-4


def test_counts_are_the_sums_over_the_authors_layers() -> None:
    parameters = macs = 0
    side = 224
    for layer in CAFFE:
        if layer is None:
            side = -(-(side - 3) // 2) + 1
        else:
            in_channels, channels, size, stride, padding = layer
            side = (side + 2 * padding - size) // stride + 1
            parameters += channels * (in_channels * size**2 + 1)
            macs += channels * in_channels * size**2 * side**2
    assert side == 6
    assert parameters + 1000 * 1025 == 7_595_176 == sum(p.numel() for p in nin().parameters())
    assert macs + 1000 * 1024 == multiply_adds(nin(), (3, 224, 224))
    assert macs + 1000 * 1024 * side**2 == pytest.approx(1.100e9, rel=5e-4)


def test_maxout_is_the_largest_of_its_linear_maps() -> None:
    x = torch.randn(2, 6, 5, 7)
    assert torch.equal(Maxout(3)(x), torch.stack([x[:, 0:3].amax(1), x[:, 3:6].amax(1)], 1))
    network = nin_maxout(width=0.125, pieces=3)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [3 * c for c in (16, 32, 48, 128)]
    assert not any(isinstance(m, nn.ReLU) for m in network.modules())
    assert network.feature_channels == nin(width=0.125).feature_channels


def test_pooled_features_and_maps() -> None:
    network = nin(10, width=0.125).eval()
    x = torch.randn(2, 3, 224, 224)
    features = network.features(x)
    assert {key: tuple(map_.shape[1:]) for key, map_ in features.items()} == {
        "stride4": (16, 54, 54),
        "stride8": (32, 27, 27),
        "stride16": (48, 13, 13),
        "stride32": (128, 6, 6),
    }
    torch.testing.assert_close(network.pooled(x), features["stride32"].mean((2, 3)))


def test_min_size_is_the_smallest_that_works() -> None:
    network = nin(10, width=0.125).eval()
    assert network.min_size == 39
    assert network.stages(torch.randn(1, 3, 39, 60)).shape[2:] == (1, 1)
    with pytest.raises(DepthwiseError, match=re.escape("an image of 38x40 is below this network's minimum")):
        network(torch.zeros(1, 3, 38, 40))
    with pytest.raises(RuntimeError):
        network.stages(torch.zeros(1, 3, 38, 38))


def test_errors_name_the_value() -> None:
    with pytest.raises(DepthwiseError, match=re.escape("pieces=0 must be at least 1")):
        small(nin_maxout, pieces=0)
    with pytest.raises(DepthwiseError, match=re.escape("widths=(96,) must hold 2 to 12 values")):
        small(widths=(96,))
