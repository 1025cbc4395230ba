"""A comparison of one's own: arms as settings of the scale's recipe, brought to one budget, judged pair by pair.

What people who choose a network for their own images ask: which is best at equal parameters, or equal multiply-adds,
and is that more than chance?
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from depthwise.comparison.claims import Best
from depthwise.comparison.experiment import Arm, Costs, Curves, Dots, Experiment
from depthwise.comparison.outcome import MAP_AT_100, MAP_OF_FOUND, TOP1, TOP5
from depthwise.comparison.setting import Setting
from depthwise.errors import UsageError
from depthwise.models import model_arguments
from depthwise.train.recipe import Recipe

Match = Literal["", "parameters", "macs"]
Settings = Mapping[str, Any]


def compare(arms: Mapping[str, Settings | Recipe], match: Match = "") -> Any:
    """An experiment of `arms`, each a Recipe or settings for the scale's, by its name.

    Settings are pairs as `--set` has them, and `model`, the network. match: what all are brought to, that of the first
    arm: their `width` is then what is looked for.

    Raises UsageError for fewer than two arms.
    """
    if len(arms) < 2:
        raise UsageError(
            f"{len(arms)} arm is given, and a comparison needs two: give another --arm NAME='...'"
        )
    return partial(_experiment, arms=dict(arms), match=match)


def _experiment(setting: Setting, *, arms: Mapping[str, Settings | Recipe], match: Match) -> Experiment:
    recipes = {name: _recipe(setting, given) for name, given in arms.items()}
    first, *others = recipes
    if match:
        budget = setting.cost(recipes[first])[match]
        recipes |= {name: setting.matched(recipes[name], match, budget) for name in others}
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
    base = setting.recipe
    model = settings.pop("model", base.model)
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
        if not equals or not name.strip():
            raise UsageError(
                f"--arm {text!r} has no name: write for example --arm a='model=xception width=0.5'"
            )
        if name in arms:
            raise UsageError(f"--arm {name} is given twice: give each arm a name of its own")
        try:
            words = shlex.split(settings)
        except ValueError as error:
            raise UsageError(f"--arm {text!r} cannot be read ({error}): close the quotation") from None
        arms[name.strip()] = dict(map(parse_setting, words))
    return arms
