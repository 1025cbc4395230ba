"""What is tried on fresh weights: a batch learned by heart, and a range of learning rates."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from depthwise.cli.app import run
from depthwise.data.dataset import ArraySplit
from depthwise.doctor.checks import Subject, overfit, rate_range
from depthwise.train.optimizer import SGD

EARLIER = Path(__file__).parents[1] / "golden" / "earlier" / "run"


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A small Xception on digits."""
    return Subject.of(EARLIER, workers=0, device="cpu")


def test_a_sound_network_learns_a_batch_by_heart(subject: Subject) -> None:
    found = overfit(subject, print)
    assert found.learned
    assert found.images == 32
    assert found.updates < 150
    assert found.loss < 0.05 * found.first_loss
    assert found.sentence.startswith(
        f"a batch of 32 images was learned by heart in {found.updates} updates, "
    )


def test_one_that_cannot_learn_does_not(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("depthwise.doctor.checks.BATCH_UPDATES", 30)
    found = overfit(replace(subject, recipe=replace(subject.recipe, optimizer=SGD(lr=1e-9))), print)
    assert not found.learned
    assert found.updates == 30
    assert "the fault lies in the network, the loss or the optimizer, not in the data" in found.sentence


def test_a_learning_rate_is_suggested_below_where_the_loss_is_lowest(subject: Subject) -> None:
    found = rate_range(subject, print)
    assert found.suggested is not None
    assert 0.005 < found.suggested < 0.5
    lowest = found.rates[found.losses.index(min(found.losses))]
    assert found.suggested == pytest.approx(lowest / 10)
    assert f"try a tenth, --set optimizer.lr={found.suggested:.1g} (the run has " in found.sentence


def test_none_is_suggested_where_nothing_can_be_learned(subject: Subject) -> None:
    splits = {
        part: ArraySplit(torch.zeros_like(split.images), split.labels)  # type: ignore[attr-defined]
        for part, split in subject.dataset.splits.items()
    }
    found = rate_range(replace(subject, dataset=replace(subject.dataset, splits=splits)), print)
    assert found.suggested is None
    assert found.sentence.startswith("no learning rate from 1e-06 to ")


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_command_draws_and_leaves_the_run_alone(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depthwise.doctor.checks.RATES", 12)
    shutil.copytree(EARLIER, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    plot = tmp_path / f"rates.{ending}"
    tokens = ["doctor", str(tmp_path / "run"), "--lr-range", "--plot", str(plot), "--workers", "0", "--json"]
    assert run(tokens) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["lr_range"]["rates"]) == len(document["lr_range"]["losses"]) <= 12
    assert plot.read_bytes().startswith({"svg": b"<?xml", "png": b"\x89PNG"}[ending])
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert run(tokens) == 1
    assert f"{plot} exists and is not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plot", "rates.svg"], "--plot rates.svg draws what --lr-range finds: add --lr-range"),
        (["--lr-range", "--plot", "rates.pdf"], "rates.pdf ends in neither .svg nor .png"),
    ],
)
def test_a_plot_of_nothing_or_of_another_kind_is_refused(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", str(EARLIER), *options]) == 2
    assert words in capsys.readouterr().err
