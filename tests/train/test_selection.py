"""What evaluations decide, by the validation part alone: an early end and the best weights, whatever kills the run."""

import json
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from depthwise.bundle import read_bundle
from depthwise.data.dataset import ArraySplit, Dataset
from depthwise.errors import DepthwiseError, UsageError
from depthwise.tasks.single_label import SingleLabel
from depthwise.train.checkpoint import load_checkpoint
from depthwise.train.ending import Result
from depthwise.train.files import RunFiles
from depthwise.train.loop import Trainer
from depthwise.train.recipe import Recipe
from depthwise.train.run import Options, Silent, train
from depthwise.train.selection import Best, Scores, told

MakeTrainer = Callable[..., Trainer]
TOP1 = SingleLabel.headline
# 88 updates; an evaluation every 11 of them.
SHORT = {"epochs": 4, "eval_every": 0.5, "norm_momentum": 0.5}
STOPS = {"epochs": 40, "early_stop": 1}


@pytest.fixture(scope="module")
def parts(digits: Dataset) -> dict[str, Dataset]:
    """Digits with a val and a test part; with val alone, as a folder without parts has; with test alone."""
    test = digits.splits["test"]
    assert isinstance(test, ArraySplit)
    halves = [ArraySplit(test.images[i::2], test.labels[i::2]) for i in range(2)]
    train = digits.splits["train"]
    return {
        "all": replace(digits, splits={"train": train, "val": halves[0], "test": halves[1]}),
        "val": replace(digits, splits={"train": train, "val": halves[0]}),
        "test": digits,
    }


def run(make_trainer: MakeTrainer, dataset: Dataset, out: Path, **changes: Any) -> Result:
    resume, watcher = changes.pop("resume", False), changes.pop("watcher", None)
    trainer = make_trainer(dataset=dataset, **{**SHORT, **changes})
    options = Options(checkpoint_steps=10)
    return train(
        trainer.recipe, trainer.module, dataset, out, options=options, resume=resume, watcher=watcher
    )


def lines(out: Path, kind: str) -> list[dict[str, Any]]:
    read = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in read if line["kind"] == kind]


def test_of_equal_scores_the_earlier_stays_and_at_one_step_the_average() -> None:
    recipe = Recipe(name="x", keep="best", averaging=0.9)
    scores = Scores()
    for step, raw, averaged in ((1, 0.5, 0.5), (2, 0.5, 0.4), (3, 0.7, 0.6), (4, 0.6, 0.7), (5, 0.1, 0.2)):
        scores = scores.after(step, {"raw": raw, "averaged": averaged}, recipe)
        assert scores.best == (Best(1, "averaged", 0.5) if step < 3 else Best(3, "raw", 0.7))
    assert scores.stale == 2
    # What the bundle does not get has no say.
    last = replace(recipe, keep="last")
    assert Scores().after(1, {"raw": 0.1, "averaged": 0.9}, last) == Scores(Best(1, "raw", 0.1))
    assert Scores().after(1, {"raw": 0.9, "averaged": 0.1}, replace(recipe, keep="auto")).best == Best(
        1, "averaged", 0.1
    )


@pytest.mark.parametrize("part", ["all", "val"])
def test_the_best_weights_are_kept_and_said(
    make_trainer: MakeTrainer, parts: dict[str, Dataset], tmp_path: Path, part: str
) -> None:
    result = run(make_trainer, parts[part], tmp_path / "run", keep="best")
    evaluations = lines(tmp_path / "run", "eval")
    assert {line["split"] for line in evaluations} == {"val"}
    top = max(line["top1"] for line in evaluations)
    first = [line for line in evaluations if line["top1"] == top]
    assert result.step == first[0]["step"]
    kept = json.loads((tmp_path / "run/run.json").read_text())["kept"]
    assert kept == {"step": result.step, "weights": kept["weights"], "top1": top, "selected_on": "val"}
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert (evaluation["weights"], evaluation["kept"]) == ("best", kept)
    bundle = read_bundle(tmp_path / "run")
    assert bundle.config.training["kept"] == kept
    # The weights are those that were evaluated: a run that ends at that step has them.
    trainer = make_trainer(dataset=parts[part], **SHORT)
    for _ in range(result.step):
        trainer.update()
    expected = trainer.module if kept["weights"] == "raw" else trainer.average.module
    assert all(torch.equal(tensor, bundle.weights[name]) for name, tensor in expected.state_dict().items())
    page = (tmp_path / "run/report.html").read_text()
    assert f"of step {result.step:,}, the best on the val part." in page
    assert ("so the figure, measured on it too, is optimistic" in page) == (part == "val")
    assert ("The test part had no say in it." in page) == (part == "all")


@pytest.mark.parametrize(
    ("keep", "weights"), [("last", "raw"), ("averaged", "averaged"), ("auto", "averaged")]
)
def test_the_last_or_the_averaged_weights_are_kept_by_name(
    make_trainer: MakeTrainer, parts: dict[str, Dataset], tmp_path: Path, keep: str, weights: str
) -> None:
    result = run(make_trainer, parts["test"], tmp_path / "run", keep=keep, epochs=0.2)
    trainer = make_trainer(dataset=parts["test"], **{**SHORT, "epochs": 0.2})
    for _ in range(trainer.total_steps):
        trainer.update()
    expected = trainer.module if weights == "raw" else trainer.average.module
    read = read_bundle(tmp_path / "run").weights
    assert all(torch.equal(tensor, read[name]) for name, tensor in expected.state_dict().items())
    assert (result.weights, result.step) == (weights, trainer.total_steps)
    assert lines(tmp_path / "run", "test")[-1]["weights"] == weights
    assert not RunFiles(tmp_path / "run").best.exists()
    assert 'id="selection"' not in (tmp_path / "run/report.html").read_text()


def test_an_early_stop_ends_the_run_and_is_said(
    make_trainer: MakeTrainer, parts: dict[str, Dataset], tmp_path: Path
) -> None:
    said = Says()
    result = run(make_trainer, parts["all"], tmp_path / "run", watcher=said, **STOPS)
    top1 = [line["top1"] for line in lines(tmp_path / "run", "eval") if line["weights"] == "averaged"]
    assert max(top1) == top1[-2] > max(top1[:-2])
    # The updates since the last line of metrics are not lost.
    assert lines(tmp_path / "run", "train")[-1]["step"] == result.step
    sentence = f"Training ended at step {result.step} of 880: 1 evaluation in a row found no better"
    assert any(text.startswith(sentence) for text in said.texts)
    page = (tmp_path / "run/report.html").read_text()
    assert sentence in page
    assert "The test part had no say in it." in page


class Says(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


class Interrupts(Silent):
    """Ctrl-C at the first line of metrics from a step on."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        if step >= self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("changes", [{"keep": "best"}, {"keep": "best", **STOPS}], ids=str)
def test_stopped_and_resumed_it_selects_the_same(
    make_trainer: MakeTrainer, parts: dict[str, Dataset], tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = run(make_trainer, parts["all"], tmp_path / "whole", **changes)
    total = lines(tmp_path / "whole", "train")[-1]["step"]
    out, resume = tmp_path / "run", False
    for at in range(3, total - 8, max(2, total // 5)):
        with pytest.raises(KeyboardInterrupt, match="stopped at step"):
            run(make_trainer, parts["all"], out, **changes, resume=resume, watcher=Interrupts(at))
        resume = True
    resumed = run(make_trainer, parts["all"], out, **changes, resume=True)
    assert (resumed.step, resumed.weights) == (whole.step, whole.weights)
    weights = [(path / "bundle/model.safetensors").read_bytes() for path in (out, tmp_path / "whole")]
    assert weights[0] == weights[1]
    assert_same_best(out, tmp_path / "whole")
    assert not RunFiles(out).next_best.exists()


def assert_same_best(*runs: Path) -> None:
    one, other = (load_checkpoint(RunFiles(out).best) for out in runs)
    assert one.state == other.state
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_what_a_kill_left_of_the_best_is_put_right(
    make_trainer: MakeTrainer, parts: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every order of the two files that a kill can leave: a newer best written, the checkpoint before or after it."""
    out, seen = tmp_path / "run", random.Random(0)
    files = RunFiles(out)
    with pytest.raises(KeyboardInterrupt):
        run(make_trainer, parts["all"], out, keep="best", watcher=Interrupts(20))
    best = files.best.read_bytes()
    assert load_checkpoint(files.best).state["step"] == 11
    later = tmp_path / "later"
    with pytest.raises(KeyboardInterrupt):
        run(make_trainer, parts["all"], later, keep="best", watcher=Interrupts(seen.randrange(60, 85)))
    # Written, and the checkpoint does not know of it yet.
    files.next_best.write_bytes(RunFiles(later).best.read_bytes())
    again = run(make_trainer, parts["all"], out, keep="best", resume=True)
    whole = run(make_trainer, parts["all"], tmp_path / "whole", keep="best")
    assert again.step == whole.step
    assert_same_best(out, tmp_path / "whole")
    # The checkpoint knows of it, and it has not its name yet.
    files.best.rename(files.next_best)
    files.best.write_bytes(best)
    run(make_trainer, parts["all"], out, keep="best", resume=True)
    assert_same_best(out, tmp_path / "whole")
    # Another's.
    files.best.write_bytes(best)
    with pytest.raises(
        DepthwiseError, match=r"best.safetensors does not hold .* best so far: put the file back"
    ):
        run(make_trainer, parts["all"], out, keep="best", resume=True)
    files.best.unlink()
    with pytest.raises(
        DepthwiseError, match=r"best.safetensors does not hold .* best so far: put the file back"
    ):
        run(make_trainer, parts["all"], out, keep="best", resume=True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"early_stop": 3}, "early_stop=3"),
        ({"keep": "best"}, "keep=best"),
        ({"keep": "best", "early_stop": 1}, "early_stop=1 and keep=best"),
    ],
)
def test_nothing_is_selected_by_the_test_part(
    make_trainer: MakeTrainer, parts: dict[str, Dataset], tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(
        UsageError, match=f"^{named} would select by the test part, .* has no val part: add one"
    ):
        run(make_trainer, parts["test"], tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_what_is_told_in_the_report() -> None:
    recipe, scores = Recipe(name="x", averaging=0.9), Scores(Best(1200, "averaged", 0.9), 1)
    assert told(recipe, TOP1, scores, step=10, total_steps=10, split="val") == ""
    assert told(recipe, TOP1, Scores(), step=10, total_steps=10, split="val") == ""
    # Stopped on the way, and finished there.
    assert told(recipe, TOP1, scores, step=1400, total_steps=9000, split="val") == ""
    assert told(replace(recipe, early_stop=1), TOP1, scores, step=1400, total_steps=9000, split="val") == (
        "Training ended at step 1,400 of 9,000: 1 evaluation in a row found no better top-1 on the val part than "
        "90.00% at step 1,200. This was selected by the val part, so the figure, measured on it too, is optimistic."
    )
    assert told(replace(recipe, keep="best"), TOP1, scores, step=10, total_steps=10, split="test") == (
        "The weights are the averaged ones of step 1,200, the best on the val part. The test part had no say in it."
    )


def test_an_average_that_is_not_there_cannot_be_kept() -> None:
    with pytest.raises(
        UsageError, match="keep=averaged needs an average, and averaging is 0: set for example"
    ):
        Recipe(name="x", keep="averaged")
    assert Recipe(name="x").override(["keep=averaged", "averaging=0.9"]).keep == "averaged"
