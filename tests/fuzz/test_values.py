"""Any value in any field of a recipe, a bundle's config or a setting is taken or refused in one sentence."""

import dataclasses
import json
import math
from typing import Any

import pytest
from hostile import VALUES, check_sentence
from hypothesis import given, settings
from hypothesis import strategies as st

from depthwise.bundle import BundleConfig
from depthwise.data import Preprocess
from depthwise.errors import DepthwiseError
from depthwise.models import CATALOGUE
from depthwise.train.recipe import PARTS, SHORT, Recipe

NUMBERS = (
    st.integers() | st.floats() | st.integers(-(10**400), 10**400) | st.floats(0, 2) | st.integers(0, 10)
)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=20) | st.sampled_from(VALUES)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
RECIPE = Recipe(name="fuzz").to_json()
CONFIG = BundleConfig(
    "xception",
    ("a", "b"),
    Preprocess((32, 32), 3),
    {"width": 0.5},
    compiled={
        "precision": "fp32",
        "engine": "native",
        "error": 1e-6,
        "milliseconds": 1.0,
        "accuracy": [0.9, 0.9],
    },
).to_json()
SETTINGS = [
    *(name for name in RECIPE if name not in ("name", "model_args")),
    *(
        f"{part}.{f.name}"
        for part, kinds in PARTS.items()
        for k in kinds.values()
        for f in dataclasses.fields(k)
    ),
    *SHORT,
    "width",
]

# Derandomised: the same examples each time, so that a failure comes again.
fuzz = settings(max_examples=400, deadline=None, derandomize=True, database=None)


def attempt(read: Any) -> Any:
    """What `read` gives, or None if it refuses in a sentence."""
    try:
        return read()
    except DepthwiseError as error:
        check_sentence(str(error))
        return None


@fuzz
@given(st.sampled_from(sorted(RECIPE)), ANYTHING)
def test_a_recipes_field(name: str, value: Any) -> None:
    recipe = attempt(lambda: Recipe.from_json({**RECIPE, name: value}))
    if recipe:
        written = attempt(recipe.to_json)
        assert written is None or Recipe.from_json(json.loads(json.dumps(written))).to_json() == written
        assert all(math.isfinite(v) for v in vars(recipe).values() if isinstance(v, float))


@fuzz
@given(st.sampled_from(sorted(PARTS)), st.data())
def test_a_parts_field(part: str, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(PARTS[part])))
    values = {f.name: f.default for f in dataclasses.fields(PARTS[part][kind])}
    values[data.draw(st.sampled_from([*sorted(values), "nothing"]))] = data.draw(ANYTHING)
    attempt(lambda: Recipe.from_json({**RECIPE, part: {"kind": kind, **values}}))


@fuzz
@given(ANYTHING)
def test_anything_for_a_recipe(value: Any) -> None:
    attempt(lambda: Recipe.from_json(value))


@fuzz
@given(st.sampled_from(SETTINGS), LEAVES | st.text(max_size=30) | st.lists(NUMBERS, max_size=4))
def test_a_setting(name: str, value: Any) -> None:
    huge = isinstance(value, int) and abs(value) > 10**4000
    text = value if isinstance(value, str) else "9" * 5000 if huge else repr(value)
    attempt(lambda: Recipe(name="fuzz").override([f"{name}={text}"], ["width"]))


@fuzz
@given(
    st.sampled_from(
        [("",), *((k,) for k in CONFIG), *((p, k) for p in ("preprocess", "compiled") for k in CONFIG[p])]
    ),
    ANYTHING,
)
def test_a_configs_field(path: tuple[str, ...], value: Any) -> None:
    values = json.loads(json.dumps(CONFIG))
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    attempt(lambda: BundleConfig.from_json(values))


@pytest.mark.parametrize(
    "name", ["xception", "mobilenet_v2", "resnet50", "vgg16", "nin_maxout", "inception_v3"]
)
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_a_networks_argument(name: str, data: st.DataObject) -> None:
    """Built without memory or refused. Lists of small numbers often make a network."""
    import inspect

    import torch

    argument = data.draw(st.sampled_from(sorted(inspect.signature(CATALOGUE[name].builder).parameters)))
    value = data.draw(ANYTHING | st.lists(st.integers(0, 70_000), max_size=4))

    def build() -> Any:
        with torch.device("meta"):
            return CATALOGUE[name].builder(**{argument: value})

    attempt(build)
