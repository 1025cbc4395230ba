"""A training run is seen: as a bar on a terminal, as few plain lines in a log."""

import io

import pytest
from rich.console import Console

from depthwise.tasks.multi_label import MultiLabel
from depthwise.tasks.single_label import SingleLabel
from depthwise.train import progress
from depthwise.train.progress import TrainProgress

LINE = {
    "kind": "eval",
    "step": 50,
    "split": "val",
    "weights": "raw",
    "loss": 0.25,
    "top1": 0.9275,
    "top5": None,
}


def follow_run(*, terminal: bool, width: int = 120) -> str:
    file = io.StringIO()
    shown = TrainProgress(Console(file=file, force_terminal=terminal, width=width, color_system=None))
    shown.start(100, start_step=20)
    for step in range(21, 101):
        shown.step(step, loss=1 / step, accuracy=0.5, images_per_second=1234.5)
        if step == 50:
            shown.evaluated(LINE)
            shown.evaluated({**LINE, "weights": "averaged", "top5": 1.0})
    shown.message("the report is in [runs]/x")
    shown.close()
    return file.getvalue()


def test_a_task_names_what_it_counts() -> None:
    file = io.StringIO()
    shown = TrainProgress(Console(file=file, width=120))
    for task in (SingleLabel(3), MultiLabel(3)):
        shown.start(9, 0, task.hits_name)
        shown._logged_at = 0.0
        shown.step(1, loss=1.0, accuracy=0.5, images_per_second=10)
    shown.evaluated({**LINE, "top1": None, "map_at_100": 0.25, "macro_ap": 0.5, "micro_f1": 0.125})
    first, second, evaluated = file.getvalue().splitlines()
    assert ("accuracy 50.0%" in first, "precision@1 50.0%" in second) == (True, True)
    assert "MAP@100 25.00%  mAP 50.00%  micro F1 12.50%  loss 0.2500" in evaluated


def test_a_log_gets_a_line_for_each_evaluation_and_message_and_few_for_steps() -> None:
    assert follow_run(terminal=False).splitlines() == [
        "val at step 50, raw weights:  top-1 92.75%  loss 0.2500",
        "val at step 50, averaged weights:  top-1 92.75%  top-5 100.00%  loss 0.2500",
        "the report is in [runs]/x",
    ]


def test_a_log_hears_of_steps_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    monkeypatch.setattr(progress, "SURE_SECONDS", 0.0)
    lines = follow_run(terminal=False, width=30).splitlines()
    assert len(lines) == 83
    assert lines[0] == "step 21/100  loss 0.048  accuracy 50.0%  1,234 images/s"
    assert lines[-2].startswith("step 100/100  loss 0.010")
    assert lines[-2].endswith("0:00:00 left")


@pytest.mark.parametrize("terminal", [False, True])
def test_the_time_left_is_told_when_it_means_something(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """The first step of 60 seconds, the others of one: an hour and a half was once said of what takes two minutes."""
    clock = [0.0]
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    file = io.StringIO()
    shown = TrainProgress(Console(file=file, force_terminal=terminal, width=120, color_system=None))
    shown.start(100)
    told = []
    for step in range(1, 12):
        clock[0] += 60 if step == 1 else 1
        file.truncate(0)
        shown.step(step, loss=1.0, accuracy=0.5, images_per_second=10)
        if shown._bar:
            shown._bar.refresh()
        told.append("0:01:" in file.getvalue())
        assert (" left" in file.getvalue()) == told[-1]
    shown.close()
    assert told == [False] * 5 + [True] * 6


def test_a_terminal_shows_a_bar_with_the_numbers() -> None:
    shown = follow_run(terminal=True)
    assert "100/100" in shown
    assert "loss 0.010  accuracy 50.0%  1,234 images/s" in shown
    assert "val at step 50, raw weights:  top-1 92.75%  loss 0.2500\n" in shown


def test_closing_before_the_start_or_twice_is_fine() -> None:
    shown = TrainProgress(Console(file=io.StringIO(), force_terminal=True))
    shown.close()
    shown.start(10)
    shown.close()
    shown.close()
