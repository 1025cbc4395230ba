"""NaN and infinity go through a compiled network as through the network itself, at the same places of the result."""

import itertools
import pickle
from collections.abc import Callable
from functools import cache

import pytest
import torch
from tests.conftest import RUNNABLE, using
from tests.infer.test_compiled import Gated, Maxout, randomise
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lower
from depthwise.infer.plan import Plan
from depthwise.infer.quantize import calibrate
from depthwise.layers import PointwiseConv2d, Residual, SeparableConv2d

PRECISIONS = ("fp32", "bf16", "int8")
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "int8": 0.5}
"""Of a finite value, relative to the largest; int8 is calibrated on images without NaN and infinity."""

NAN, INF = torch.nan, torch.inf
BESIDE = [0, 1, 3, 4]
"""The images of a batch but the third."""
FINITE = torch.randn(5, 3, 8, 9, generator=torch.Generator().manual_seed(0))


class Beside(nn.Module):
    """What some modules make of one map, next to each other."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], 1)


def between(*layers: nn.Module, outputs: int = 20) -> nn.Sequential:
    """`layers`, with 20 channels, between two 1x1 convolutions, of which the second can be int8."""
    last = (nn.Conv2d(outputs, 20, 1), nn.ReLU(), nn.Conv2d(20, 7, 1))
    return nn.Sequential(nn.Conv2d(3, 20, 1), *layers, *last)


def depthwise(kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(20, 20, kernel, padding=kernel // 2, groups=20)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "max 2x2": lambda: between(nn.MaxPool2d(2)),
    "max 3x3": lambda: between(nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    "max of the image": lambda: nn.Sequential(nn.MaxPool2d(2, 1), nn.Conv2d(3, 20, 3)),
    "max at the end": lambda: nn.Sequential(nn.Conv2d(3, 20, 1), nn.ReLU(), nn.MaxPool2d(2)),
    "average": lambda: between(nn.AvgPool2d(3, 2, 1)),
    "average of what is there": lambda: between(nn.AvgPool2d(2, 1, 1, count_include_pad=False)),
    "mean": lambda: nn.Sequential(
        nn.Conv2d(3, 20, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 7)
    ),
    "groups": lambda: between(nn.Conv2d(20, 40, 3, padding=1, groups=4), outputs=40),
    "dilation": lambda: between(nn.Conv2d(20, 20, 3, padding=2, dilation=2)),
    "dilated depthwise": lambda: between(nn.Conv2d(20, 20, 3, padding=(2, 3), dilation=(2, 3), groups=20)),
    "strides": lambda: between(nn.Conv2d(20, 20, 1, 2)),
    "separable": lambda: between(nn.ReLU(), SeparableConv2d(20, 20), nn.ReLU()),
    "depthwise": lambda: between(depthwise(), nn.ReLU6(), nn.MaxPool2d(2)),
    "depthwise of the image": lambda: nn.Sequential(SeparableConv2d(3, 20), nn.ReLU(), *between()[1:]),
    "depthwise at the end": lambda: nn.Sequential(nn.Conv2d(3, 20, 1), depthwise(5)),
    "residual": lambda: between(Residual(PointwiseConv2d(20, 20)), nn.ReLU()),
    "beside": lambda: between(
        nn.Conv2d(20, 16, 1),
        Beside(nn.Identity(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)),
        outputs=48,
    ),
    "gate": lambda: between(Gated("a map"), outputs=40),
    "maxout": lambda: between(nn.Conv2d(20, 60, 3), Maxout()),
} | {
    kind.__name__: lambda kind=kind: between(depthwise(), kind(), nn.Conv2d(20, 20, 1), kind())  # type: ignore[misc]
    for kind in (nn.ReLU6, nn.ELU, nn.Sigmoid, nn.SiLU, nn.Hardsigmoid, nn.Hardswish)
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomise(NETWORKS[name]())


@cache
def lowered(name: str) -> tuple[nn.Module, Graph]:
    """The network and its graph, for every path and precision."""
    module = network(name)
    with torch.no_grad():
        return module, lower(module, FINITE)


def planned(graph: Graph, precision: str) -> Plan:
    if precision != "int8":
        return Plan(graph, bf16=precision == "bf16")
    return Plan(graph, bf16=True, roundings=calibrate(graph, [FINITE]))


def assert_as(expected: Tensor, found: Tensor, precision: str | None, about: object) -> None:
    """NaN and infinities at the same places, all else within the precision if one is given."""
    finite = expected.isfinite()
    assert found.shape == expected.shape, about
    assert torch.equal(found[~finite].nan_to_num(2.0), expected[~finite].nan_to_num(2.0)), about
    assert bool(found[finite].isfinite().all()), about
    if precision and finite.any():
        largest = float(expected[finite].abs().max())
        assert float((found - expected)[finite].abs().max()) <= TOLERANCE[precision] * largest, about


def poisoned() -> dict[str, Tensor]:
    """Images [5, 3, 8, 9] with values that are not finite, or hardly, in the third of them."""
    places = list(itertools.product(range(2, 5), range(3, 6)))  # all those of windows of 2x2 and of 3x3
    images = {
        "dead": (..., NAN),
        "glare": (..., INF),
        "dark": (..., -INF),
        "huge": (..., 1e30),
        "beyond": (..., -1e30),
    }
    one = {f"{value} at {y},{x}": ((1, y, x), value) for y, x in places for value in (NAN, INF, -INF)}
    border = {"corner": ((0, 0, 0), NAN), "end": ((2, 7, 8), INF), "line": ((slice(None), 3), NAN)}
    made = {}
    for name, (place, value) in {**images, **one, **border}.items():
        made[name] = FINITE.clone()
        made[name][2][place] = value
    return made


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_that_is_not_finite(path: str, name: str) -> None:
    module, graph = lowered(name)
    for precision in PRECISIONS:
        plan = planned(graph, precision)
        for about, x in {"nothing": FINITE, **poisoned()}.items():
            with torch.no_grad():
                expected, found = module(x), plan(x)
            assert_as(expected, found, precision if precision != "int8" else None, (about, precision))
            # Bytes were not calibrated on the third image, even where what is made of it is finite.
            assert_as(expected[BESIDE], found[BESIDE], precision, (about, precision))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_one_image_of_a_batch_fails_alone(path: str, precision: str, threads: int) -> None:
    x = torch.cat([FINITE, -FINITE[:2]])
    x[3, 0, 1, 1] = NAN
    x[6] = INF
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in ("separable", "max 3x3", "mean"):
            module, graph = lowered(name)
            with torch.no_grad():
                plan, expected = planned(graph, precision), module(x)
            assert_as(expected, plan(x), precision, name)
            alone = torch.cat([plan(image) for image in x.split(1)])
            for together in (2, 7, 3):
                plan.together = together
                assert torch.equal(plan(x).nan_to_num(2.0), alone.nan_to_num(2.0))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_memory_layout(path: str, precision: str) -> None:
    module, graph = lowered("max 2x2")
    plan = planned(graph, precision)
    for value in (NAN, INF, -INF):
        x = FINITE.clone()
        x[2, 1, 3, 3] = x[4, 2, 7, 8] = value
        expected = plan(x)
        assert not expected.isfinite().all()
        for other in (
            x.contiguous(memory_format=torch.channels_last),
            x.flip(3).contiguous().flip(3),
            x.repeat_interleave(2, 3)[..., ::2],
            x.transpose(0, 2).contiguous().transpose(0, 2),
        ):
            assert torch.equal(plan(other).nan_to_num(2.0), expected.nan_to_num(2.0))
    same = FINITE[:1, :, :1, :1].clone()
    same[0, 1] = NAN
    same = same.expand(5, 3, 8, 9)
    with torch.no_grad():
        assert_as(module(same), plan(same), precision, "one pixel for all")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", ["max 2x2", "separable", "groups", "residual", "mean", "SiLU"])
def test_a_weight_that_is_not_finite(name: str, value: float) -> None:
    """In whatever part; int8 may refuse it, for then the maps of any image tell nothing of ranges."""
    parts = [part for part in network(name).modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    for number, parameter in itertools.product(range(len(parts)), ("weight", "bias")):
        module = network(name)
        part = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)][number]
        if getattr(part, parameter) is None:
            continue
        with torch.no_grad():
            getattr(part, parameter).view(-1)[0] = value  # of a window the corner, which the padding meets
            graph, expected = lower(module, FINITE[:1]), module(FINITE)
        for path, precision in itertools.product(RUNNABLE, PRECISIONS):
            about = (number, parameter, path, precision)
            with using(path):
                try:
                    plan = planned(graph, precision)
                except DepthwiseError as refused:
                    if precision == "int8" and "not finite" in str(refused):
                        continue
                    raise
                assert_as(expected, plan(FINITE), precision, about)
                assert_as(expected, pickle.loads(pickle.dumps(plan))(FINITE), precision, about)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_overflows_within_the_network(path: str, precision: str) -> None:
    """An image is finite, and what is made of it is not: neither a clamp nor a byte hides that."""
    for layers in ((nn.MaxPool2d(2),), (nn.ReLU6(),), (nn.SiLU(),), (depthwise(), nn.ReLU6())):
        torch.manual_seed(0)
        module = between(*layers).eval()
        with torch.no_grad():
            module[0].weight.mul_(1e30)
            x, graph = FINITE * 1e-30, lower(module, FINITE * 1e-30)
            plan = (
                Plan(graph, bf16=True, roundings=calibrate(graph, [x]))
                if precision == "int8"
                else Plan(graph, bf16=precision == "bf16")
            )
            x[2] *= 1e39
            expected = module(x)
        assert not expected[2].isfinite().all()
        assert_as(expected, plan(x), precision, layers)


def test_memory_is_freed() -> None:
    """The weights unpacked for PyTorch stay until they are, and the answer afterwards is the same."""
    module, x = network("max 2x2"), FINITE.clone()
    x[2] = NAN
    with torch.no_grad():
        plan = planned(lower(module, x[:1]), "fp32")
    plan(FINITE)
    assert plan._weighted is None
    first = plan(x)
    assert plan._weighted is not None
    plan.release()
    assert plan._weighted is None
    assert torch.equal(plan(x).nan_to_num(2.0), first.nan_to_num(2.0))


def test_weights_too_small_for_int8_are_not_zero(path: str) -> None:
    """An infinity times one of them is an infinity, and so it is after the plan was pickled."""
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=4)).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]).view(2, 3, 1, 1))
        module[1].weight.copy_(torch.tensor([[1e-5, 1], [-1e-5, 1], [0, 1], [1, 1e-5]]).view(4, 2, 1, 1))
        x = FINITE.clone()
        x[2, 0] = INF
        module[0].weight[0, 1:] = 1.0
        expected, plan = module(x), planned(lower(module, FINITE), "int8")
    assert_as(expected, plan(x), "int8", "packed")
    again = pickle.loads(pickle.dumps(plan))
    assert torch.equal(again(x).nan_to_num(2.0), plan(x).nan_to_num(2.0))
    assert torch.equal(again(FINITE), plan(FINITE))
