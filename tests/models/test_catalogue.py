"""The catalogue's numbers, recomputed from the networks, and the bounds of every argument."""

import inspect
import re
from typing import Any

import pytest
import torch

from depthwise.analysis.cost import cost
from depthwise.errors import DepthwiseError, UsageError
from depthwise.models import CATALOGUE, create_model, list_models


@pytest.mark.parametrize("name", CATALOGUE)
def test_published_numbers_are_recomputed(name: str) -> None:
    entry = CATALOGUE[name]
    with torch.device("meta"):  # without the numbers, which take seconds to draw
        network = create_model(name)
    bill = cost(network, (3, entry.input_size, entry.input_size))
    assert entry.name == name
    assert bill.trainable == entry.parameters
    assert bill.macs == pytest.approx(entry.macs, rel=0.005)
    assert (entry.top1 is None) == (entry.top5 is None)
    assert entry.top1 is None or 0 < entry.top1 < entry.top5 < 1


def test_names_are_listed_by_pattern() -> None:
    assert list_models() == sorted(CATALOGUE)
    assert list_models("inception_v3*") == ["inception_v3", "inception_v3_table3"]
    assert list_models("alexnet") == []


def test_an_unknown_name_or_argument_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=re.escape("unknown model 'xeption': use one of xception")):
        create_model("xeption")
    with pytest.raises(
        UsageError, match=re.escape("unknown argument of xception 'drop_out': use one of dropout")
    ):
        create_model("xception", drop_out=0.5)
    with pytest.raises(DepthwiseError, match=re.escape("dropout=2 must be at least 0 and below 1")):
        create_model("inception_v3", dropout=2)


@pytest.mark.parametrize(
    ("argument", "value", "wanted"),
    [
        ("residual", "maybe", "True or False"),
        ("width", "wide", "a number or a tuple"),
        ("width", True, "a number or a tuple"),
        ("num_classes", 2.5, "a whole number"),
        ("entry", 128, "a tuple"),
        ("padding", 1, "'same' or 'symmetric'"),
        ("conv", 3, "a text or a function"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(argument: str, value: object, wanted: str) -> None:
    with pytest.raises(
        UsageError, match=re.escape(f"{argument}={value!r} must be {wanted}: write for example {argument}=")
    ):
        create_model("xception", **{argument: value})


HOSTILE = (
    10**400,
    -1,
    1e300,
    float("nan"),
    float("inf"),
    "\udcff" * 5000,
    (10**9,) * 3,
    [[[[0]]]] * 5000,
    {"a": 1},
    b"x",
)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_argument_of_every_network_has_bounds(name: str) -> None:
    """Whatever is given for it, the network is built without memory or refused in one short sentence."""
    builder = CATALOGUE[name].builder
    for argument in inspect.signature(builder).parameters:
        for value in HOSTILE:
            with torch.device("meta"), pytest.raises(UsageError) as raised:
                builder(**{argument: value})
            assert len(str(raised.value)) < 450
            assert argument in str(raised.value) or "unknown" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("xception", {"entry": (65_536,) * 3}),
        ("xception", {"width": 16}),
        ("resnet50", {"group_width": 1024, "groups": 1024, "width": 16.0}),
        ("vgg16", {"hidden": (65_536, 65_536)}),
        ("mobilenet_v2", {"blocks": ((64, 65_536, 64, 1),) * 12}),
    ],
)
def test_a_network_too_large_is_refused_before_it_takes_memory(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(
        UsageError, match=r"has [\d,]+ parameters, and at most 2,000,000,000 can be: make it narrower"
    ):
        create_model(name, **arguments)
