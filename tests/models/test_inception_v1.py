"""GoogLeNet against torchvision's, and its first weights against the published distribution."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import googlenet

from depthwise.analysis.cost import multiply_adds
from depthwise.errors import DepthwiseError
from depthwise.layers import MaxPool2d
from depthwise.models.inception_v1 import inception_v1
from depthwise.weights import translate


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_parameters_and_work_are_torchvisions() -> None:
    with torch.device("meta"):
        assert count(inception_v1()) == 6_624_904
        assert count(inception_v1(aux=True)) == 13_004_888
        assert multiply_adds(inception_v1(), (3, 224, 224)) == 1_498_376_192


def test_equal_to_torchvision(
    randomise: Callable[[nn.Module], None], difference: Callable[[Tensor, Tensor], float]
) -> None:
    theirs = googlenet(weights=None, aux_logits=True, init_weights=False).eval()
    randomise(theirs)
    weights, arguments = translate(theirs.state_dict(), "torchvision", "inception_v1")
    assert arguments["aux"]
    ours = inception_v1(**arguments).eval()
    ours.load_state_dict(weights)
    with torch.no_grad():
        for size in ((224, 224), (225, 161)):
            x = torch.randn(2, 3, *size)
            assert difference(ours(x), theirs(x)) < 1e-4
        for ours_tower, theirs_tower in zip(ours.aux.values(), (theirs.aux1, theirs.aux2), strict=True):
            x = torch.randn(2, theirs_tower.conv.conv.in_channels, 14, 14)
            assert difference(ours_tower(x), theirs_tower(x)) < 1e-4


def test_in_training_both_towers_see_what_torchvisions_see(
    difference: Callable[[Tensor, Tensor], float],
) -> None:
    theirs = googlenet(weights=None, aux_logits=True, init_weights=False, dropout=0.0, dropout_aux=0.0)
    weights, arguments = translate(theirs.state_dict(), "torchvision", "inception_v1")
    ours = inception_v1(**arguments, dropout=0)
    ours.load_state_dict(weights)
    for tower in ours.aux.values():
        tower.dropout.p = 0
    x = torch.randn(4, 3, 96, 96)
    with torch.no_grad():
        logits, behind_4a, behind_4d = ours.train()(x)
        expected = theirs.train()(x)
    assert difference(logits, expected.logits) < 1e-4
    assert difference(behind_4a, expected.aux_logits1) < 1e-4
    assert difference(behind_4d, expected.aux_logits2) < 1e-4


def test_geometry_is_an_argument() -> None:
    """The paper's 5x5 and TensorFlow's padding, which makes ceil(side / 2) of every side."""
    with torch.device("meta"):
        wide = inception_v1(kernel_size=5)
    sides = [m.kernel_size for m in wide.modules() if isinstance(m, nn.Conv2d)]
    assert sides.count((5, 5)) == 9
    same = inception_v1(width=0.125, padding="same").eval()
    assert not any(isinstance(module, nn.MaxPool2d) for module in same.modules())
    assert sum(isinstance(m, MaxPool2d) and m.stride == 2 for m in same.modules()) == 4
    with torch.no_grad():
        assert same.stages(torch.randn(1, 3, 129, 97)).shape[2:] == (5, 4)
        symmetric = inception_v1(width=0.125).eval()
        assert symmetric.stages(torch.randn(1, 3, 129, 97)).shape[2:] == (4, 3)
    with pytest.raises(DepthwiseError, match=re.escape("kernel_size=4 must be 3 or 5")):
        inception_v1(kernel_size=4)


def test_weights_start_from_a_normal_distribution_cut_off() -> None:
    torch.manual_seed(0)
    weight = inception_v1().stages.mixed5[2].branches[1][1].conv.weight
    assert weight.abs().max() <= 0.02
    assert weight.std().item() == pytest.approx(0.01 * 0.8796, rel=0.01)
