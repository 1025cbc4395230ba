"""Each verdict on scores of which it is known, and the sentence that says why."""

import pytest

from depthwise.comparison.claims import Alike, Best, Better
from depthwise.comparison.outcome import Metric

UPDATES = Metric("updates", "updates", lambda outcome: 0.0, scale=1.0, unit="updates", higher_is_better=False)

CLEAR = {"a": [0.90, 0.91, 0.92], "b": [0.80, 0.805, 0.82]}
NEAR = {"a": [0.900, 0.910, 0.920], "b": [0.899, 0.913, 0.9185]}


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [(CLEAR, "shows"), (NEAR, "cannot be told"), ({"a": CLEAR["b"], "b": CLEAR["a"]}, "does not show")],
)
def test_better(scores: dict[str, list[float]], verdict: str) -> None:
    found = Better("A is better.", "a", "b").judged(scores)
    assert found.verdict == verdict
    assert "by this spread it would take" in found.sentence or verdict != "cannot be told"


def test_fewer_updates_are_better_where_the_metric_says_so() -> None:
    scores = {"a": [100.0, 110.0, 95.0], "b": [400.0, 420.0, 380.0]}
    assert Better("A is sooner.", "a", "b", UPDATES).judged(scores).verdict == "shows"
    assert Better("B is sooner.", "b", "a", UPDATES).judged(scores).verdict == "does not show"


@pytest.mark.parametrize(
    ("within", "scores", "verdict"),
    [
        (0.01, NEAR, "shows"),
        (0.002, NEAR, "cannot be told"),
        (0.02, CLEAR, "does not show"),
    ],
)
def test_alike(within: float, scores: dict[str, list[float]], verdict: str) -> None:
    assert Alike("They are alike.", "a", "b", within).judged(scores).verdict == verdict


def test_a_difference_that_may_be_small_is_said() -> None:
    found = Alike("They are alike.", "a", "b", 0.005).judged(
        {"a": [0.91, 0.912, 0.909], "b": [0.904, 0.907, 0.901]}
    )
    assert found.verdict == "cannot be told"
    assert "that is a difference, of which it is open whether it exceeds 0.50 points" in found.sentence


def test_one_seed_tells_nothing() -> None:
    found = Better("A is better.", "a", "b").judged({"a": [0.9], "b": [0.1]})
    assert found.verdict == "cannot be told"
    assert found.sentence.endswith("give at least 2 seeds")


def test_a_best_that_cannot_be_told_says_how_many_seeds_it_would_take() -> None:
    scores = {**CLEAR, "c": [0.899, 0.912, 0.9195]}
    said = Best("Which?", ("a", "b", "c")).judged(scores).sentence
    assert "not told apart from it: a; by this spread it would take about" in said
    one = Best("Which?", ("a", "b")).judged({"a": [0.9], "b": [0.1]})
    assert one.verdict == "cannot be told"
    assert one.sentence.endswith("give at least 2 seeds")
    assert "resampled" not in one.sentence


def test_the_best_of_a_line() -> None:
    scores = {**CLEAR, "c": [0.899, 0.912, 0.9195]}
    found = Best("One is best.", ("a", "b", "c"), expected=("b",)).judged(scores)
    assert found.verdict == "does not show"
    assert found.details["near"][1:] in (["c"], ["a"])
    assert sum(found.details["share_of_resamples"].values()) == pytest.approx(1)
    assert Best("One is best.", ("a", "b", "c"), expected=("a",)).judged(scores).verdict == "cannot be told"
    assert Best("One is best.", ("a", "b"), expected=("a",)).judged(CLEAR).verdict == "shows"
    assert Best("Which?", ("a", "b")).judged(CLEAR).verdict == "shows"
