"""A budget of time: a run's epochs, and its schedule with them, laid out over so many minutes by measured speed.

What is measured is a copy that is thrown away, before the run begins. All that comes of it is a recipe, so a run with a
budget ends in the same bits as one that was given this recipe, and a resumed one knows nothing of budgets.
"""

import copy
import math
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

import torch
from torch import nn

from depthwise.bounds import Bounds, check, fit
from depthwise.data.dataset import Dataset, Split, test_split, val_split
from depthwise.errors import UsageError
from depthwise.evaluate.meters import run_meters
from depthwise.train.loop import Trainer, for_evaluation
from depthwise.train.optimizer import Clock
from depthwise.train.recipe import MAX_EPOCHS, MAX_EVALUATIONS, Recipe
from depthwise.train.together import wanted
from depthwise.train.world import ALONE, World
from depthwise.words import number_of

Minutes = Annotated[float, Bounds(0, 1_000_000, above=True)]
Seconds = Annotated[float, Bounds(0, 1e12)]

SHARE, MOST_SECONDS, LEAST_UPDATES = 0.04, 15.0, 3
"""Updates are measured for this part of the budget, but no longer than these seconds and no fewer than these; each of
two evaluations for half as long."""
LAST_SECONDS = 3.0
"""For bundle and report, which are written in the end: 1 to 2 seconds on two busy cores."""
SLOWER = 1.25
"""A run is called slower than measured from so many times the time that was reckoned with."""


@dataclass(frozen=True)
class Pace:
    """Seconds that a run takes: `first` until its first update is done, then one `update`; one `evaluation` on the
    way, of all kinds of weights; the measurement of the `final` weights, with all that is written after it."""

    first: Seconds
    update: Seconds
    evaluation: Seconds
    final: Seconds

    def __post_init__(self) -> None:
        check(self, "measured_seconds")

    def until(self, step: int, evaluations: int) -> float:
        """Seconds from the start to the end of update `step`, with so many evaluations on the way."""
        return self.first + (step - 1) * self.update + evaluations * self.evaluation


@dataclass(frozen=True)
class Budget:
    """What was asked for, what was measured, and what a run laid out by it should take; run.json has it."""

    minutes: Minutes
    planned_seconds: Seconds
    pace: Pace

    def __post_init__(self) -> None:
        check(self, "budget")

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded for people."""
        return {
            "minutes": self.minutes,
            "planned_seconds": round(self.planned_seconds, 1),
            "measured_seconds": {name: round(value, 6) for name, value in asdict(self.pace).items()},
        }

    @staticmethod
    def from_json(values: Any) -> "Budget":
        """Read what `to_json` gave. Raises UsageError for all else."""
        given = fit(values, dict[str, Any], "budget")
        measured = fit(given.get("measured_seconds"), dict[str, Any], "measured_seconds")
        names = [field.name for field in fields(Pace)]
        pace = Pace(*(measured.get(name) for name in names))
        return Budget(given.get("minutes"), given.get("planned_seconds"), pace)

    def slowness(self, recipe: Recipe, clock: Clock, seconds: float) -> str:
        """A sentence if a run that is `seconds` old is far behind what was measured; else ""."""
        evaluations = int(clock.now(recipe.eval_unit) / recipe.eval_every)
        expected = self.pace.until(clock.step, evaluations)
        if clock.step < clock.total_steps / 4 or seconds < SLOWER * expected + LAST_SECONDS:
            return ""
        times = seconds / expected
        return (
            f"the machine is {times:.1f} times as slow as it was measured to be at the start: the run takes about "
            f"{self.planned_seconds * times / 60:.1f} minutes of training instead of {self.planned_seconds / 60:.1f}, "
            f"and keeps to its schedule"
        )


def check_minutes(minutes: float | None, *, resume: bool) -> None:
    """Raise UsageError for what is no budget, and for one that comes too late."""
    if minutes is not None and resume:
        raise UsageError(
            "minutes lays out a new run, and one that goes on keeps to its schedule: leave minutes out"
        )
    fit(minutes, Minutes | None, "minutes", 30)


def lay_out(
    recipe: Recipe,
    module: nn.Module,
    dataset: Dataset,
    minutes: float,
    device: torch.device,
    workers: int,
    began: float,
    tell: Callable[[str], None] = lambda _: None,
    world: World = ALONE,
) -> tuple[Recipe, Budget]:
    """`recipe` with the epochs that fit into `minutes` since the time `began`, its schedule stretched to them.

    Training, evaluations and the last measurement are all in it. `module` stays as it is. `tell` hears what is being
    measured. The others of `world` train along. Raises UsageError if not even one update fits.
    """
    budget = 60 * minutes
    pace, clock, every = measure(
        recipe, module, dataset, budget, device=device, workers=workers, tell=tell, world=world
    )
    spent = time.monotonic() - began
    left = budget - spent - pace.final
    most = int(min(MAX_EPOCHS * clock.steps_per_epoch, MAX_EVALUATIONS * every))
    steps = fitting(pace, left, every, most)
    if not steps:
        needed = (spent + pace.until(1, 1) + pace.final) / 60
        raise UsageError(
            f"minutes={minutes:g} is too short: measuring, one update, its evaluation and the last measurement take "
            f"{number_of(float(f'{needed:.2g}'), 'minute')} here: give at least {math.ceil(2 * needed)}"
        )
    epochs = _rounded(steps / clock.steps_per_epoch)
    planned = pace.until(steps, math.ceil(steps / every)) + pace.final
    return _stretched(recipe, epochs, clock), Budget(minutes, planned, pace)


def fitting(pace: Pace, seconds: float, every: float, most: int) -> int:
    """How many updates fit into `seconds`, up to `most`, with an evaluation after `every` of them and at the end."""
    return bisect_right(
        range(1, most + 1), seconds, key=lambda step: pace.until(step, math.ceil(step / every))
    )


def measure(
    recipe: Recipe,
    module: nn.Module,
    dataset: Dataset,
    seconds: float,
    *,
    device: torch.device,
    workers: int,
    tell: Callable[[str], None],
    world: World = ALONE,
) -> tuple[Pace, Clock, float]:
    """The pace of a copy of `module`, the run's clock, and the updates from one evaluation to the next; takes a tenth
    of `seconds` at most, and longer only where single updates and batches do."""
    limit = min(SHARE * seconds, MOST_SECONDS)
    tell(f"measuring updates, about {limit:.2g} s")
    world.lead("rehearse", wanted(recipe, dataset))
    trainer = Trainer(recipe, copy.deepcopy(module), dataset, device=device, workers=workers, world=world)
    try:
        first, update = _update_seconds(trainer, limit)
        world.lead("end")
        kinds = 2 if trainer.average else 1

        def pass_over(name: str, split: Split, precision: str) -> float:
            tell(f"measuring evaluations on the {name} part in {precision}, at most about {limit / 2:.2g} s")
            alone = _pass_seconds(trainer, dataset, split, precision, workers=workers, limit=limit / 2)
            return alone / world.size  # which each answer their share of it

        evaluation = kinds * pass_over(*val_split(dataset), recipe.precision)
        # The best weights alone are measured in the end, others with those that they are compared with.
        final = (1 if recipe.keep == "best" else kinds) * pass_over(*test_split(dataset), "float32")
        return Pace(first, update, evaluation, final + LAST_SECONDS), trainer.clock, trainer.evaluation_steps
    finally:
        trainer.close()


def _update_seconds(trainer: Trainer, limit: float) -> tuple[float, float]:
    """The first update, and the mean of those that follow."""
    began = time.monotonic()
    trainer.update()
    _ = trainer.window  # waits for an accelerator
    first_done = time.monotonic()
    while True:
        trainer.update()
        _ = trainer.window
        done, took = trainer.step - 1, time.monotonic() - first_done
        if took > limit and (done >= LEAST_UPDATES or took > 3 * limit):
            return first_done - began, took / done


class _EnoughError(Exception):
    pass


def _pass_seconds(
    trainer: Trainer, dataset: Dataset, split: Split, precision: str, *, workers: int, limit: float
) -> float:
    """How long `trainer.module` takes for the whole of `split`, by as many of its batches as `limit` has room for."""
    batches = for_evaluation(trainer.recipe, dataset, trainer.task, split, workers)
    heard: list[float] = []

    def hear(done: int, total: int) -> None:
        heard.append(time.monotonic())
        if heard[-1] - began > limit and len(heard) > 1:
            raise _EnoughError

    began = time.monotonic()
    try:
        run_meters(
            trainer.module,
            batches,
            trainer.task.meters(),
            device=trainer.device,
            precision=precision,
            progress=hear,
        )
        return time.monotonic() - began
    except _EnoughError:
        each = (heard[-1] - heard[0]) / (len(heard) - 1)
        return heard[0] - began + each * (len(batches) - 1)
    finally:
        batches.close()


def _stretched(recipe: Recipe, epochs: float, clock: Clock) -> Recipe:
    """The recipe over `epochs`, with the lengths in its schedule, a warm-up for one, in proportion."""
    times = epochs / (clock.total("epochs") if recipe.samples else recipe.epochs)
    lengths = {field.name for field in fields(recipe.schedule)} & {"warmup", "every"}
    changed: dict[str, Any] = {name: _rounded(getattr(recipe.schedule, name) * times) for name in lengths}
    return replace(recipe, epochs=epochs, samples=0, schedule=replace(recipe.schedule, **changed))


def _rounded(number: float) -> float:
    """To four digits, downwards, so that a person can read it and nothing becomes longer."""
    if not number:
        return number
    unit = 10.0 ** (math.floor(math.log10(abs(number))) - 3)
    return float(f"{math.floor(number / unit + 1e-9) * unit:.4g}")
