"""A task is a file: one from the tests trains, resumes, evaluates, predicts, compiles and reports like our own."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from grades import GradeEvaluation, Grades
from stops import Stops

import depthwise
from depthwise.bundle import BundleConfig, read_bundle
from depthwise.cli.app import run
from depthwise.data import Dataset, open_dataset
from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import DepthwiseError, UsageError
from depthwise.tasks import TASKS
from depthwise.train.optimizer import AdamW
from depthwise.train.recipe import Recipe
from depthwise.train.run import Silent

ARGUMENTS = {"stem": "small", "width": 0.05, "entry": [128], "middle": [128], "exit": [128, 256]}
RECIPE = Recipe(
    name="grades",
    model_args=ARGUMENTS,
    preprocess=Preprocess((8, 8), crop_fraction=1.0),
    augment=Augment(crop="none", flip=False),
    epochs=4,
    batch_size=64,
    accumulate=2,
    optimizer=AdamW(lr=0.02),
    norm_momentum=0.3,
    precision="float32",
    log_every=5,
)


@pytest.fixture(autouse=True, scope="module")
def _known() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, Grades.name, Grades.of)
        yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def graded() -> Dataset:
    return replace(open_dataset("digits"), task=Grades.name)


@pytest.fixture(scope="module")
def trained(graded: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grades") / "run"
    run = depthwise.train(graded, out=out, recipe=RECIPE, watcher=Silent())
    assert isinstance(run.evaluation, GradeEvaluation)
    assert run.evaluation.numbers["within_one"] > 0.6
    assert "360 test images are within one grade" in run.summary
    return out


def test_what_a_run_leaves_is_the_tasks(trained: Path) -> None:
    evaluation = json.loads((trained / "evaluation.json").read_text())
    assert set(evaluation) >= {"loss", "within_one", "mean_error"}
    assert "top1" not in evaluation
    config = json.loads((trained / "bundle" / "config.json").read_text())
    assert (config["task"], config["training"]["within_one"]) == ("grades", evaluation["within_one"])
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["within_one"] for line in lines if line["kind"] == "test"] == [evaluation["within_one"]]
    page = (trained / "report.html").read_text()
    assert f"{evaluation['mean_error']:.3f} grades off" in page
    assert f"<title>{evaluation['within_one']:.2%} ·" in page
    assert "grades squared" in page
    assert "top-1" not in page
    assert 'id="confusion"' not in page


def test_it_resumes_bit_for_bit(trained: Path, graded: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="nothing is lost"):
        depthwise.train(graded, out=out, recipe=RECIPE, watcher=Stops())
    other = replace(graded, task="single-label")
    with pytest.raises(DepthwiseError, match=r"data\.task: grades -> single-label"):
        depthwise.train(other, out=out, resume=True, watcher=Silent())
    depthwise.train(graded, out=out, resume=True, watcher=Silent())
    ours, whole = (read_bundle(run).weights for run in (out, trained))
    assert [name for name in whole if not torch.equal(ours[name], whole[name])] == []


def test_the_commands_take_its_bundle(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = json.loads((trained / "evaluation.json").read_text())
    report = tmp_path / "report.html"
    assert run(["eval", str(trained), "--data", "digits", "--json", "--report", str(report)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["mean_error"] == pytest.approx(measured["mean_error"], rel=1e-4)
    assert "grades off" in report.read_text()
    assert run(["eval", str(trained), "--data", "digits"]) == 0
    assert "within one" in capsys.readouterr().out
    fast = tmp_path / "fast"
    assert run(["compile", str(trained), "--data", "digits", "--out", str(fast)]) == 0
    assert "within one on 360 images" in capsys.readouterr().out
    assert (
        read_bundle(fast).config.compiled["accuracy"] == [pytest.approx(measured["within_one"], abs=0.01)] * 2
    )


def test_the_predictor_answers_with_grades(trained: Path, graded: Dataset) -> None:
    predictor, test = depthwise.load(trained), graded.splits["test"]
    predictions = predictor([test.image(k) for k in range(40)], topk=2)
    for prediction in predictions:
        first, second = prediction.indices
        assert abs(first - second) == 1 or prediction.probabilities[1] == 0
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-5)
    said = torch.tensor([prediction.indices[0] for prediction in predictions])
    assert float((said - test.targets(torch.arange(40))).abs().float().mean()) < 2


def test_what_has_no_meaning_for_it_is_refused(graded: Dataset, tmp_path: Path) -> None:
    recipe = replace(RECIPE, augment=Augment("none", mixup=0.2))
    with pytest.raises(UsageError, match="no meaning for grades: set them to 0"):
        depthwise.train(graded, out=tmp_path / "run", recipe=recipe, watcher=Silent())


def test_a_task_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(
        DepthwiseError, match=r"the task 'colours' is unknown to this depthwise, it has .*: update it"
    ):
        BundleConfig("xception", ("a", "b"), Preprocess((8, 8), 1), task="colours")
