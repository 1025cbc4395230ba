"""Inception V3 against the published counts and against torchvision's and timm's networks."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import inception_v3 as torchvision_inception_v3

from depthwise.analysis.cost import multiply_adds
from depthwise.errors import DepthwiseError
from depthwise.models.inception_v3 import inception_v3, inception_v3_table3
from depthwise.weights import translate

Randomise = Callable[[nn.Module], None]
Difference = Callable[[Tensor, Tensor], float]


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_parameters_and_work_are_the_published_ones() -> None:
    with torch.device("meta"):
        assert count(inception_v3()) == 23_834_568
        assert count(inception_v3(aux=True)) == 27_161_264
        assert multiply_adds(inception_v3(), (3, 299, 299)) == 5_713_216_096


def test_parameters_of_chollets_table_3() -> None:
    with torch.device("meta"):
        network = inception_v3_table3()
    assert count(network) == 23_626_728
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 94
    assert all(conv.bias is not None for conv in convolutions)
    blocks = [[tuple(p.shape) for p in block.parameters()] for block in network.stages.mixed5[2:]]
    assert blocks[0] == blocks[1]
    assert network.feature_channels["stride8"] == 256
    assert not any(m.count_include_pad for m in network.modules() if isinstance(m, nn.AvgPool2d))


def test_equal_to_torchvision(randomise: Randomise, difference: Difference) -> None:
    theirs = torchvision_inception_v3(init_weights=False, transform_input=False).eval()
    randomise(theirs)
    weights, arguments = translate(theirs.state_dict(), "torchvision", "inception_v3")
    assert arguments["aux"]
    with torch.device("meta"):
        ours = inception_v3(**arguments).eval()
    ours.load_state_dict(weights, assign=True)
    with torch.no_grad():
        for size in ((299, 299), (139, 171)):
            x = torch.randn(1, 3, *size)
            assert difference(ours(x), theirs(x)) < 1e-4
        x = torch.randn(2, 768, 17, 17)
        assert difference(ours.aux["mixed6"](x), theirs.AuxLogits(x)) < 1e-4


def test_features_of_each_stage_equal_timms(randomise: Randomise, difference: Difference) -> None:
    import timm

    theirs = timm.create_model("inception_v3", pretrained=False).eval()
    randomise(theirs)
    weights, arguments = translate(theirs.state_dict(), "timm", "inception_v3")
    with torch.device("meta"):
        ours = inception_v3(**arguments).eval()
    ours.load_state_dict(weights, assign=True)
    for size in ((299, 299), (139, 171)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            last, expected = theirs.forward_intermediates(x)
            maps = ours.features(x)
            assert list(maps) == ["stride2", "stride4", "stride8", "stride16", "stride32"]
            for y, their_y in zip(maps.values(), expected, strict=True):
                assert difference(y, their_y) < 1e-4
            assert difference(ours.pooled(x), last.mean((2, 3))) < 1e-4
            assert difference(ours.classifier(ours.pooled(x)), theirs.forward_head(last)) < 1e-4


def test_average_poolings_count_the_border_or_not() -> None:
    def pools(**arguments: bool) -> list[nn.AvgPool2d]:
        return [m for m in inception_v3(width=0.125, **arguments).modules() if isinstance(m, nn.AvgPool2d)]

    assert all(pool.count_include_pad for pool in pools())
    without = pools(count_padding=False)
    assert len(without) == 9
    torch.testing.assert_close(without[0](torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 5, 5))


def test_blocks_are_data() -> None:
    network = inception_v3(10, width=0.125, stem="small", projections=(16, 24, 32, 40))
    assert len(network.stages.mixed5) == 5
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 10)
    with pytest.raises(DepthwiseError, match=re.escape("projections=(0,): 0 must be at least 1")):
        inception_v3(projections=(0,))


def test_hidden_layers_stand_before_the_classifier() -> None:
    with torch.device("meta"):
        plain, deep = inception_v3(), inception_v3(fully_connected=(4096, 4096))
    added = 2048 * 4096 + 4096 + 4096 * 4096 + 4096 + 1000 * (4096 - 2048)
    assert sum(p.numel() for p in deep.parameters()) == sum(p.numel() for p in plain.parameters()) + added
    network = inception_v3(10, width=0.125, stem="small", fully_connected=(64, 32))
    assert network.pooled(torch.randn(2, 3, 16, 16)).shape == (2, 8)


def test_convolutions_start_he_normal_cut_off() -> None:
    torch.manual_seed(0)
    weight = inception_v3(width=0.5).stages.mixed7[1].branches[2][1].conv.weight
    deviation = (2 / weight[0].numel()) ** 0.5
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert weight.abs().max() <= 2 * 1.3**0.5 * deviation
