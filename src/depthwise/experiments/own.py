"""A comparison of one's own: arms as settings of the scale's recipe, brought to one budget, judged pair by pair.

What people who choose a network for their own images ask: which is best at equal parameters, or equal multiply-adds,
and is that more than chance?
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from depthwise.bounds import Bounds, fit
from depthwise.comparison.claims import Best
from depthwise.comparison.conduct import Build, Order, Printed, Watcher, conduct
from depthwise.comparison.experiment import Arm, Costs, Curves, Dots, Experiment
from depthwise.comparison.jobs import share_of
from depthwise.comparison.outcome import MAP_AT_100, MAP_OF_FOUND, TOP1, TOP5
from depthwise.comparison.plan import place_of
from depthwise.comparison.results import Results
from depthwise.comparison.setting import Setting
from depthwise.data.columns import Columns
from depthwise.errors import UsageError, about, shown, unknown_name
from depthwise.models import CATALOGUE, model_arguments
from depthwise.train.recipe import Recipe
from depthwise.words import number_of

Match = Literal["", "parameters", "macs"]
Settings = Mapping[str, Any]


NAME = "compare"
"""What experiment.json calls it."""


def compare(
    arms: Mapping[str, Settings | Recipe] | Sequence[Settings | Recipe],
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    match: Match = "",
    scale: str = "mini",
    seeds: Annotated[int, Bounds(1, 1000)] = 3,
    runs: str | os.PathLike[str] | None = None,
    jobs: Annotated[int, Bounds(1, 256)] | None = None,
    workers: Annotated[int, Bounds(0, 256)] = 0,
    device: str = "auto",
    columns: Columns | None = None,
    force: bool = False,
    watcher: Watcher | None = None,
) -> Results:
    """Train each of `arms` with each seed and compare them: `depthwise experiment run compare` in Python.

    arms: a Recipe, or settings for the scale's, by name; those of a list are named by their networks. match: what
    all are brought to, "parameters" or "macs" of the first arm, by their `width`. data: as for `train`, but no Dataset,
    for each run is a process. The others are the command's options. Results and a page are left in `out`.

    Raises DepthwiseError with the command's sentences, and KeyboardInterrupt, after checkpoints, for Ctrl-C.
    """
    if not isinstance(data, str | os.PathLike):
        raise UsageError(
            f"data={shown(data)} is no path, and each run is a process: give a folder or a manifest"
        )
    for name, value in (("seeds", seeds), ("jobs", jobs), ("workers", workers)):
        fit(value, compare.__annotations__[name], name, 3)
    named = _named(arms)
    asked = to_json(named, match)
    order = Order(NAME, built(asked), scale, os.fspath(data), seeds, columns, asked)
    place = place_of(Path(out), None if runs is None else Path(runs))
    return conduct(order, place, share_of(jobs, workers, device, scale), watcher or Printed(), force=force)


def to_json(arms: Mapping[str, Settings | Recipe], match: str) -> dict[str, Any]:
    """Arms and what they are brought to as plain values, which `built` reads."""
    values = {
        name: {"recipe": given.to_json()} if isinstance(given, Recipe) else {"settings": dict(given)}
        for name, given in arms.items()
    }
    return {"arms": values, "match": match}


def built(asked: Mapping[str, Any]) -> Build:
    """The experiment of such values. Raises UsageError for fewer than two arms, and for a budget that there is not."""
    if len(asked["arms"]) < 2:
        number = number_of(len(asked["arms"]), "arm")
        raise UsageError(f"a comparison needs two arms, and this has {number}: give another --arm NAME='...'")
    match = fit(asked["match"], Match, "match", "parameters")
    arms = {
        name: Recipe.from_json(given["recipe"]) if "recipe" in given else given["settings"]
        for name, given in asked["arms"].items()
    }
    return partial(_experiment, arms=arms, match=match)


def _named(arms: Any) -> dict[str, Settings | Recipe]:
    """By the names given or by their networks, and by a number where two have the same. Raises UsageError for what are
    no arms."""
    if not isinstance(arms, Mapping | Sequence) or isinstance(arms, str):
        raise UsageError(
            f"arms={shown(arms)} are no arms: give settings by name, {{'a': {{'model': 'xception'}}, ...}}, or a list "
            f"of recipes"
        )
    for name, given in arms.items() if isinstance(arms, Mapping) else enumerate(arms, start=1):
        if not isinstance(given, Mapping | Recipe) or not isinstance(name, str | int):
            raise UsageError(
                f"arm {name}={shown(given)}: give settings, {{'model': 'xception'}}, or a Recipe"
            )
    if isinstance(arms, Mapping):
        return {str(name): given for name, given in arms.items()}
    names = [given.model if isinstance(given, Recipe) else str(given.get("model", "arm")) for given in arms]
    return {
        name if names.count(name) == 1 else f"{name} {names[: k + 1].count(name)}": arms[k]
        for k, name in enumerate(names)
    }


def _experiment(setting: Setting, *, arms: Mapping[str, Settings | Recipe], match: Match) -> Experiment:
    recipes: dict[str, Recipe] = {}
    budget = 0
    for name, given in arms.items():
        with about(f"arm {name}"):
            recipe = _recipe(setting, given)
            if match and recipes:
                recipe = setting.matched(recipe, match, budget)
            elif match:
                budget = setting.cost(recipe)[match]
        recipes[name] = recipe
    several = setting.traits.several
    metrics = (
        (MAP_AT_100, MAP_OF_FOUND) if several else (TOP1, TOP5) if setting.traits.num_classes > 5 else (TOP1,)
    )
    names = tuple(recipes)
    return Experiment(
        question=f"Which is best of {', '.join(names[:-1])} and {names[-1]}?",
        source="a comparison of one's own",
        arms=tuple(Arm(name, recipe) for name, recipe in recipes.items()),
        matched=match,
        metrics=metrics,
        claims=(Best("One of them is best.", names, metric=metrics[0]),),
        figures=(
            Curves("On the way", key=metrics[0].key),
            Dots("In the end", metrics[0]),
            Costs("Against multiply-adds", "macs", metrics[0]),
        ),
    )


def _recipe(setting: Setting, given: Settings | Recipe) -> Recipe:
    if isinstance(given, Recipe):
        return given
    settings = dict(given)
    if "seed" in settings:
        raise UsageError(
            "seed cannot be set, for arms share their seeds: leave it out, and give their number as seeds"
        )
    base = setting.recipe
    model = settings.pop("model", base.model)
    if model not in CATALOGUE:
        raise unknown_name("model", str(model), CATALOGUE)
    if model != base.model:
        base = setting.network(model, base)
    return base.with_settings(settings.items(), model_arguments(base.model))


def parsed(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Arms as a shell has them, NAME='key=value key=value'. Raises UsageError for all else."""
    import shlex

    from depthwise.bounds import parse_setting

    arms: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, settings = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(
                f"--arm {text!r} has no name: write for example --arm a='model=xception width=0.5'"
            )
        if name in arms:
            raise UsageError(f"--arm {name} is given twice: give each arm a name of its own")
        try:
            words = shlex.split(settings)
        except ValueError as error:
            raise UsageError(f"--arm {text!r} cannot be read ({error}): close the quotation") from None
        arms[name] = dict(map(parse_setting, words))
    return arms
