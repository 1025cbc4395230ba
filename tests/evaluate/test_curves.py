"""A run's records as curves: what a resumed run wrote twice, clocks that begin anew, losses that are no numbers."""

import json
import math
from typing import Any

import pytest

from depthwise.evaluate.curves import MOST_POINTS, curves, records, summary

Line = dict[str, Any]


def train(step: int, seconds: float | None = None, loss: Any = 1.0, **more: Any) -> Line:
    line = {
        "kind": "train",
        "step": step,
        "epoch": step / 10,
        "samples": step * 8,
        "seconds": seconds or step / 2,
    }
    return {**line, "loss": loss, "accuracy": 0.5, "lr": 0.1, "images_per_second": 16.0, **more}


def evaluation(step: int, weights: str = "raw", kind: str = "eval", loss: Any = 1.0) -> Line:
    line = {
        "kind": kind,
        "step": step,
        "epoch": step / 10,
        "seconds": step / 2,
        "split": "val",
        "weights": weights,
    }
    return {**line, "loss": loss, "top1": step / 100, "top5": None}


def test_one_curve_for_training_each_kind_of_weights_and_the_last_test() -> None:
    history = [train(5), train(10), evaluation(10), evaluation(10, "averaged"), train(20), evaluation(20)]
    history += [evaluation(20, "raw", "test"), evaluation(20, "averaged", "test")]
    drawn = curves(history)
    assert [curve["name"] for curve in drawn] == ["train", "val, raw", "val, averaged", "val, final"]
    assert drawn[0]["step"] == [5, 10, 20]
    assert drawn[0]["epoch"] == [0.5, 1, 2]
    assert drawn[0]["seconds"] == [2.5, 5, 10]
    assert drawn[0]["lr"] == [0.1] * 3
    assert drawn[0]["rate"] == [16.0] * 3
    assert drawn[1]["accuracy"] == [0.1, 0.2]
    assert drawn[2]["accuracy"] == [0.1]
    assert drawn[3]["weights"] == "averaged"


def test_what_a_resumed_run_wrote_again_replaces_the_first_writing() -> None:
    lost = [train(15, loss=9.0), evaluation(15, loss=9.0), train(20, loss=9.0)]
    history = [train(5), train(10), evaluation(10), *lost, train(15), evaluation(15), train(20), train(25)]
    kept = records(history)
    assert [line["step"] for line in kept if line["kind"] == "train"] == [5, 10, 15, 20, 25]
    assert [line["step"] for line in kept if line["kind"] == "eval"] == [10, 15]
    assert all(line["loss"] == 1.0 for line in kept)


def test_an_evaluation_done_again_replaces_only_itself() -> None:
    history = [train(10), evaluation(10, loss=9.0), evaluation(10, "averaged"), evaluation(10), train(20)]
    kept = records(history)
    assert [(line["kind"], line.get("weights")) for line in kept] == [
        ("train", None),
        ("eval", "averaged"),
        ("eval", "raw"),
        ("train", None),
    ]
    assert kept[2]["loss"] == 1.0


def test_time_goes_on_where_a_restarted_clock_began_anew() -> None:
    history = [train(10, 100.0), train(20, 200.0), train(30, 5.0), evaluation(30), train(40, 105.0)]
    history[3]["seconds"] = 6.0
    assert [line["seconds"] for line in records(history)] == [100, 200, 205, 206, 305]


def test_a_clock_that_was_restored_is_left_alone() -> None:
    history = [train(10, 100.0), train(20, 200.0), train(20, 110.0), train(30, 210.0)]
    assert [line["seconds"] for line in records(history)] == [100, 110, 210]


@pytest.mark.parametrize("broken", [math.nan, math.inf, None, "NaN"])
def test_a_loss_that_is_no_number_leaves_a_gap_and_is_counted(broken: Any) -> None:
    history = [train(10), train(20, loss=broken), train(30), evaluation(30, loss=broken)]
    drawn = curves(history)
    assert drawn[0]["loss"] == [1.0, None, 1.0]
    assert drawn[1]["loss"] == [None]
    told = summary(history)
    assert (told["num_broken"], told["num_losses"], told["first_broken"]) == (2, 4, 20)
    json.dumps(drawn, allow_nan=False)


def test_a_long_curve_is_thinned_by_means_and_keeps_its_end() -> None:
    count = 2 * MOST_POINTS + 7
    drawn = curves([train(step, loss=float(step)) for step in range(1, count + 1)])[0]
    assert drawn["every"] == 3
    assert len(drawn["step"]) == len(drawn["loss"]) == math.ceil(count / 3) <= MOST_POINTS
    assert drawn["step"][-1] == count
    assert drawn["loss"][:2] == [2.0, 5.0]


def test_a_running_mean_goes_through_a_noisy_curve() -> None:
    drawn = curves([train(step, loss=float(step % 2)) for step in range(1, 201)])[0]
    assert drawn["window"] == 7
    assert len(drawn["loss_mean"]) == 200
    assert drawn["loss_mean"][100] == pytest.approx(0.5, abs=0.08)
    assert "loss_mean" not in curves([train(1), train(2)])[0]


def test_summary() -> None:
    told = summary(
        [train(10), train(20, images_per_second=20.0), train(30, images_per_second=30.0), evaluation(30)]
    )
    assert (told["steps"], told["epochs"], told["seconds"], told["samples"]) == (30, 3, 15, 240)
    assert told["rate"] == 20.0
    assert told["num_broken"] == 0
    assert told["first_broken"] is None


def test_nothing_and_unknown_lines_are_no_trouble() -> None:
    assert curves([]) == []
    assert summary([])["steps"] is None
    assert curves([{"kind": "note", "text": "hello"}, {"kind": "train", "loss": 1.0}, {}]) == []
