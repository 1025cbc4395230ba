"""What may be changed in a run that goes on, what is made of one that was stopped, and what run.json tells of it."""

import json
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from depthwise.bundle import read_bundle
from depthwise.data.dataset import Dataset
from depthwise.errors import DepthwiseError
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import Constant, Cosine, Linear, StepDecay
from depthwise.train.recipe import Recipe
from depthwise.train.run import Options, Silent, train

MakeTrainer = Callable[..., Trainer]
BATCH = {"batch_size": 350}  # 4 updates an epoch


class StopsAt(Silent):
    """Asks for a stop, as Ctrl-C does, at one step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        if step == self.at:
            signal.raise_signal(signal.SIGINT)


class Go:
    """A run of the tiny network on digits in one directory, by a recipe that may change between its processes."""

    def __init__(self, make_trainer: MakeTrainer, digits: Dataset, out: Path) -> None:
        self.make_trainer, self.digits, self.out = make_trainer, digits, out

    def __call__(self, *, stop: int = 0, command: str = "", **changes: Any) -> None:
        how = {name: changes.pop(name) for name in ("resume", "finish", "force") if name in changes}
        trainer = self.make_trainer(log_every=1, **BATCH, **changes)
        options = Options(command=shlex.split(command))
        train(
            trainer.recipe,
            trainer.module,
            self.digits,
            self.out,
            options=options,
            watcher=StopsAt(stop) if stop else None,
            **how,
        )

    @property
    def files(self) -> dict[str, bytes]:
        return {
            name: (self.out / "bundle" / name).read_bytes()
            for name in ("model.safetensors", "model.raw.safetensors")
        }

    @property
    def run_json(self) -> dict[str, Any]:
        return json.loads((self.out / "run.json").read_text())


@pytest.fixture
def go(make_trainer: MakeTrainer, digits: Dataset, tmp_path: Path) -> Callable[[str], Go]:
    return lambda name: Go(make_trainer, digits, tmp_path / name)


@pytest.mark.parametrize("schedule", [Constant(warmup=3, unit="steps"), StepDecay(rate=0.5, every=1)])
def test_more_epochs_end_in_the_bits_of_as_many_from_the_start(
    go: Callable[[str], Go], schedule: Any
) -> None:
    whole, stopped, grown = go("whole"), go("stopped"), go("grown")
    whole(epochs=4, schedule=schedule)
    grown(epochs=2, schedule=schedule)
    assert grown.files != whole.files
    grown(epochs=4, schedule=schedule, resume=True)
    assert grown.files == whole.files
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3 of 8"):
        stopped(epochs=2, schedule=schedule, stop=3)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 5 of 16"):
        stopped(epochs=4, schedule=schedule, resume=True, stop=5)
    stopped(epochs=4, schedule=schedule, resume=True)
    assert stopped.files == whole.files
    assert grown.run_json["recipe"]["epochs"] == 4
    assert [entry["changed"] for entry in grown.run_json["resumes"]] == [["recipe.epochs: 2.0 -> 4.0"]]


def test_what_changes_no_bit_may_change(go: Callable[[str], Go]) -> None:
    whole, changed = go("whole"), go("changed")
    whole(epochs=2)
    with pytest.raises(KeyboardInterrupt):
        changed(epochs=2, stop=3)
    changed(epochs=2, resume=True, eval_every=0.5, recompute=True)
    assert changed.files == whole.files
    lines = map(json.loads, (changed.out / "metrics.jsonl").read_text().splitlines())
    assert {line["step"] for line in lines if line["kind"] == "eval"} == {4, 6, 8}
    assert changed.run_json["recipe"]["eval_every"] == 0.5
    assert changed.run_json["recipe"]["recompute"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            {"schedule": Cosine()},
            {"schedule": Cosine(), "epochs": 4},
            "cannot be resumed with recipe.epochs: 2.0 -> 4.0, for the schedule cosine is laid out over epochs, "
            "and the 3 updates done would have had other learning rates: leave it as it was, start anew with "
            "force=True, or go on all the same with resume=True, force=True",
        ),
        (
            {"schedule": Linear()},
            {"schedule": Constant()},
            "for the 3 updates done would have had other learning rates",
        ),
        (
            {},
            {"epochs": 0.5},
            "recipe.epochs: 2.0 -> 0.5, which are 2 updates, and 3 are done: leave it as it was",
        ),
        (
            {},
            {"averaging": 0.5},
            "cannot be resumed exactly, this has changed: recipe.averaging: 0.9 -> 0.5: put it",
        ),
    ],
)
def test_what_would_change_the_updates_done_is_refused_with_the_reason(
    go: Callable[[str], Go], before: dict[str, Any], after: dict[str, Any], message: str
) -> None:
    run = go("run")
    with pytest.raises(KeyboardInterrupt):
        run(epochs=2, **{"schedule": Constant(), **before}, stop=3)
    was = run.run_json
    with pytest.raises(DepthwiseError) as raised:
        run(**{"epochs": 2, "schedule": Constant(), **before, **after}, resume=True)
    assert message in str(raised.value)
    assert run.run_json == was


def test_a_schedule_that_differs_only_in_what_is_to_come_may_change(go: Callable[[str], Go]) -> None:
    whole, run = go("whole"), go("run")
    whole(epochs=2, schedule=StepDecay(rate=0.1, every=1))
    with pytest.raises(KeyboardInterrupt):
        run(epochs=2, schedule=Constant(), stop=3)
    run(epochs=2, schedule=StepDecay(rate=0.1, every=1), resume=True)
    assert run.files == whole.files


def test_a_recipe_that_was_changed_in_run_json_is_named(go: Callable[[str], Go]) -> None:
    """It is compared with the checkpoint's, not with itself."""
    run = go("run")
    with pytest.raises(KeyboardInterrupt):
        run(epochs=2, stop=3)
    values = run.run_json
    values["recipe"]["optimizer"]["lr"] = 0.3
    (run.out / "run.json").write_text(json.dumps(values))
    optimizer = replace(Recipe.from_json(values["recipe"]).optimizer, lr=0.3)
    with pytest.raises(
        DepthwiseError, match=r"this has changed: recipe.optimizer.lr: 0.1 -> 0.3: put it back"
    ):
        run(epochs=2, optimizer=optimizer, resume=True)
    run(epochs=2, optimizer=optimizer, resume=True, force=True)


def test_a_stopped_run_is_finished_as_far_as_it_got_and_goes_on_exactly(go: Callable[[str], Go]) -> None:
    whole, run = go("whole"), go("run")
    whole(epochs=2)
    with pytest.raises(KeyboardInterrupt):
        run(epochs=2, stop=3)
    before = run.run_json
    checkpoint = (run.out / "checkpoints" / "last.safetensors").read_bytes()
    run(epochs=2, finish=True)
    assert (run.out / "checkpoints" / "last.safetensors").read_bytes() == checkpoint
    training = read_bundle(run.out).config.training
    assert (training["steps"], training["total_steps"]) == (3, 8)
    assert "unfinished, 3 of 8 updates" in (run.out / "report.html").read_text()
    assert {key: value for key, value in run.run_json.items() if key != "kept"} == before
    raw = load_file(run.out / "checkpoints" / "last.safetensors")
    bundled = load_file(run.out / "bundle" / "model.raw.safetensors")
    assert all(tensor.equal(raw[f"model.{name}"]) for name, tensor in bundled.items())
    with pytest.raises(
        DepthwiseError, match=r"the bundle and the report of its 3 updates of 8 already: look at"
    ):
        run(epochs=2, finish=True)
    run(epochs=2, resume=True)
    assert run.files == whole.files
    assert "unfinished" not in (run.out / "report.html").read_text()
    with pytest.raises(
        DepthwiseError, match=r"its 8 updates of 8 already: .*resume=True and a larger epochs"
    ):
        run(epochs=2, finish=True)


def test_run_json_keeps_the_first_command_and_lists_the_resumes(go: Callable[[str], Go]) -> None:
    run = go("run")
    first, second, third = (
        f"depthwise train {rest}" for rest in ("--data digits", "--resume", "--resume --workers 3")
    )
    with pytest.raises(KeyboardInterrupt):
        run(epochs=1, stop=1, command=first)
    assert run.run_json["resumes"] == []
    with pytest.raises(KeyboardInterrupt):
        run(epochs=1, stop=2, command=second, resume=True)
    run(epochs=1, command=third, resume=True)
    values = run.run_json
    assert values["command"] == shlex.split(first)
    resumes = [(shlex.join(entry["command"]), entry["step"]) for entry in values["resumes"]]
    assert resumes == [(second, 1), (third, 2)]
    assert all(entry["time"][:4].isdecimal() for entry in values["resumes"])
    assert first in (run.out / "report.html").read_text()
