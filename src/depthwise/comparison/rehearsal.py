"""What an experiment would take, from a few updates of each arm on made-up images of the set's shape."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Protocol

import torch

from depthwise import native
from depthwise.comparison.experiment import Arm, Experiment
from depthwise.comparison.jobs import Share
from depthwise.comparison.setting import Setting
from depthwise.comparison.speed import trainer_of
from depthwise.timing import seconds
from depthwise.train.recipe import Recipe
from depthwise.train.run import choose_device, choose_precision

UPDATES = 10


class Teller(Protocol):
    """Who hears what is being done."""

    def now(self, text: str) -> None: ...


@dataclass(frozen=True)
class Rehearsed:
    """An arm: updates of a whole run, and the median seconds of one here."""

    name: str
    parameters: int
    updates: int
    update: float

    @property
    def seconds(self) -> float:
        """Of a run, without evaluations."""
        return self.updates * self.update


@dataclass(frozen=True)
class Rehearsal:
    """All arms, as they run `at_once`."""

    arms: tuple[Rehearsed, ...]
    at_once: int

    def seconds(self, seeds: int) -> float:
        """Of all arms with so many seeds."""
        return seeds * sum(arm.seconds for arm in self.arms) / self.at_once

    def to_json(self, seeds: int) -> dict[str, Any]:
        arms = [{**asdict(arm), "seconds": arm.seconds} for arm in self.arms]
        return {"seeds": seeds, "at_once": self.at_once, "seconds": self.seconds(seeds), "arms": arms}


def rehearsed(
    build: Callable[[Setting], Experiment], setting: Setting, share: Share, teller: Teller
) -> Rehearsal:
    """Build every arm, and do ten updates of it by its own recipe, batch and precision; once for arms of one recipe."""
    native.tune_allocator()
    torch.set_num_threads(share.threads)
    teller.now("bringing the arms to one budget")
    experiment = build(setting)
    own, device = experiment.setting or setting, choose_device(share.device)
    taken: list[tuple[Recipe, float]] = []  # of arms that have one recipe once
    found = []
    for number, arm in enumerate(experiment.arms, start=1):
        recipe = replace(arm.recipe, batch_size=min(arm.recipe.batch_size, own.traits.num_train))
        update = next((each for other, each in taken if other == recipe), None)
        if update is None:
            teller.now(f"arm {number} of {len(experiment.arms)}: {UPDATES} updates of {arm.name}")
            update = update_seconds(recipe, own, device, UPDATES)
            taken.append((recipe, update))
        found.append(_rehearsed(replace(arm, recipe=recipe), own, update))
    return Rehearsal(tuple(found), share.at_once)


def _rehearsed(arm: Arm, setting: Setting, taken: float) -> Rehearsed:
    """taken: seconds of a batch."""
    recipe = arm.recipe
    needed = arm.simulate.needed if arm.simulate else 1  # gradients in an update
    samples = recipe.batch_size * recipe.accumulate * needed
    updates = recipe.total_steps(max(1, setting.traits.num_train // samples), samples)
    return Rehearsed(arm.name, setting.cost(recipe)["parameters"], updates, taken * needed)


def update_seconds(recipe: Recipe, setting: Setting, device: torch.device, updates: int) -> float:
    """The median of so many updates by the `recipe`, images included, which are made up and read in this process."""
    precision = choose_precision(recipe.precision, device)
    trainer = trainer_of(recipe, setting, device, precision, recipe.batch_size)

    def update() -> None:
        trainer.update()
        _ = trainer.window  # waits for an accelerator

    try:
        return median(seconds(update) for _ in range(updates))
    finally:
        trainer.batches.close()
