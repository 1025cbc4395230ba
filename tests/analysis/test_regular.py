"""The network with regular convolutions: against one that was built so from the start, and still runnable."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnext50_32x4d

from depthwise.analysis.cost import Cost, cost
from depthwise.analysis.regular import regular_twin
from depthwise.layers import PointwiseConv2d, SeparableConv2d, conv2d
from depthwise.models import create_model


def layers(bill: Cost) -> list[tuple[str, int, int, tuple[int, ...]]]:
    return [
        (layer.kind, layer.parameters, layer.macs, layer.output_shape)
        for layer in bill.layers
        if layer.kind != "Identity"
    ]


@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_the_twin_is_the_network_built_with_regular_convolutions(stem: str) -> None:
    arguments = {"stem": stem, "width": 0.25, "num_classes": 10}
    with torch.device("meta"):
        network = create_model("xception", **arguments)
        built = create_model("xception", **arguments, conv=partial(conv2d, padding="same"))
        shape = (3, network.input_size, network.input_size)
        twin = regular_twin(network, shape)
    expected, bill = cost(built, shape), cost(twin, shape)
    assert layers(bill) == layers(expected)
    assert bill.parameters == expected.parameters
    assert bill.training_bytes == expected.training_bytes
    assert bill.inference_bytes == expected.inference_bytes


def test_mobilenets_twin_is_the_one_in_its_paper() -> None:
    with torch.device("meta"):
        twin = regular_twin(create_model("mobilenet_v1"), (3, 224, 224))
    bill = cost(twin, (3, 224, 224))
    # Howard 2017, Table 4, "Conv MobileNet": 29.3 million parameters and 4866 million multiply-adds.
    assert bill.parameters / 1e6 == pytest.approx(29.3, abs=0.05)
    assert bill.macs / 1e6 == pytest.approx(4866, rel=0.0005)


def test_a_norm_and_an_activation_between_the_two_go() -> None:
    block = nn.Sequential(
        nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        PointwiseConv2d(6, 10),
        nn.BatchNorm2d(10),
    )
    twin = regular_twin(block, (6, 9, 9))
    bill = cost(twin, (6, 9, 9))
    assert [(layer.name, layer.parameters) for layer in bill.layers] == [("0", 9 * 60), ("4", 20)]
    assert bill.macs == 9 * 60 * 25
    assert twin(torch.randn(2, 6, 9, 9)).shape == (2, 10, 5, 5)


@pytest.mark.parametrize(
    ("module", "parameters"),
    [
        (nn.Conv2d(6, 12, 5, groups=6), 25 * 72 + 12),  # a depthwise convolution with nothing behind it
        (nn.Conv2d(6, 6, 3, groups=2, bias=False), 9 * 36),
        (nn.Sequential(nn.Conv2d(6, 6, 3, groups=2), nn.Conv2d(6, 4, 1)), 9 * 36 + 6 + 24 + 4),
        (nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1)), 9 * 24 + 4),
        # Not fed by it: the maps differ.
        (nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.MaxPool2d(2), nn.Conv2d(6, 4, 1)), 9 * 36 + 6 + 28),
        (nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1, 2)), 9 * 36 + 6 + 28),
        (SeparableConv2d(6, 4, 3, 2), 9 * 24),
        (nn.Conv2d(6, 4, 3), 9 * 24 + 4),
    ],
)
def test_which_convolutions_become_which(module: nn.Module, parameters: int) -> None:
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    twin = regular_twin(module, (6, 9, 9))
    assert cost(twin, (6, 9, 9)).parameters == parameters
    image = torch.randn(2, 6, 9, 9)
    assert twin(image).shape == module(image).shape
    assert before.keys() == module.state_dict().keys()
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())


class Gated(nn.Module):
    """Between the two halves stands something that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.pointwise = conv2d(6, 6, 3, padding=1, groups=6), PointwiseConv2d(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(x + self.depthwise(x))
        return y


def test_what_something_stands_between_stays_two() -> None:
    twin = regular_twin(Gated(), (6, 5, 5))
    bill = cost(twin, (6, 5, 5))
    assert [(layer.kind, layer.parameters) for layer in bill.layers] == [
        ("regular", 9 * 36),
        ("pointwise", 36),
    ]


@pytest.mark.parametrize("name", ["mobilenet_v2", "se_resnext50_32x4d", "separable_vgg", "xception"])
def test_whole_networks_run_with_regular_convolutions(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name, num_classes=10).eval()
        size = network.input_size
        twin = regular_twin(network, (3, size, size))
        assert twin(torch.zeros(1, 3, size, size)).shape == (1, 10)
    assert not {part.groups for part in twin.modules() if isinstance(part, nn.Conv2d)} - {1}


@pytest.mark.parametrize("build", [mobilenet_v2, resnext50_32x4d])
def test_other_peoples_networks_have_twins_too(build: partial[nn.Module]) -> None:
    with torch.device("meta"):
        network = build().eval()
    twin = regular_twin(network, (3, 64, 64))
    kinds = {layer.kind for layer in cost(twin, (3, 64, 64)).layers}
    assert not kinds & {"depthwise", "grouped"}
    assert twin(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 1000)
