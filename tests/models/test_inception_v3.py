"""Inception V3 against the published counts and against torchvision's network."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import inception_v3 as torchvision_inception_v3

from depthwise.errors import DepthwiseError
from depthwise.models.inception_v3 import inception_v3
from depthwise.models.network import Network


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def small(**arguments: Any) -> Network:
    """A network for 16x16 that runs in milliseconds."""
    arguments = {"num_classes": 10, "in_channels": 1, "width": 0.125, "stem": "small"} | arguments
    torch.manual_seed(0)
    return inception_v3(**arguments)


def test_parameters_are_the_published_ones() -> None:
    assert count(inception_v3()) == 23_834_568
    assert count(inception_v3(aux=True)) == 27_161_264


def test_equal_to_torchvision(
    randomise: Callable[[nn.Module], None], difference: Callable[[Tensor, Tensor], float]
) -> None:
    theirs = torchvision_inception_v3(init_weights=False, transform_input=False)
    ours = inception_v3(aux=True)
    randomise(ours)
    # Both register their parts in the order of the forward pass, but for the tower, which stands last here.
    order = sorted(theirs.state_dict().items(), key=lambda item: (item[0][:2] == "fc", item[0][:3] == "Aux"))
    for value, (_, tensor) in zip(ours.state_dict().values(), order, strict=True):
        tensor.copy_(value)

    x = torch.randn(2, 3, 299, 299)
    with torch.no_grad():
        assert difference(ours.eval()(x), theirs.eval()(x)) < 1e-4
        trunk = ours.stages[:-1](x)
        assert trunk.shape == (2, 768, 17, 17)
        assert difference(ours.aux["mixed6"](trunk), theirs.AuxLogits(trunk)) < 1e-4


def test_the_auxiliary_tower_speaks_in_training_only() -> None:
    network = small(aux=True)
    x = torch.randn(2, 1, 32, 32)
    logits, aux_logits = network.train()(x)
    assert logits.shape == aux_logits.shape == (2, 10)
    assert network.aux_weight == 0.4
    assert network.aux["mixed6"].classifier.out_features == 10
    assert network.eval()(x).shape == (2, 10)
    plain = small()
    assert not plain.aux
    assert plain.train()(x).shape == (2, 10)


def test_min_size_is_the_smallest_that_works() -> None:
    network = inception_v3(10, width=0.125, aux=True)
    assert network.min_size == 75
    logits, aux_logits = network(torch.randn(2, 3, 75, 90))
    assert logits.shape == aux_logits.shape == (2, 10)
    with pytest.raises(
        DepthwiseError,
        match=re.escape("an image of 74x90 is below this network's minimum of 75x75") + '.*stem="small"',
    ):
        network(torch.zeros(2, 3, 74, 90))
    network.min_size = 74
    with pytest.raises(RuntimeError):
        network.eval()(torch.zeros(1, 3, 74, 74))


@pytest.mark.parametrize("size", [(16, 16), (28, 28), (32, 32), (17, 40)])
def test_small_pictures_of_any_shape(size: tuple[int, int]) -> None:
    network = small()
    assert (network.min_size, network.input_size) == (16, 32)
    maps = network.stages(torch.randn(2, 1, *size))
    assert maps.shape[2:] == tuple(-(-side // 16) for side in size)


def test_gradients_reach_every_parameter() -> None:
    network = small(aux=True)
    logits, aux_logits = network(torch.randn(8, 1, 32, 32))
    loss = nn.functional.cross_entropy(logits, torch.arange(8))
    (loss + network.aux_weight * nn.functional.cross_entropy(aux_logits, torch.arange(8))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_configured_is_dropout_applied() -> None:
    network = small(dropout=0.25)
    before, after = [], []
    network.dropout.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    network.classifier.register_forward_pre_hook(lambda _, inputs: after.append(inputs[0]))
    x = torch.randn(16, 1, 16, 16)
    network.train()(x)
    network.eval()(x)
    dropped = (after[0] == 0)[before[0] != 0].float().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.05)
    assert torch.equal(after[1], before[1])


def test_one_graph_for_compile_and_export() -> None:
    network = small().eval()
    x = torch.randn(2, 1, 20, 20)
    expected = network(x)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)


def test_errors_name_the_value() -> None:
    with pytest.raises(DepthwiseError, match=re.escape("dropout=1.5 must be at least 0 and below 1")):
        small(dropout=1.5)
    with pytest.raises(
        DepthwiseError, match=re.escape("[2, 3, 16, 16] does not fit this network's [N, 1, H, W]")
    ):
        small()(torch.zeros(2, 3, 16, 16))
