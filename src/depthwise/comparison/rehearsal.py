"""What an experiment would take, from a few updates of each arm on made-up images of the set's shape."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import inf
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
PATIENCE = 1.0
"""Seconds of an arm's updates, after which there are no more."""

PIXELS = 2 * 299 * 299
"""For each thread of a CPU in an update or an answer: with those of two of the paper's images it is busy."""


class Teller(Protocol):
    """Who hears what is being done."""

    def now(self, text: str) -> None: ...


@dataclass(frozen=True)
class Rehearsed:
    """An arm: updates of a whole run, and the median seconds of one here, reckoned from those of `timed` images."""

    name: str
    parameters: int
    updates: int
    update: float
    images: int
    timed: int

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
    """Build every arm, and do a few updates of it by its own recipe and precision; once for arms of one recipe.

    On a CPU large images are few in an update, and in the answers by which widths of equal time are found, roughly.
    """
    native.tune_allocator()
    torch.set_num_threads(share.threads)
    teller.now("bringing the arms to one budget")
    answers = _few(setting.batch, setting.recipe, share.threads)
    if answers < setting.batch:
        setting = replace(setting, kept=dict(setting.kept), rough=answers)
    experiment = build(setting)
    own, device = experiment.setting or setting, choose_device(share.device)
    taken: list[tuple[Recipe, float]] = []  # of arms that have one recipe once
    found = []
    for number, arm in enumerate(experiment.arms, start=1):
        recipe = replace(arm.recipe, batch_size=min(arm.recipe.batch_size, own.traits.num_train))
        images = recipe.batch_size
        timed = _few(images, recipe, share.threads) if device.type == "cpu" else images
        update = next((each for other, each in taken if other == recipe), None)
        if update is None:
            teller.now(f"arm {number} of {len(experiment.arms)}: updates of {arm.name}")
            fewer = replace(recipe, batch_size=timed)
            update = update_seconds(fewer, own, device, UPDATES, PATIENCE) * images / timed
            taken.append((recipe, update))
        found.append(_rehearsed(replace(arm, recipe=recipe), own, update, timed))
    return Rehearsal(tuple(found), share.at_once)


def _few(images: int, recipe: Recipe, threads: int) -> int:
    """At most `images` of the recipe's, as many as keep the threads busy; two, which batch norm wants in training."""
    height, width = recipe.preprocess.size
    return min(images, max(2, threads * PIXELS // (height * width)))


def _rehearsed(arm: Arm, setting: Setting, taken: float, timed: int) -> Rehearsed:
    """taken: seconds of a batch."""
    recipe = arm.recipe
    needed = arm.simulate.needed if arm.simulate else 1  # gradients in an update
    samples = recipe.batch_size * recipe.accumulate * needed
    updates = recipe.total_steps(max(1, setting.traits.num_train // samples), samples)
    parameters = setting.cost(recipe)["parameters"]
    return Rehearsed(arm.name, parameters, updates, taken * needed, recipe.batch_size, timed)


def update_seconds(
    recipe: Recipe, setting: Setting, device: torch.device, updates: int, patience: float = inf
) -> float:
    """The median of so many updates by the `recipe`, images included, which are made up and read in this process.

    patience: seconds after which there are no more, but one at least. A first one, which takes longer, is not counted.
    """
    precision = choose_precision(recipe.precision, device)
    trainer = trainer_of(recipe, setting, device, precision, recipe.batch_size)

    def update() -> None:
        trainer.update()
        _ = trainer.window  # waits for an accelerator

    taken: list[float] = []
    try:
        update()
        while not taken or (len(taken) < updates and sum(taken) < patience):
            taken.append(seconds(update))
    finally:
        trainer.batches.close()
    return median(taken)
