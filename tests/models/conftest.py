"""What the tests of the networks share."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """For every test here."""


@pytest.fixture(autouse=True)
def no_graph_of_another_network() -> Iterator[None]:
    """All networks have one `forward`, of which the compiler keeps eight graphs a process."""
    yield
    torch._dynamo.reset()


@pytest.fixture
def randomise() -> Callable[[nn.Module], None]:
    """Batch norm away from its neutral start, so that a wrong epsilon or order shows."""

    def apply(network: nn.Module) -> None:
        generator = torch.Generator().manual_seed(1)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, 0.0, 0.1, generator=generator)
                nn.init.normal_(module.running_mean, 0.0, 0.1, generator=generator)
                nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)

    return apply


@pytest.fixture
def difference() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """The largest difference, relative to the largest value."""

    def measure(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        assert ours.shape == theirs.shape
        return float((ours - theirs).abs().max() / theirs.abs().max())

    return measure
