"""What holds for every Inception network, at sizes that run in milliseconds."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.models.networks import AUXILIARY

from depthwise.errors import DepthwiseError
from depthwise.models.inception_resnet_v2 import inception_resnet_v2
from depthwise.models.inception_v1 import inception_v1
from depthwise.models.inception_v2 import inception_v2
from depthwise.models.inception_v3 import inception_v3, inception_v3_table3
from depthwise.models.inception_v4 import inception_v4
from depthwise.models.network import Network

Builder = Callable[..., Network]

# The smallest side, and the towers.
FAMILY: dict[Builder, tuple[int, tuple[str, ...]]] = {
    inception_v1: (15, AUXILIARY["inception_v1"]),
    inception_v2: (7, AUXILIARY["inception_v2"]),
    **dict.fromkeys(
        (inception_v3, inception_v3_table3, inception_v4, inception_resnet_v2), (75, ("mixed6",))
    ),
}

family = pytest.mark.parametrize("builder", FAMILY)


def small(builder: Builder, **arguments: Any) -> Network:
    """A network for 16x16 that runs in milliseconds."""
    torch.manual_seed(0)
    return builder(**{"num_classes": 10, "in_channels": 1, "width": 0.125, "stem": "small"} | arguments)


@family
def test_min_size_is_the_smallest_that_works(builder: Builder) -> None:
    min_size, _ = FAMILY[builder]
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
def test_auxiliary_towers_speak_in_training_only(builder: Builder) -> None:
    towers = FAMILY[builder][1]
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
