"""Recipes as values: written, read back, changed by settings; every refusal read."""

import json
import re
from dataclasses import replace

import pytest

from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import UsageError
from depthwise.recipes import RECIPES, Traits
from depthwise.train.optimizer import SGD, AdamW, Cosine, RMSprop, StepDecay
from depthwise.train.recipe import Recipe, differences

TRAITS = Traits(num_train=1000, num_classes=10, height=28, width=28)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    recipe = RECIPES[name](TRAITS)
    read = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert read.to_json() == recipe.to_json()
    assert replace(read, model_args=recipe.model_args) == recipe
    assert recipe.name == name


def test_the_papers_settings() -> None:
    """Chollet 2017, sections 4.3 and 4.4."""
    imagenet, jft = RECIPES["xception-imagenet"](TRAITS), RECIPES["xception-jft"](TRAITS)
    inception = RECIPES["inception-v3-imagenet"](TRAITS)
    assert imagenet.optimizer == SGD(lr=0.045, momentum=0.9, weight_decay=1e-5)
    assert imagenet.schedule == StepDecay(rate=0.94, every=2, unit="epochs")
    assert imagenet.model_args["dropout"] == 0.5
    assert jft.optimizer == RMSprop(lr=0.001, momentum=0.9, decay=0.9, eps=1.0, weight_decay=1e-5)
    assert jft.schedule == StepDecay(rate=0.9, every=3_000_000, unit="samples")
    assert jft.model_args["dropout"] == 0.0
    assert (jft.samples, jft.eval_every, jft.eval_unit) == (30_000_000 * 32, 3_000_000, "samples")
    assert jft.total_steps(steps_per_epoch=350_000_000 // 32, samples_per_step=32) == 30_000_000
    assert inception.optimizer == SGD(lr=0.045, momentum=0.9, weight_decay=4e-5)
    assert inception.model == "inception_v3"
    assert all(
        recipe.averaging and recipe.preprocess.size == (299, 299) for recipe in (imagenet, jft, inception)
    )


def test_settings_reach_fields_parts_and_the_network() -> None:
    recipe = Recipe(name="x").override(
        [
            "epochs=4",
            "optimizer=adamw",
            "optimizer.lr=1",
            "augment.flip=false",
            "size=64",
            "preprocess.crop_fraction=1",
            "mean=(0.1,0.2,0.3)",
            "width=0.25",
            "middle=(8, 8)",
        ],
        model_arguments=["width", "middle"],
    )
    assert recipe.epochs == 4.0
    assert isinstance(recipe.epochs, float)
    assert recipe.optimizer == AdamW(lr=1.0)
    assert recipe.augment == Augment(flip=False)
    assert recipe.preprocess == Preprocess((64, 64), crop_fraction=1.0, mean=(0.1, 0.2, 0.3))
    assert recipe.model_args == {"width": 0.25, "middle": (8, 8)}


def test_a_recipe_of_an_older_version_has_its_preprocessing_flat() -> None:
    recipe = Recipe(name="x").override(["size=(64,96)", "channels=1", "mean=(0.2,)"])
    nested = recipe.to_json()
    flat = {name: value for name, value in nested.items() if name != "preprocess"}
    flat |= {name: value for name, value in nested["preprocess"].items() if name != "kind"}
    assert Recipe.from_json(flat) == recipe
    assert Recipe.from_json({"name": "x"}) == Recipe(name="x")
    with pytest.raises(UsageError, match="unknown field of the recipe 'size'"):
        Recipe.from_json({**nested, "size": [64, 96]})


def test_a_part_takes_the_named_kind() -> None:
    assert Recipe(name="x").override(["schedule=cosine", "schedule.warmup=2"]).schedule == Cosine(warmup=2.0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=4", r"unknown setting 'epoch': use one of epochs"),
        ("widht=1", r"unknown setting 'widht': use one of width"),
        ("optimizer.learning=1", r"unknown field of the optimizer 'learning'"),
        ("preprocess.siez=96", r"unknown field of the preprocess 'siez': use one of size, channels, "),
        ("siez=96", r"unknown setting 'siez': use one of size, seed$"),
        ("preproces.size=96", r"unknown setting 'preproces.size': use one of preprocess"),
        (
            "preprocess.size=0",
            r"size=\(0, 0\): 0 must be at least 1 and at most 8,192: write for example size=\(299, 299\)",
        ),
        (
            "mean=(0.5,0.5)",
            r"mean=\(0.5, 0.5\) and std=\(0.5, 0.5, 0.5\) must hold a number for each channel",
        ),
        ("optimizer=sdg", r"unknown kind of optimizer 'sdg': use one of sgd"),
        ("epochs", r"setting 'epochs' has no '='"),
        ("epochs=many", r"epochs='many' must be a number: write for example epochs=10"),
        ("seed=1.5", r"seed=1.5 must be a whole number: write for example seed=0"),
        (
            "batch_size=0",
            r"batch_size=0 must be at least 1 and at most 1,000,000: write for example batch_size=32",
        ),
        ("averaging=1", r"averaging=1 must be at least 0 and below 1"),
        ("precision=half", r"unknown precision 'half': use one of"),
        ("optimizer.nesterov=1", r"optimizer.nesterov=1 must be True or False"),
        ("channels=three", r"channels='three' must be 1 or 3 or 4 or None"),
    ],
)
def test_refusals(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(name="x").override([setting], model_arguments=["width"])


def test_differences_name_the_nested_key() -> None:
    old = Recipe(name="x").to_json()
    new = Recipe(name="x").override(["optimizer.lr=0.5", "epochs=3"]).to_json()
    assert differences(old, new) == ["epochs: 10.0 -> 3.0", "optimizer.lr: 0.1 -> 0.5"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.lr=-1", "optimizer.lr=-1 must be at least 0"),
        ("clip_norm=-1", "clip_norm=-1 must be at least 0"),
        ("seed=-1", "seed=-1 must be at least 0"),
        ("norm_momentum=3", "norm_momentum=3 must be above 0 and at most 1"),
        ("lr=0.1", "unknown setting 'lr': use one of optimizer.lr"),
    ],
)
def test_a_setting_that_cannot_be_is_named(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Recipe(name="test").override([setting])


def test_a_run_is_as_long_as_its_samples_say() -> None:
    recipe = Recipe("r", epochs=3).with_settings(
        [("samples", 1000), ("eval_every", 250), ("eval_unit", "samples")]
    )
    trainer_of = {"steps_per_epoch": 10, "samples_per_step": 20}
    assert recipe.total_steps(**trainer_of) == 50
    assert recipe.with_settings([("epochs", 2)]).total_steps(**trainer_of) == 20, (
        "what is asked for last counts"
    )
    with pytest.raises(
        UsageError, match="epochs and samples are both the length of the run: give one of them"
    ):
        recipe.with_settings([("epochs", 2), ("samples", 5)])
    assert Recipe.from_json(recipe.to_json()) == recipe
