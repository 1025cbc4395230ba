"""Activations of any kind and with any numbers, on every path and in every precision."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests.infer.planned import Calls, assert_planned, conv
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer import compile
from depthwise.infer.check import check
from depthwise.infer.fuse import fuse
from depthwise.infer.graph import Activation, Graph, Image
from depthwise.infer.lower import lower

Call = Callable[[Tensor], Tensor]

CLAMPS: dict[str, Call] = {
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(-0.5, 2),
    "clamp of whole numbers": lambda x: torch.clamp(x, 1, 3),
    "clamp from below": lambda x: x.clamp(min=-0.3),
    "clamp from above": lambda x: x.clamp(max=0.4),
    "clamp the wrong way": lambda x: x.clamp(1, -1),
    "clamp_min": lambda x: torch.clamp_min(x, 0.25),
    "clamp_max": lambda x: torch.clamp_max(x, -0.25),
}
CURVES: dict[str, Call] = {
    "leaky_relu": F.leaky_relu,
    "leaky_relu of 0.3": lambda x: F.leaky_relu(x, 0.3),
    "leaky_relu of -2": lambda x: F.leaky_relu(x, -2.0),
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
    "elu of 0.7": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.6),
    "softplus": F.softplus,
    "softplus of 2 and 5": lambda x: F.softplus(x, 2.0, 5.0),
    "mish": F.mish,
}
ALL = CLAMPS | CURVES


@pytest.mark.parametrize("name", ALL)
def test_activations_after_all_kinds_of_steps(name: str) -> None:
    """After a product, between a depthwise convolution and its product, after a sum, a pooling, and before bytes."""
    torch.manual_seed(0)
    f = ALL[name]
    network = Calls(
        lambda x, a, b, depthwise, c, last: last(
            f(F.max_pool2d(f(f(c(f(depthwise(y := f(b(f(a(x)))))))) + y), 2))
        ),
        conv(3, 20), conv(20, 20, 1), conv(20, 20, groups=20), conv(20, 20, 1), conv(20, 5),
    )  # fmt: skip
    assert_planned(network, 2 * torch.randn(3, 3, 9, 11), products=2)


@pytest.mark.parametrize("name", ALL)
def test_an_activation_is_part_of_the_step_before(name: str) -> None:
    network = Calls(lambda x, a, b: ALL[name](b(ALL[name](a(x)))), conv(3, 20), conv(20, 5))
    steps = fuse(lower(network, torch.zeros(1, 3, 5, 5))).steps
    assert [step.kind for step in steps] == ["input", "convolution", "convolution"]


@pytest.mark.parametrize("name", ALL)
def test_curves_are_accurate_to_a_millionth(path: str, name: str) -> None:
    """Of their values in float64, from -100 to 100 and near zero; a NaN stays one."""
    x = torch.cat(
        [torch.linspace(-100, 100, 4001), torch.linspace(-1e-3, 1e-3, 95), torch.linspace(-6, 6, 701)]
    )
    x = x.view(1, 1, 1, -1)
    one = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(one.weight)
    layer = Calls(lambda x, a: ALL[name](a(x)), one)
    y = compile(layer, x, engine="native")(x)
    torch.testing.assert_close(y, ALL[name](x.double()).float(), rtol=1e-6, atol=1e-7)
    nan = compile(layer, x[..., :1], engine="native")(torch.full((1, 1, 1, 1), torch.nan))
    assert nan.isnan().all()


def test_a_clamp_that_is_a_relu_is_one() -> None:
    def kind(call: Call) -> str:
        last = lower(Calls(lambda x, a: call(a(x)), conv(3, 4)), torch.zeros(1, 3, 5, 5)).operations[-1]
        assert isinstance(last, Activation)
        return last.kind

    assert kind(lambda x: x.clamp(0, 6)) == kind(lambda x: F.hardtanh(x, 0, 6)) == "relu6"
    assert kind(lambda x: x.clamp(min=0)) == kind(lambda x: x.clamp_min(0)) == "relu"
    assert kind(lambda x: x.clamp(0, 5)) == "hardtanh"


@pytest.mark.parametrize("slopes", [1, 20])
def test_prelu(slopes: int) -> None:
    torch.manual_seed(0)
    first, second = nn.PReLU(slopes), nn.PReLU(slopes)
    nn.init.normal_(first.weight)
    network = nn.Sequential(conv(3, 20), first, conv(20, 20, 1), second, conv(20, 5))
    assert_planned(network, 2 * torch.randn(3, 3, 9, 11))


def test_a_clamp_before_rounding_is_kept() -> None:
    """Bytes end at the least and the largest value that calibration saw, not at the bounds."""
    torch.manual_seed(0)
    network = Calls(
        lambda x, a, depthwise, b, last: last(b(depthwise(a(x)).clamp(0, 1.5))),
        conv(3, 20), conv(20, 20, groups=20), conv(20, 20, 1), conv(20, 5),
    )  # fmt: skip
    x = 3 * torch.randn(3, 3, 9, 11)
    plan = compile(network, x[:1], precision="int8", calibration=x, engine="native").plan
    assert [step.between.kind for step in plan.layout.steps if step.depthwise] == ["hardtanh"]
    assert_planned(network, x, products=1)


def test_numbers_that_do_not_fit_are_refused() -> None:
    for numbers in ((), (0.0,), (0.0, float("nan"))):
        graph = Graph((Image(), Activation(0, "hardtanh", numbers)), ((3, 4, 4), (3, 4, 4)), flat=False)
        with pytest.raises(DepthwiseError, match="operation 1, Activation"):
            check(graph)
