"""Who is timed takes turns, and a ratio that its own rounds contradict is not stated."""

import re
import time
from pathlib import Path

import pytest

from depthwise.timing import ATTEMPTS, MOST_SPREAD, in_turns, ratio, seconds, settled

QUIET = ([1.56, 1.60, 1.62, 1.55, 1.61, 1.58, 1.60], [0.10, 0.10, 0.11, 0.10, 0.10, 0.10, 0.10])
# A network of 0.1 ms beside other work: whole slices of the scheduler fall on single runs of either side.
BUSY = ([2.1, 1.9, 40.0, 2.0, 16.0, 2.2, 1.9], [0.1, 0.9, 0.1, 8.0, 0.1, 0.1, 0.9])


def test_the_middle_of_a_quiet_measurement() -> None:
    speed = ratio(*QUIET)
    assert speed.times == speed.middle == pytest.approx(15.8)
    assert (speed.lowest, speed.highest) == pytest.approx((1.62 / 0.11, 16.1))
    assert 1 < speed.spread < 1.2


def test_a_spread_that_says_nothing_is_no_ratio() -> None:
    speed = ratio(*BUSY)
    assert speed.spread > 50
    assert speed.times is None
    assert speed.to_json()["times"] is None
    assert (speed.lowest, speed.highest) == pytest.approx((0.25, 400))


def test_one_round_out_of_many_does_not_spoil_the_rest() -> None:
    slow, quick = [2.0] * 14 + [80.0], [1.0] * 15
    assert ratio(slow, quick).times == ratio(slow, quick).to_json()["times"] == 2.0


@pytest.mark.parametrize(("factor", "said"), [(MOST_SPREAD * 0.999, True), (MOST_SPREAD * 1.001, False)])
def test_the_rule(factor: float, said: bool) -> None:
    speed = ratio([1.0] * 10 + [factor] * 10, [1.0] * 20)
    assert (speed.times is not None) is said


def test_nobody_states_a_median_that_may_be_noise() -> None:
    root = Path(__file__).parents[1]
    files = [*(root / "src").rglob("*.py"), *(root / "benchmarks").glob("*.py")]
    around = [file.name for file in files if re.search(r"\.middle\b|asdict\(ratio", file.read_text())]
    assert around == ["timing.py"]


def test_it_is_measured_again_while_it_is_noisy() -> None:
    taken: list[float] = []

    def measure(spreads: list[float]) -> float:
        taken.append(spreads[len(taken)])
        return taken[-1]

    for spreads, result, times in (
        ([1.5, 9.0], 1.5, 1),
        ([9.0, 1.2, 1.1], 1.2, 2),
        ([9.0, 4.0, 5.0, 1.0], 4.0, ATTEMPTS),
    ):
        taken.clear()
        assert settled(lambda spreads=spreads: measure(spreads), lambda spread: spread) == result
        assert len(taken) == times


def test_each_round_has_all_of_them_and_begins_with_another() -> None:
    order: list[str] = []
    measures = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    rounds: list[int] = []
    assert in_turns(measures, 4, progress=rounds.append) == {
        "a": [1, 6, 8, 10],
        "b": [2, 4, 9, 11],
        "c": [3, 5, 7, 12],
    }
    assert "".join(order) == "abcbcacababc"
    assert rounds == [0, 1, 2, 3]


def test_one_that_has_ended_gets_no_further_turn() -> None:
    left = iter([1, None])
    assert in_turns({"ends": lambda: next(left), "stays": lambda: 2}, 3) == {"ends": [1], "stays": [2, 2, 2]}
    assert in_turns({"ends": lambda: None}, 3) == {"ends": []}


def test_a_rest_comes_before_each_turn_and_is_not_timed() -> None:
    began = time.perf_counter()
    taken = in_turns({"a": lambda: seconds(lambda: None)}, 3, rest=0.01)
    assert time.perf_counter() - began >= 0.03
    assert max(taken["a"]) < 0.01
