"""The VGG-like separable network: its budget, its plan, and that it trains."""

import re
from typing import Any

import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (28, 28), (32, 32), (17, 40)])
def test_small_pictures_of_any_shape(size: tuple[int, int]) -> None:
    network = small()
    assert (network.min_size, network.input_size) == (16, 32)
    x = torch.randn(2, 1, *size)
    assert network(x).shape == (2, 10)
    assert network.stages(x).shape[2:] == tuple(-(-side // 16) for side in size)


@pytest.mark.parametrize("conv", ["separable", "regular", "segments-8", "towers-4-relu"])
def test_gradients_reach_every_parameter_and_agree_with_the_native_path(conv: str) -> None:
    """Channels last the native kernels take part. An activation at its kink may fall on either side."""
    network = small(in_channels=3, conv=conv)
    x, target = torch.randn(8, 3, 32, 32), torch.arange(8)
    logits, gradients = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        network.zero_grad()
        logits.append(network(x.contiguous(memory_format=layout)))
        nn.functional.cross_entropy(logits[-1], target).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999


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


def test_depth_and_width_are_data() -> None:
    network = small(width=1, widths=[[16], [24, 32]], conv="segments-8")
    assert network.feature_channels == {"stride1": 16, "stride2": 32}
    assert network.min_size == 2
    assert network(torch.randn(2, 1, 9, 8)).shape == (2, 10)


def test_one_graph_for_compile_and_export() -> None:
    network = small().eval()
    x = torch.randn(2, 1, 20, 20)
    expected = network(x)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)


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
