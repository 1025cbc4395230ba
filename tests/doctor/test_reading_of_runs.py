"""The doctor in a run and after it: what `train` says, once, and what `depthwise doctor` says again from the files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.test_session import Seen, Stops

from depthwise.cli.app import run
from depthwise.data import open_dataset
from depthwise.data.dataset import ArraySplit, Dataset
from depthwise.doctor.reading import examine_run
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import SGD
from depthwise.train.run import train

EARLIER = Path(__file__).parents[1] / "golden" / "earlier" / "run"
MakeTrainer = Callable[..., Trainer]
EQUAL = "the first 16 images are equal in every pixel as the network sees them"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("digits")


@pytest.fixture(scope="module")
def black(digits: Dataset) -> Dataset:
    """Digits, all of whose pixels are 0."""
    splits = {
        part: ArraySplit(torch.zeros_like(split.images), split.labels)  # type: ignore[attr-defined]
        for part, split in digits.splits.items()
    }
    return replace(digits, splits=splits)


def test_a_cause_is_said_once_though_the_run_was_stopped(
    make_trainer: MakeTrainer,
    black: Dataset,
    tmp_path: Path,
) -> None:
    class Stopped(Stops, Seen):
        def __init__(self, at: int) -> None:
            Seen.__init__(self)
            Stops.__init__(self, at)

    trainer, first, second = make_trainer(dataset=black, log_every=1), Stopped(at=20), Seen()
    with pytest.raises(KeyboardInterrupt):
        train(trainer.recipe, trainer.module, black, tmp_path / "run", watcher=first)
    train(
        trainer.recipe,
        make_trainer(dataset=black).module,
        black,
        tmp_path / "run",
        resume=True,
        watcher=second,
    )
    assert [text.partition(":")[0] for text in first.said if text.startswith("the first")] == [EQUAL]
    assert not [text for text in second.said if text.startswith("the first")]
    again = examine_run(tmp_path / "run")
    assert [finding.sentence for finding in again.findings] == [
        text for text in first.said if text.startswith("the first")
    ]


def test_a_run_whose_loss_is_not_finite_is_explained_before_it_ends(
    make_trainer: MakeTrainer,
    digits: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer, seen = make_trainer(optimizer=SGD(lr=1e6), precision="float32"), Seen()
    trainer.module.classifier.weight.data.fill_(1e38)
    with pytest.raises(Exception, match="the loss became"):
        train(trainer.recipe, trainer.module, digits, tmp_path / "run", watcher=seen)
    said = seen.said[-1]
    assert said.startswith(
        "the loss is not finite after 1 of 44 updates with learning rate 1e+06: train anew with "
    )
    assert run(["doctor", str(tmp_path / "run"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [finding["cause"] for finding in document["findings"]] == ["rate-too-high"]
    assert f"{document['findings'][0]['evidence']}: {document['findings'][0]['remedy']}" == said


def test_the_command_says_cause_evidence_and_remedy_or_that_all_is_well(
    make_trainer: MakeTrainer,
    black: Dataset,
    digits: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for dataset in (black, digits):
        trainer = make_trainer(dataset=dataset)
        train(trainer.recipe, trainer.module, dataset, tmp_path / "run", force=True, watcher=Seen())
        capsys.readouterr()
        assert run(["doctor", str(tmp_path / "run")]) == 0
        lines = capsys.readouterr().out.splitlines()
        if dataset is black:
            assert lines[:2] == ["all images are equal", f"  {EQUAL}"]
            assert lines[2].startswith("  try: look at them with depthwise data stats --sheet")
        else:
            assert lines[0].startswith(
                "too short to say whether it learns; what can be seen at the start is in order: the loss "
            )
            assert "where guessing gives 2.30" in lines[0]
        assert lines[-1].startswith("(44 of 44 updates, ")


def test_a_run_of_an_earlier_version_is_judged_by_what_it_kept(capsys: pytest.CaptureFixture[str]) -> None:
    found = examine_run(EARLIER)
    assert not found.findings
    assert found.to_json() | {"run": ""} == {
        "run": "",
        "step": 29,
        "total_steps": 56,
        "looks": 0,
        "evaluations": 1,
        "findings": [],
    }
    assert run(["doctor", str(EARLIER)]) == 0
    assert "too early to say" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "words"), [("nothing", "holds no run"), ("empty", "no run.json in it")])
def test_what_is_no_run_is_refused(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(["doctor", str(tmp_path / name)]) == 1
    assert words in capsys.readouterr().err
