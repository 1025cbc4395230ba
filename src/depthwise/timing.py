"""Times taken in turns, how many times as fast one thing is as another, and when they are too noisy to say."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, TypeVar

MOST_SPREAD = 2.5
"""The ninetieth percentile of the ratios over the tenth; beyond it their median says nothing of the two."""

ATTEMPTS = 3

REST = 0.03
"""Seconds before a turn in which the threads of the turn before stop spinning."""

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True)
class Ratio:
    """Of n rounds the ratios, each of two times of the same round: their median, percentiles and extremes."""

    middle: float
    tenth: float
    ninetieth: float
    lowest: float
    highest: float

    @property
    def spread(self) -> float:
        """How far the rounds are apart, 1 if all agree."""
        return self.ninetieth / self.tenth if self.tenth > 0 else float("inf")

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy for the median to mean anything."""
        return not self.spread <= MOST_SPREAD

    @property
    def times(self) -> float | None:
        """The median, None where it means nothing."""
        return None if self.noisy else self.middle

    def to_json(self) -> dict[str, Any]:
        """With the median as "times", None where it means nothing."""
        values = asdict(self)
        del values["middle"]
        return {"times": self.times, **values}


def seconds(run: Callable[[], object]) -> float:
    """How long `run` takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def in_turns(
    measures: Mapping[K, Callable[[], T | None]],
    rounds: int,
    *,
    rest: float = 0.0,
    progress: Callable[[int], None] = lambda round_number: None,
) -> dict[K, list[T]]:
    """What each of `measures` gives in each round, so that whatever else keeps the machine busy meets all of them.

    Each round begins with another one. One that gives None has ended: it gets no further turn and has fewer results.
    rest: seconds of sleep before each turn. `progress` is called with the number of each round, from 0.
    """
    found: dict[K, list[T]] = {key: [] for key in measures}
    left = list(measures)
    for round_number in range(rounds):
        progress(round_number)
        first = round_number % max(len(left), 1)
        for key in left[first:] + left[:first]:
            time.sleep(rest)
            result = measures[key]()
            if result is None:
                left.remove(key)
            else:
                found[key].append(result)
    return found


def ratio(slow: Sequence[float], quick: Sequence[float]) -> Ratio:
    """How many times as fast `quick` is: seconds of the same rounds, two of them at least."""
    ratios = [theirs / ours for theirs, ours in zip(slow, quick, strict=True)]
    tenths = quantiles(ratios, n=10, method="inclusive")
    return Ratio(median(ratios), tenths[0], tenths[-1], min(ratios), max(ratios))


def settled(measure: Callable[[], T], spread: Callable[[T], float]) -> T:
    """What `measure` gives, measured again up to ATTEMPTS times while it is noisy; at worst the quietest of them."""
    best = measure()
    for _ in range(ATTEMPTS - 1):
        if spread(best) <= MOST_SPREAD:
            break
        best = min(best, measure(), key=spread)
    return best
