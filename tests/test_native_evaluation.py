"""Networks in evaluation by the native kernels, as those that a training runs between its updates."""

import copy

import pytest
import torch
from torch import Tensor, nn

from depthwise import native
from depthwise.evaluate.meters import answering
from depthwise.models import create_model
from depthwise.native import ops


@pytest.fixture
def norms(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The batch norms that the kernels computed."""
    seen: list[nn.Module] = []
    moments = ops._moments

    def spy(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        seen.append(norm)
        return moments(x, norm)

    monkeypatch.setattr(ops, "_moments", spy)
    return seen


def network_of(name: str) -> nn.Module:
    """In training, with the statistics of two batches."""
    torch.manual_seed(0)
    network = create_model(name, num_classes=7, width=0.25).to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(4, 3, 96, 96))
    return network


def answer(network: nn.Module, x: Tensor, precision: str) -> Tensor:
    with answering(network, "cpu", precision) as answered:
        logits: Tensor = answered(x).float()
    return logits


@pytest.mark.parametrize(
    "name", ["xception", "mobilenet_v1", "mobilenet_v2", "inception_v3", "se_resnet50", "nin"]
)
def test_a_network_answers_as_on_pytorch(path: str, name: str, norms: list[nn.Module]) -> None:
    """In float32 to the last digits; in bfloat16 no further from that than PyTorch's operators, which round more."""
    network = network_of(name)
    x = torch.randn(3, 3, 96, 96).contiguous(memory_format=torch.channels_last)
    before = copy.deepcopy(network.state_dict())
    native.use("off")
    exact, theirs = answer(network, x, "float32"), answer(network, x, "bfloat16")
    assert not norms
    native.use(path)
    assert float((answer(network, x, "float32") - exact).norm() / exact.norm()) < 1e-5
    distance = float((answer(network, x, "bfloat16") - exact).norm())
    assert distance < 1.5 * float((theirs - exact).norm())
    assert bool(norms) == (name != "nin")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training


def test_the_kernels_are_for_who_asks(path: str, norms: list[nn.Module]) -> None:
    network = network_of("xception").eval()
    x = torch.randn(2, 3, 96, 96).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        network(x)
    assert not norms
    with native.evaluating():
        assert network(x).requires_grad
        assert not norms, "a gradient at a norm in evaluation is PyTorch's"
        with torch.no_grad():
            network(x)
    assert norms
    seen = len(norms)
    with torch.no_grad():
        network(x)
    assert len(norms) == seen
