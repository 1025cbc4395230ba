"""Which cause the doctor names for which signals; and that it says nothing of a run that learns."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.train.conftest import RECIPE

from depthwise.doctor.case import Case
from depthwise.doctor.causes import CAUSES, Finding, diagnose
from depthwise.tasks.losses import Asymmetric, Focal, Loss, Plain
from depthwise.tasks.single_label import SingleLabel
from depthwise.train.optimizer import SGD, Constant

GUESS = math.log(10)
HEALTHY = {
    "images": 32, "guess": GUESS, "layers": 10, "norms": 8, "momentum": 0.1, "trained": 1.0, "towers": 0.0,
    "input_mean": 0.1, "input_std": 0.8, "input_difference": 0.7, "loss": 1.0, "eval_loss": 1.1, "accuracy": 0.8,
    "eval_accuracy": 0.75, "answers": 9, "eval_answers": 9, "spread": 0.6, "dead": 0.02, "dead.middle": 0.02,
    "moved": 2e-3, "moved.middle": 2e-3, "still": 0.0,
}  # fmt: skip
TOTAL, EVERY, EPOCH, BATCH = 400, 4, 20, 64


def case(
    *,
    loss: float = 0.3,
    accuracy: float = 0.9,
    first: Mapping[str, Any] | None = None,
    later: Mapping[str, Any] | None = None,
    scores: float = 0.9,
    until: int = TOTAL,
    ends: tuple[Mapping[str, Any], ...] = (),
    task: str = "single-label",
    counts: tuple[int, ...] = (128,) * 10,
    early: float = 0.5,
    by: Loss = Plain(),
    **recipe: Any,
) -> Case:
    """A run of 400 updates, 20 an epoch: after the first epoch it has this loss and accuracy on the training part, in
    the first the accuracy `early`; `scores` in evaluations; healthy signals, but as `first` says in the first look and
    as `later` says in others."""
    lines: list[dict[str, Any]] = []
    for step in (1, *range(EVERY, until + 1, EVERY)):
        at = {"step": step, "epoch": step / EPOCH, "samples": step * BATCH, "seconds": step / 10}
        done = step > EPOCH
        lines.append(
            {
                "kind": "train", **at, "lr": 0.1, "images_per_second": 600.0,
                "loss": loss if done else GUESS, "accuracy": accuracy if done else early,
            }
        )  # fmt: skip
        if step == 1 or step % 40 == 0:
            lines.append({"kind": "health", **at, **HEALTHY, **((first if step == 1 else later) or {})})
        if step % 40 == 0:
            lines.append(
                {"kind": "eval", **at, "split": "test", "weights": "raw", "loss": 1.0, "top1": scores}
            )
    epochs = {"epochs": TOTAL / EPOCH, "averaging": 0.0, "loss": by, **recipe}
    settled = replace(RECIPE, **epochs).to_json()
    return Case(Path("run"), settled, counts, task, SingleLabel.headline, [*lines, *ends])


STUCK: dict[str, Any] = {"loss": GUESS, "accuracy": 0.1, "scores": 0.1}
END = {"step": TOTAL, "epoch": TOTAL / EPOCH, "samples": TOTAL * BATCH, "seconds": 40.0}
DEAD = {"dead.middle": 1.0}
LOST = {**END, "kind": "health", "step": 41, "lost": 41, "total_steps": TOTAL}
TESTED = {**END, "kind": "test", "split": "test", "loss": 1.0}

SICK: dict[str, tuple[str, Case, str]] = {
    "no learning rate": ("nothing-trained", case(**STUCK, optimizer=SGD(lr=0)), "the learning rate is 0"),
    "no parameter": ("nothing-trained", case(**STUCK, first={"trained": 0.001}), "0.1% of the network's weights"),
    "a class": ("one-class", case(counts=(1280, 0, 0)), "all 1,280 training images are of one class"),
    "the same labels": (
        "one-class", case(task="multi-label", counts=(1280, 0, 1280)), "all 1,280 training images have the same labels",
    ),
    "focal 0": ("loss-weights", case(loss=0.0, task="multi-label", by=Focal(alpha=0)), "loss.alpha=0 gives"),
    "focal 1": ("loss-weights", case(task="multi-label", by=Focal(alpha=1)), "loss.alpha=1 gives"),
    "clipped": ("loss-weights", case(task="multi-label", by=Asymmetric(clip=0.95)), "loss.clip=0.95 gives"),
    "one image": ("constant-inputs", case(**STUCK, first={"input_difference": 0.0}), "the first 32 images are equal"),
    "0 to 255": ("unnormalised-inputs", case(first={"input_mean": 120.0, "input_std": 70.0}), "inputs have mean 120"),
    "flat": ("unnormalised-inputs", case(first={"input_mean": -2.1, "input_std": 0.005}), "deviation 0.005"),
    "not finite": ("rate-too-high", case(until=40, ends=(LOST,)),
                   "the loss is not finite after 41 of 400 updates with learning rate 0.1"),
    "not finite in evaluation": (
        "rate-too-high", case(ends=({**TESTED, "weights": "averaged", "loss": math.nan},)),
        "the loss of the averaged weights is not finite in evaluation after 400 of 400 updates",
    ),
    "driven up in a short run": (
        "rate-too-high", case(**{**STUCK, "loss": 1e6}, until=24, epochs=1.2), "has driven it there",
    ),
    "driven up soon": ("rate-too-high", case(**{**STUCK, "loss": 30.0}, until=60), "drives the loss above guessing"),
    "dead soon": ("dead-relus", case(**STUCK, until=60, later={"dead": 1.0, **DEAD}, first=DEAD), "100% of the ReLUs"),
    "short": ("chance", case(**STUCK, until=80, epochs=4.0), "the loss is 2.303 after 80 of 80 updates"),
    "learned by heart in part": ("shuffled-labels", case(loss=1.9, accuracy=0.3, scores=0.12, early=0.1),
                                 "30% of the training images are answered right"),
    "driven up": ("rate-too-high", case(**{**STUCK, "loss": 9.0}), "drives the loss above guessing"),
    "wiped out": ("rate-too-high", case(**STUCK, later={"spread": 0.0, "answers": 1}),
                  "features of all images are the same"),
    "killed": ("rate-too-high", case(**STUCK, later={"dead": 0.4, "dead.middle": 0.98}),
               "since then 98% of the ReLUs in 'middle' are 0 for all images"),
    "dead": ("dead-relus", case(**STUCK, first={"dead.middle": 0.97}, later={"dead": 0.95, "dead.middle": 0.98}),
             "98% of the ReLUs in 'middle' are 0 for all 32 images looked at, 95% in the whole network"),
    "plain": ("lost-signal", case(**STUCK, first={"spread": 1e-8, "norms": 0}, later={"spread": 1e-8}),
              "10 layers with no batch norm lose the signal"),
    "slow": ("rate-too-low", case(**STUCK, later={"moved": 1e-7}), "moves the weights by at most 1e-07 of their norm"),
    "rising": ("rate-too-low", case(**STUCK, later={"moved": 1e-7}, optimizer=SGD(lr=10.0)),
               "with learning rate 10, of which the schedule has reached 0.1"),
    "frozen statistics": ("norm-statistics", case(later={"momentum": 1e-6, "eval_accuracy": 0.1, "eval_loss": 9.0}),
                          "80% of 32 training images are answered right with the batch's statistics"),
    "other labels": ("other-val", case(scores=0.1), "in the first epoch 50% of training images that were new"),
    "learned by heart": ("shuffled-labels", case(scores=0.1, early=0.1),
                         "90% of the training images are answered right"),
    "shuffled": ("shuffled-labels", case(**STUCK), "so the labels look shuffled"),
    "who knows": ("chance", case(**STUCK, later={"spread": 0.01, "answers": 1}),
                  "all 32 images looked at get one answer"),
    "slow average": ("slow-average", case(averaging=0.99, ends=(
        {**TESTED, "weights": "raw", "top1": 0.9}, {**TESTED, "weights": "averaged", "top1": 0.8})),
        "the raw weights, in run/bundle/model.raw.safetensors, are better than their average (90.00% and "
        "80.00% top-1), which follows them slowly: train longer, or with --set averaging=0"),
}  # fmt: skip


def sole(found: list[Finding]) -> Finding:
    assert len(found) == 1, [finding.cause for finding in found]
    return found[0]


@pytest.mark.parametrize("name", SICK)
def test_a_cause_is_named_with_its_numbers(name: str) -> None:
    cause, given, words = SICK[name]
    finding = sole(diagnose(given))
    assert finding.cause == cause
    assert words in finding.sentence
    assert finding.title
    assert "RUN" not in finding.sentence


def test_each_cause_has_a_run_that_it_is_found_in() -> None:
    assert {cause for cause, _, _ in SICK.values()} == {cause.name for cause in CAUSES}


def test_at_chance_the_loss_is_said_beside_guessing() -> None:
    sentence = sole(diagnose(case(**STUCK))).sentence
    assert sentence.startswith(
        "the loss is 2.303 after 400 of 400 updates, where guessing gives 2.303 (ln 10); "
    )


WELL: dict[str, Case] = {
    "learns": case(),
    "has just begun": case(**STUCK, until=60),
    "may be on a plateau": case(**STUCK, until=200, later={"spread": 0.01}),
    "may be on a plateau, with features": case(**STUCK, until=200),
    "warms up": case(**STUCK, until=160, schedule=Constant(warmup=5)),
    "a plateau left late": case(loss=0.9 * GUESS, accuracy=0.2, scores=0.2),
    "an imbalanced set": case(loss=0.2, accuracy=0.95, scores=0.9, counts=(1152, 128)),
    "learned by heart, and something besides": case(scores=0.2),
    "statistics that lag at first": case(until=160, later={"eval_accuracy": 0.1, "eval_loss": 9.0}),
    "dead parts of a network that learns": case(later={"dead": 0.5, "dead.middle": 0.95}),
    "one answer before it has settled": case(**STUCK, until=80, later={"answers": 1, "spread": 0.0}),
    "a classifier alone": case(freeze=True, first={"trained": 0.01}, later={"trained": 0.01, "moved": 0.0}),
    "many classes, few images yet": case(
        loss=6.5,
        accuracy=0.001,
        scores=0.001,
        counts=(2,) * 640,
        until=200,
        first={"guess": math.log(640)},
        later={"guess": math.log(640)},
    ),
    "an average that is as good": case(
        averaging=0.99,
        ends=({**TESTED, "weights": "raw", "top1": 0.9}, {**TESTED, "weights": "averaged", "top1": 0.895}),
    ),
    "weights that were selected": case(
        averaging=0.99,
        keep="best",
        ends=({**TESTED, "weights": "raw", "top1": 0.9}, {**TESTED, "weights": "averaged", "top1": 0.8}),
    ),
    "no line": Case(Path("run"), RECIPE.to_json(), (5, 5), "single-label", SingleLabel.headline, []),
}


@pytest.mark.parametrize("name", WELL)
def test_nothing_is_said_of_a_run_that_may_be_well(name: str) -> None:
    assert diagnose(WELL[name]) == []


def test_a_run_without_signals_is_judged_by_its_losses() -> None:
    stuck = case(**STUCK)
    old = replace(stuck, lines=[line for line in stuck.lines if line["kind"] != "health"])
    assert old.guess == pytest.approx(GUESS)
    assert sole(diagnose(old)).cause == "chance"
    well = case()
    assert not diagnose(replace(well, lines=[line for line in well.lines if line["kind"] != "health"]))
