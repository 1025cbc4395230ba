"""The width that a budget allows is the largest that keeps to it, and what cannot be met is said."""

import math
import time
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from depthwise.analysis.cost import cost
from depthwise.analysis.match import _fastest, _without_values, latencies, match
from depthwise.errors import DepthwiseError, UsageError
from depthwise.models import create_model

SMALL = {"stem": "small", "num_classes": 10}


pytestmark = pytest.mark.usefixtures("one_thread")


def bill(name: str, width: float, size: int) -> tuple[int, int]:
    with torch.device("meta"):
        counted = cost(create_model(name, width=width, **SMALL), (3, size, size))
    return counted.parameters, counted.macs


@pytest.mark.parametrize(("name", "parameters"), [("xception", 500_000), ("mobilenet_v1", 10_000_000)])
def test_the_widest_network_within_a_number_of_parameters(name: str, parameters: int) -> None:
    found = match(name, parameters=parameters, **SMALL)
    assert (found.parameters, found.macs) == bill(name, found.width, 32)
    # The answer is the roundest width that makes this network; none that is wider keeps to the budget.
    widths = (round(found.width + i / 1000, 3) for i in range(1, 100))
    wider = next(count for width in widths if (count := bill(name, width, 32)[0]) != found.parameters)
    assert found.parameters <= parameters < wider
    assert found.parameters == pytest.approx(parameters, rel=0.1)  # channels move in steps of 8
    assert found.milliseconds is None


@pytest.mark.parametrize("name", ["se_resnet50", "mobilenet_v2"])
def test_channels_in_steps_of_one_come_closer(name: str) -> None:
    found = match(name, parameters=166_626, step=1, **SMALL)
    assert isinstance(found.width, tuple)
    with torch.device("meta"):
        network = create_model(name, width=found.width, **SMALL)
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert match(name, parameters=166_626, **SMALL).parameters < found.parameters <= 166_626
    assert found.parameters > 0.99 * 166_626


def test_the_widest_network_within_a_number_of_multiply_adds() -> None:
    found = match("xception", macs=20e6, size=(28, 24), in_channels=1, **SMALL)
    with torch.device("meta"):
        network = create_model("xception", width=found.width, in_channels=1, **SMALL)
    assert found.macs == cost(network, (1, 28, 24)).macs
    assert 19e6 < found.macs <= 20e6


def test_as_published_is_what_the_published_budget_gives() -> None:
    assert match("mobilenet_v1", parameters=4_231_976).parameters == 4_231_976
    assert match("mobilenet_v1", macs=568_740_352).width == 1


def test_the_widest_network_within_a_time() -> None:
    arguments = {**SMALL, "middle": (728,)}
    module = create_model("xception", width=0.3, **arguments)
    budget = 1.5 * latencies([module], torch.zeros(1, 3, 32, 32))[0]
    found = match("xception", milliseconds=budget, **arguments)
    assert found.milliseconds is not None
    assert 0 < found.milliseconds <= budget
    assert found.width > 0


def test_networks_that_take_long_have_fewer_rounds() -> None:
    calls = []

    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(self)
            time.sleep(0.7)
            return x

    taken = latencies([Slow(), Slow()], torch.zeros(1, 3, 8, 8))
    assert len(calls) == 2 * (1 + 2)
    assert min(taken) >= 700


@pytest.mark.parametrize("budget", [0.1, 3.0, 40.0, 900.0])
def test_the_measured_search_narrows_down_to_the_budget(budget: float) -> None:
    def clock(widths: Sequence[float]) -> list[float]:
        return [10 * width**2 + 0.01 for width in widths]

    width, reached = _fastest(clock, budget, "a network")
    assert reached <= budget
    assert width == pytest.approx(math.sqrt((budget - 0.01) / 10), rel=0.02)


@pytest.mark.parametrize("budget", [0.1, 3.0, 40.0, 900.0])
def test_without_refinements_the_width_lies_between_measured_ones(budget: float) -> None:
    measured = []

    def clock(widths: Sequence[float]) -> list[float]:
        measured.extend(widths)
        return [10 * width**2 + 0.01 for width in widths]

    width, reached = _fastest(clock, budget, "a network", 0)
    assert reached == budget
    assert measured[-2] <= width <= measured[-1]
    assert clock([measured[-1]])[0] < 1.5 * budget  # nothing is run that takes much longer
    assert width == pytest.approx(math.sqrt((budget - 0.01) / 10), rel=0.02)


def test_what_is_timed_has_no_values_and_is_the_network_otherwise() -> None:
    def build() -> nn.Module:
        return create_model("inception_v3", width=0.25, aux=True, **SMALL)

    timed, whole = _without_values(build).state_dict(), build().state_dict()
    assert {key: (t.shape, t.dtype, t.device) for key, t in timed.items()} == {
        key: (t.shape, t.dtype, t.device) for key, t in whole.items()
    }
    assert not any(tensor.any() for tensor in timed.values())


def test_the_measured_search_takes_back_what_a_faster_moment_promised() -> None:
    speeds = iter([1.0] * 8 + [4.0] * 100)  # the machine slows down to a quarter

    def clock(widths: Sequence[float]) -> list[float]:
        speed = next(speeds)
        return [speed * 10 * width**2 for width in widths]

    width, reached = _fastest(clock, 10.0, "a network")
    assert reached == pytest.approx(40 * width**2)
    assert reached <= 10


@pytest.mark.parametrize(
    ("budget", "kind", "sentence"),
    [
        ({"parameters": 100}, DepthwiseError, "no xception of parameters=100: at width 0.0156 it has "),
        ({"macs": 1e5}, DepthwiseError, "no xception of macs=100,000: at width "),
        ({"milliseconds": 1e-3}, DepthwiseError, "no xception in 0.001 ms on this machine: at width "),
        (
            {"macs": 1e15, "middle": (), "entry": (8,), "exit": (8,)},
            DepthwiseError,
            "is wider than 64 times the network",
        ),
        (
            {"parameters": 1e15},
            UsageError,
            r"parameters=1000000000000000.0 must be above 0 and at most 2,000,000,000: give",
        ),
        (
            {"milliseconds": 1e300},
            UsageError,
            r"milliseconds=1e\+300 must be above 0 and at most 1,000,000: ",
        ),
        ({"macs": float("nan")}, UsageError, "macs=nan is no finite number"),
        ({}, UsageError, "0 budgets are given: give one of parameters, macs, milliseconds"),
        ({"parameters": 1e6, "macs": 1e6}, UsageError, "2 budgets are given"),
        ({"parameters": 1e6, "width": 0.5}, UsageError, "width=0.5 is what is looked for: leave it out"),
        (
            {"parameters": 1e6, "widht": 1},
            UsageError,
            "unknown argument of xception 'widht': use one of width",
        ),
    ],
)
def test_what_cannot_be_matched_is_said(
    budget: dict[str, float], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        match("xception", **{**SMALL, "middle": (8,), **budget})  # type: ignore[arg-type]


def test_a_budget_is_met_though_the_next_power_of_two_cannot_be_built() -> None:
    found = match("xception", parameters=1.9e9)
    assert 8 < found.width < 16
    assert found.parameters <= 1.9e9
