"""What compile can't take is told in a sentence with the value, the rule and the remedy, on every engine."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import depthwise
from depthwise.errors import DepthwiseError

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class AlongTheBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.cat([y, y.relu()])[: len(x)].mean((2, 3))


NETWORKS: dict[str, tuple[Callable[[], Any], str]] = {
    "a function": (
        lambda: lambda x: x,
        "the network is a function, not a torch.nn.Module: put it into the forward of one",
    ),
    "a class": (lambda: nn.ReLU, "ReLU is a class, not a network: give an instance of it"),
    "a state_dict": (lambda: network().state_dict(), "the network is a OrderedDict, not a torch.nn.Module"),
    "compiled": (
        lambda: depthwise.compile(network(), X),
        "the network is compiled already: use it as it is, or give what it was made from",
    ),
    "compiled in part": (
        lambda: nn.Sequential(depthwise.compile(network(), X), nn.Softmax(1)),
        "the network is compiled already",
    ),
    "torch.export": (
        lambda: torch.export.export(network(), (X,)),
        "ExportedProgram) is a program that torch.export made, not a torch.nn.Module: give the module",
    ),
    "torch.export's module": (
        lambda: torch.export.export(network(), (X,)).module(),
        "whose mode is fixed: give the module that it was made from",
    ),
    "TorchScript": (lambda: torch.jit.trace(network(), X), "is a program of TorchScript"),
    "float64": (
        lambda: network().double(),
        "0.weight is float64 on cpu, and a network is compiled from float32",
    ),
    "bfloat16": (lambda: network().bfloat16(), "give module.cpu().float()"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("what", NETWORKS)
@pytest.mark.parametrize("engine", ["native", "auto", "torch"])
def test_networks(what: str, engine: Any) -> None:
    make, sentence = NETWORKS[what]
    with pytest.raises(DepthwiseError) as raised:
        depthwise.compile(make(), X, engine=engine)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (
            X.double(),
            "the example is float64 on cpu, and an example is float32 images [N, C, H, W] on the CPU: give ",
        ),
        (X.byte(), "the example is uint8 on cpu"),
        (X.to("meta"), "the example is float32 on meta"),
        (
            X[0],
            "the example is [3, 12, 12], and an example is float32 images [N, C, H, W] on the CPU: give example[None]",
        ),
        (X[0, 0], "the example is [12, 12]"),
        (X.numpy(), "the example is a ndarray"),
        ([X], "the example is a list"),
    ],
    ids=["float64", "uint8", "meta", "3-D", "2-D", "NumPy", "a list"],
)
@pytest.mark.parametrize("engine", ["native", "auto", "torch"])
def test_examples(example: Any, sentence: str, engine: Any) -> None:
    with pytest.raises(DepthwiseError) as raised:
        depthwise.compile(network(), example, engine=engine)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([X, X], "the calibration images are a list, and must be one tensor [N, C, H, W]: give torch.cat or"),
        (X.numpy(), "are a ndarray"),
        (X[0], "the calibration images are [3, 12, 12] and must be [N, 3, 12, 12]"),
        (X[:, :, 1:], "the calibration images are [2, 3, 11, 12] and must be [N, 3, 12, 12]"),
        (X[:0], "there are none"),
        (
            torch.stack([X[0], X[1] + torch.nan]),
            "1 of 2 calibration images hold values that are not finite (number 1): leave them out",
        ),
        (
            torch.full((5, 3, 12, 12), torch.inf),
            "5 of 5 calibration images hold values that are not finite (number 0, ",
        ),
        (X[:1].expand(8, -1, -1, -1), "the 8 calibration images are all alike"),
        (torch.ones(1, 3, 12, 12), "the calibration image has one value everywhere"),
    ],
    ids=["a list", "NumPy", "3-D", "another size", "none", "one NaN", "infinite", "alike", "flat"],
)
def test_calibration_images(images: Any, sentence: str) -> None:
    with pytest.raises(DepthwiseError) as raised:
        depthwise.compile(network(), X, precision="int8", calibration=images)
    assert sentence in str(raised.value)


def test_a_concatenation_along_the_batch_is_called_that_and_left_to_a_general_engine() -> None:
    module = AlongTheBatch().eval()
    with pytest.raises(DepthwiseError, match="a concatenation along the batch"):
        depthwise.compile(module, X, engine="native")
    fast = depthwise.compile(module, X, engine="torch")
    torch.testing.assert_close(fast(X), module(X), rtol=1e-4, atol=1e-4)
