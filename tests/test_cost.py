"""The bill against the closed formulas, and that counting changes nothing."""

import pytest
import torch
from torch import Tensor, nn

from depthwise.cost import cost
from depthwise.layers import ConvNorm, SeparableConv2d, conv2d, relu
from depthwise.models import create_model


@pytest.mark.parametrize(
    ("m", "n", "k", "side", "stride"), [(16, 32, 3, 12, 1), (3, 17, 5, 9, 2), (1, 1, 3, 7, 2)]
)
def test_a_separable_convolution_costs_what_the_formula_says(
    m: int, n: int, k: int, side: int, stride: int
) -> None:
    bill = cost(SeparableConv2d(m, n, k, stride), (m, side, side))
    f = -(-side // stride)
    assert bill.parameters == k * k * m + m * n
    assert bill.macs == (k * k * m + m * n) * f * f
    assert bill.activation_bytes == 4 * (m + n) * f * f
    assert [(layer.name, layer.macs) for layer in bill.layers] == [
        ("depthwise", k * k * m * f * f),
        ("pointwise", m * n * f * f),
    ]
    regular = cost(conv2d(m, n, k, stride, k // 2), (m, side, side))
    assert regular.macs == k * k * m * n * f * f
    assert bill.macs / regular.macs == pytest.approx(1 / n + 1 / k**2)


def test_segments_cost_what_the_formula_says() -> None:
    grouped = cost(nn.Conv2d(24, 24, 3, padding=1, groups=4, bias=False), (24, 10, 10))
    assert grouped.parameters == 9 * 24 * 24 // 4
    assert grouped.macs == grouped.parameters * 100


@pytest.mark.parametrize("name", ["xception", "inception_v3"])
def test_the_layers_add_up_to_the_network(name: str) -> None:
    bill = cost(create_model(name, width=0.125, stem="small"), (3, 32, 32))
    assert sum(layer.macs for layer in bill.layers) == bill.macs
    assert sum(layer.parameters for layer in bill.layers) == bill.parameters


def test_layers_are_named_in_the_order_they_run() -> None:
    network = nn.Sequential(
        ConvNorm(conv2d(3, 8, 3), 8, relu), nn.Identity(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    bill = cost(network, (3, 8, 8))
    assert [
        (layer.name, layer.kind, layer.parameters, layer.macs, layer.output_shape) for layer in bill.layers
    ] == [
        ("0.conv", "regular", 216, 216 * 36, (8, 6, 6)),
        ("0.norm", "BatchNorm2d", 16, 0, (8, 6, 6)),
        ("2", "Flatten", 0, 0, (288,)),
        ("3", "linear", 1445, 1440, (5,)),
    ]
    assert bill.activation_bytes == 4 * (288 + 288 + 288 + 5)


class Odd(nn.Module):
    """Runs one layer twice and a product that is in no module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1, bias=False)
        self.unused = nn.Linear(3, 3)
        self.layer.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.layer(x))
        return x.flatten(2) @ x.flatten(2).transpose(1, 2)


def test_any_module_is_counted() -> None:
    bill = cost(Odd(), (4, 5, 5))
    assert (bill.parameters, bill.trainable) == (28, 12)
    assert bill.macs == 2 * 16 * 25 + 4 * 25 * 4
    assert [(layer.name, layer.macs) for layer in bill.layers] == [("layer", 2 * 16 * 25), ("", 4 * 25 * 4)]


def test_counting_changes_nothing() -> None:
    network = create_model("inception_v3", num_classes=5, width=0.125, stem="small", aux=True, dropout=0.5)
    network.stages.mixed7.eval()
    network.classifier.weight.grad = torch.ones_like(network.classifier.weight)
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()

    cost(network, (3, 32, 32))

    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(network.classifier.weight.grad, torch.ones_like(network.classifier.weight))
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_failed_count_changes_nothing_either() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout())
    with pytest.raises(RuntimeError, match="channels"):
        cost(network, (1, 8, 8))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
