"""What a run tells those who look on."""

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from depthwise.data.dataset import Dataset
from depthwise.train import loop, session
from depthwise.train.loop import Trainer
from depthwise.train.run import Options, Silent, train


class Seen(Silent):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.said: list[str] = []

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        assert 0 <= accuracy <= 1
        assert images_per_second > 0
        self.steps.append(step)
        self.losses.append(loss)

    def message(self, text: str) -> None:
        self.said.append(text)


def test_a_slow_network_is_seen_to_move_between_two_lines_of_metrics(
    make_trainer: Callable[..., Trainer], digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(session, "SHOW_SECONDS", seconds)
        monkeypatch.setattr(loop, "LEAST_LINES", 2)
        trainer = make_trainer(epochs=0.5, log_every=4)
        seen[seconds] = Seen()
        out = tmp_path / f"run-{seconds}"
        train(trainer.recipe, trainer.module, digits, out, options=Options(workers=0), watcher=seen[seconds])
    total = trainer.total_steps
    assert seen[0.0].steps == list(range(1, total + 1))
    assert seen[1e9].steps == [1, *range(4, total, 4), total]
    # Looking on changes nothing: the lines that count have the same numbers.
    at_lines = [seen[0.0].losses[step - 1] for step in seen[1e9].steps]
    assert at_lines == seen[1e9].losses


class Stops(Silent):
    """Asks for a stop, as Ctrl-C does, after a second at one step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        if step == self.at:
            time.sleep(1)
            signal.raise_signal(signal.SIGINT)


def test_the_rate_after_a_stop_counts_the_time_before_it(
    make_trainer: Callable[..., Trainer], digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SHOW_SECONDS", 0.0)
    monkeypatch.setattr(loop, "LEAST_LINES", 1)
    trainer = make_trainer(epochs=0.5, log_every=1000)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 9"):
        train(trainer.recipe, trainer.module, digits, tmp_path / "run", watcher=Stops(at=9))
    trainer = make_trainer(epochs=0.5, log_every=1000)
    train(trainer.recipe, trainer.module, digits, tmp_path / "run", resume=True)
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    _, line = (line for line in lines if line["kind"] == "train")
    assert 0 < line["images_per_second"] <= line["samples"]


def test_a_run_with_fewer_lines_goes_on_with_more(
    make_trainer: Callable[..., Trainer], digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one written before every run had a hundred lines: what it has stays, the bits are as if never stopped."""
    monkeypatch.setattr(session, "SHOW_SECONDS", 0.0)
    out, whole = tmp_path / "run", tmp_path / "whole"
    trainer = make_trainer(log_every=10)
    monkeypatch.setattr(loop, "LEAST_LINES", 1)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 15"):
        train(trainer.recipe, trainer.module, digits, out, watcher=Stops(at=15))
    monkeypatch.setattr(loop, "LEAST_LINES", 100)
    kept = (out / "metrics.jsonl").read_text()
    train(trainer.recipe, make_trainer().module, digits, out, resume=True)
    train(trainer.recipe, make_trainer().module, digits, whole)
    text = (out / "metrics.jsonl").read_text()
    assert text.startswith(kept)
    steps = [line["step"] for line in map(json.loads, text.splitlines()) if line["kind"] == "train"]
    assert steps == [1, 10, *range(16, 45)]
    bundles = [(path / "bundle/model.safetensors").read_bytes() for path in (out, whole)]
    assert bundles[0] == bundles[1]


def test_without_tensorboard_a_run_says_so_and_has_all_else(
    make_trainer: Callable[..., Trainer], digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    trainer, seen = make_trainer(), Seen()
    train(trainer.recipe, trainer.module, digits, tmp_path / "run", watcher=seen)
    assert any(line.endswith("not installed: pip install 'depthwise[tensorboard]'") for line in seen.said)
    assert (tmp_path / "run" / "report.html").exists()
    assert not list((tmp_path / "run").glob("events.*"))
