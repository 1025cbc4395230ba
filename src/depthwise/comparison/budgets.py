"""Arms at each of three budgets: equal parameters, equal multiply-adds, equal measured time."""

from collections.abc import Callable, Mapping, Sequence

from depthwise.analysis.match import NoWidthError
from depthwise.comparison.claims import Best
from depthwise.comparison.experiment import Arm
from depthwise.comparison.outcome import Metric
from depthwise.comparison.setting import Budget, Setting
from depthwise.train.recipe import Recipe

GROUPS: dict[Budget, str] = {
    "parameters": "equal parameters",
    "macs": "equal multiply-adds",
    "milliseconds": "equal time",
}
MATCHED: Mapping[str, str] = {group: by for by, group in GROUPS.items()}
"""What arms of a group have in common."""


def at_each(
    setting: Setting,
    base: Recipe,
    names: Sequence[str],
    brought: Callable[[str, Budget, float], Recipe],
    place: Callable[[str, Recipe], float] = lambda name, recipe: 0.0,
) -> tuple[tuple[Arm, ...], tuple[str, ...]]:
    """An arm for each of `names` at each budget, which is what `base` takes: brought(name, by, budget).

    The second is sentences: what equal time means, and each that no width brings to the budget, which has no arm there:
    how fast the narrowest network is depends on the machine.
    """
    arms: list[Arm] = []
    notes = [
        f"Equal time is that of answers for {setting.batch} images in float32, measured here before training"
    ]
    for by, group in GROUPS.items():
        budget = setting.budget(base, by)
        for name in names:
            try:
                recipe = brought(name, by, budget)
            except NoWidthError:
                notes.append(f"{name} is left out at {group}: no width brings it there")
                continue
            arms.append(Arm(called(name, by), recipe, group, place(name, recipe)))
    return tuple(arms), tuple(notes)


def called(name: str, by: Budget) -> str:
    """The arm's own name."""
    return f"{name}, {GROUPS[by]}"


def best_at_each(arms: Sequence[Arm], expected: str, text: str, metric: Metric) -> tuple[Best, ...]:
    """At each budget, the arm of the name `expected` is the best. text: a sentence with a place for the budget."""
    return tuple(
        Best(
            text.format(group),
            tuple(arm.name for arm in arms if arm.group == group),
            (called(expected, by),),
            metric,
        )
        for by, group in GROUPS.items()
    )
