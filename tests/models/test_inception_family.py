"""What holds for every Inception network, at sizes that run in milliseconds."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from depthwise.errors import DepthwiseError, UsageError
from depthwise.models.inception_resnet_v2 import inception_resnet_v2
from depthwise.models.inception_v1 import inception_v1
from depthwise.models.inception_v2 import inception_v2
from depthwise.models.inception_v3 import inception_v3, inception_v3_table3
from depthwise.models.inception_v4 import inception_v4
from depthwise.models.network import Network

Builder = Callable[..., Network]

# The smallest side, how many times smaller the small stem's last map is, and the towers.
FAMILY: dict[Builder, tuple[int, int, tuple[str, ...]]] = {
    inception_v1: (15, 8, ("mixed4a", "mixed4d")),
    inception_v2: (7, 8, ("mixed3c", "mixed4e")),
    inception_v3: (75, 16, ("mixed6",)),
    inception_v3_table3: (75, 16, ("mixed6",)),
    inception_v4: (75, 16, ("mixed6",)),
    inception_resnet_v2: (75, 16, ("mixed6",)),
}

# inception_v3_table3 is inception_v3 with other arguments.
DISTINCT = [builder for builder in FAMILY if builder is not inception_v3_table3]

family = pytest.mark.parametrize("builder", FAMILY)


def small(builder: Builder, **arguments: Any) -> Network:
    """A network for 16x16 that runs in milliseconds."""
    torch.manual_seed(0)
    return builder(**{"num_classes": 10, "in_channels": 1, "width": 0.125, "stem": "small"} | arguments)


@family
def test_min_size_is_the_smallest_that_works(builder: Builder) -> None:
    min_size, _, _ = FAMILY[builder]
    network = builder(10, width=0.125, aux=True)
    assert network.min_size == min_size
    outputs = network(torch.randn(2, 3, min_size, min_size + 16))
    assert all(logits.shape == (2, 10) for logits in outputs)
    below = min_size - 1
    with pytest.raises(
        DepthwiseError,
        match=re.escape(f"an image of {below}x90 is below this network's minimum of {min_size}x{min_size}")
        + '.*stem="small"',
    ):
        network(torch.zeros(2, 3, below, 90))
    network.min_size = below
    with pytest.raises(RuntimeError):
        network.eval()(torch.zeros(1, 3, below, below))


@family
@pytest.mark.parametrize("size", [(16, 16), (24, 24), (28, 28), (17, 40)])
def test_small_pictures_of_any_shape(builder: Builder, size: tuple[int, int]) -> None:
    """ "same" makes the sides ceil(side / reduction); V1 and V2 have it as an argument."""
    _, reduction, _ = FAMILY[builder]
    arguments = {"padding": "same"} if builder in (inception_v1, inception_v2) else {}
    network = small(builder, **arguments).eval()
    assert (network.min_size, network.input_size) == (16, 32)
    x = torch.randn(2, 1, *size)
    with torch.no_grad():
        maps = network.stages(x)
        assert maps.shape == (2, network.num_features, *(-(-side // reduction) for side in size))
        assert small(builder).eval()(x).shape == (2, 10)


@family
def test_features_by_stride(builder: Builder) -> None:
    network = builder(0, width=0.125).eval()
    with torch.no_grad():
        maps = network.features(torch.randn(1, 3, 160, 160))
    assert list(maps) == ["stride2", "stride4", "stride8", "stride16", "stride32"]
    assert {key: maps[key].shape[1] for key in maps} == network.feature_channels
    for stride, x in zip((2, 4, 8, 16, 32), maps.values(), strict=True):
        # Stems without padding lose up to two pixels a step.
        assert 0 <= 160 // stride - x.shape[2] <= 4


@family
def test_gradients_reach_every_parameter(builder: Builder) -> None:
    network = small(builder, aux=True)
    logits, *auxiliary = network(torch.randn(8, 1, 32, 32))
    target = torch.arange(8)
    loss = nn.functional.cross_entropy(logits, target)
    loss = loss + network.aux_weight * sum(nn.functional.cross_entropy(aux, target) for aux in auxiliary)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@family
def test_auxiliary_towers_speak_in_training_only(builder: Builder) -> None:
    towers = FAMILY[builder][2]
    network = small(builder, aux=True)
    x = torch.randn(2, 1, 32, 32)
    outputs = network.train()(x)
    assert len(outputs) == 1 + len(towers)
    assert all(logits.shape == (2, 10) for logits in outputs)
    assert network.aux_weight == (0.3 if builder in (inception_v1, inception_v2) else 0.4)
    assert tuple(network.aux) == towers
    assert network.eval()(x).shape == (2, 10)
    plain = small(builder)
    assert not plain.aux
    assert plain.train()(x).shape == (2, 10)
    network.replace_classifier(3)
    assert [logits.shape for logits in network.train()(x)] == [(2, 3)] * len(outputs)
    assert not small(builder, aux=True, num_classes=0).aux


@family
def test_dropout_configured_is_dropout_applied(builder: Builder) -> None:
    network = small(builder, dropout=0.25)
    before, after = [], []
    network.dropout.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    network.classifier.register_forward_pre_hook(lambda _, inputs: after.append(inputs[0]))
    x = torch.randn(16, 1, 16, 16)
    network.train()(x)
    network.eval()(x)
    dropped = (after[0] == 0)[before[0] != 0].float().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.05)
    assert torch.equal(after[1], before[1])


@family
def test_training_is_the_same_on_the_fused_path(builder: Builder) -> None:
    """Channels last, a training on a CPU hands norms and ReLUs to the operators behind; contiguous it does not."""
    network = small(builder, in_channels=3, dropout=0)
    x, target = torch.randn(16, 3, 28, 28), torch.arange(16) % 10
    outputs, gradients = [], []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network.zero_grad()
        outputs.append(network(x.contiguous(memory_format=memory_format)))
        nn.functional.cross_entropy(outputs[-1], target).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    # Noise is all alike to a network without residuals; what its norms then amplify is partly rounding.
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-3)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@pytest.mark.parametrize("builder", DISTINCT)
def test_one_graph_for_compile_and_export(builder: Builder) -> None:
    network = small(builder).eval()
    x = torch.randn(2, 1, 20, 20)
    expected = network(x)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)
    if builder is inception_v1:  # the others are made of the same modules, and take up to ten times as long
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)


@family
def test_errors_name_the_value(builder: Builder) -> None:
    with pytest.raises(DepthwiseError, match=re.escape("dropout=1.5 must be at least 0 and below 1")):
        small(builder, dropout=1.5)
    with pytest.raises(DepthwiseError, match=re.escape("norm_eps=0 must be above 0 and at most 1")):
        small(builder, norm_eps=0)
    with pytest.raises(UsageError, match=re.escape("unknown stem 'tiny': use one of imagenet, small")):
        small(builder, stem="tiny")
