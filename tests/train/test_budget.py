"""A budget of time becomes a recipe, by a measurement that leaves no trace; nothing here waits for a clock."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_selection import Interrupts, Says

from depthwise.cli.app import run as command
from depthwise.data.dataset import Dataset
from depthwise.errors import UsageError
from depthwise.train import budget
from depthwise.train.budget import Budget, Pace, fitting, lay_out
from depthwise.train.files import RunFiles
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import Clock, Cosine, StepDecay
from depthwise.train.recipe import Recipe
from depthwise.train.run import train

MakeTrainer = Callable[..., Trainer]
PACE = Pace(first=2.0, update=0.5, evaluation=3.0, final=4.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MOST_SECONDS", 0.05)


def test_what_fits_is_what_adding_up_says() -> None:
    every = 7.5
    for seconds in (0, 1.9, 4.9, 5.0, 5.4, 5.5, 17.3, 100, 1000):
        added, steps = PACE.first, 0
        while added + PACE.evaluation * math.ceil((steps + 1) / every) <= seconds:
            added, steps = added + PACE.update, steps + 1
        assert fitting(PACE, seconds, every, 10**6) == steps
    assert fitting(PACE, 1e9, every, 123) == 123


@pytest.mark.parametrize(
    ("schedule", "lengths"),
    [(Cosine(warmup=1), {"warmup": 1}), (StepDecay(every=2), {"every": 2, "warmup": 0})],
)
def test_the_schedule_is_laid_out_over_the_minutes(
    make_trainer: MakeTrainer, digits: Dataset, schedule: Any, lengths: dict[str, float]
) -> None:
    trainer = make_trainer(schedule=schedule, epochs=10)
    recipe, module = trainer.recipe, trainer.module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    laid, found = lay_out(
        recipe, module, digits, 10, torch.device("cpu"), workers=0, began=budget.time.monotonic()
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert 0 < found.planned_seconds <= 600
    for name, length in lengths.items():
        assert getattr(laid.schedule, name) == pytest.approx(length * laid.epochs / 10, rel=1e-3)
    assert replace(laid, epochs=10, schedule=schedule) == recipe


def test_a_run_with_a_budget_is_the_run_of_its_recipe_and_is_resumed_as_one(
    make_trainer: MakeTrainer, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "MAX_EPOCHS", 1.5)  # which is what fits
    recipe, said = make_trainer().recipe, Says()

    def run(out: Path, recipe: Recipe, **options: Any) -> Recipe:
        train(recipe, make_trainer().module, digits, out, **options)
        return Recipe.from_json(json.loads((out / "run.json").read_text())["recipe"])

    laid = run(tmp_path / "whole", recipe, minutes=10, watcher=said)
    assert laid.epochs == 1.5
    assert said.texts[0] == "measuring how fast this machine trains, to fill 10 minutes"
    assert said.texts[1].startswith("measuring updates, about ")
    assert said.texts[2].startswith("measuring evaluations on the test part in float32, at most about ")
    assert said.texts[4].endswith("1.5 epochs fit")
    assert run(tmp_path / "same", laid) == laid
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", recipe, minutes=10, watcher=Interrupts(9))
    facts = json.loads((tmp_path / "stopped/run.json").read_text())
    assert facts["budget"]["minutes"] == 10
    assert facts["budget"]["measured_seconds"].keys() == {"first", "update", "evaluation", "final"}
    assert run(tmp_path / "stopped", laid, resume=True) == laid
    assert json.loads((tmp_path / "stopped/run.json").read_text())["budget"] == facts["budget"]
    bundles = [
        (tmp_path / out / "bundle/model.safetensors").read_bytes() for out in ("whole", "same", "stopped")
    ]
    assert bundles[0] == bundles[1] == bundles[2]


def test_a_machine_that_became_slower_is_told() -> None:
    planned = Budget(minutes=10, planned_seconds=600, pace=PACE)
    recipe = Recipe(name="x", eval_every=1.0)

    def told(step: int, seconds: float) -> str:
        return planned.slowness(recipe, Clock(step, 100, 64, 1000), seconds)

    assert told(300, 160.5) == told(300, 160.5 * 1.2) == ""
    assert told(100, 1000) == ""  # too early to say
    assert told(300, 2 * 160.5) == (
        "the machine is 2.0 times as slow as it was measured to be at the start: the run takes about 20.0 minutes of "
        "training instead of 10.0, and keeps to its schedule"
    )


def test_what_is_recorded_is_read_back_or_refused() -> None:
    whole = Budget(minutes=10, planned_seconds=600, pace=PACE)
    assert Budget.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    for broken in (None, [], {}, {"minutes": "x"}, {**whole.to_json(), "measured_seconds": {"first": 1}}):
        with pytest.raises(UsageError, match="must be"):
            Budget.from_json(broken)


def test_too_little_time_is_refused_and_costs_nothing(
    make_trainer: MakeTrainer, digits: Dataset, tmp_path: Path
) -> None:
    recipe = make_trainer(epochs=0.1).recipe
    train(recipe, make_trainer().module, digits, tmp_path / "run")
    before = (tmp_path / "run/run.json").read_text()
    with pytest.raises(UsageError, match=r"too short: .* take [\d.]+ minutes? here: give at least \d+$"):
        train(recipe, make_trainer().module, digits, tmp_path / "run", minutes=0.001, force=True)
    assert (tmp_path / "run/run.json").read_text() == before
    assert RunFiles(tmp_path / "run").finished


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--minutes", "0"], "minutes=0.0 must be above 0"),
        (["--minutes", "nan"], "minutes=nan is no finite number"),
        (["--minutes", "5", "--epochs", "3"], "leave one of them out"),
        (["--minutes", "5", "--set", "epochs=3"], "leave one of them out"),
        (["--minutes", "5", "--resume"], "one that goes on keeps to its schedule: leave minutes out"),
    ],
    ids=str,
)
def test_a_budget_that_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    assert command(["train", "--data", "digits", "--out", str(tmp_path / "run"), *more]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
