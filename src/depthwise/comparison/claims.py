"""What a paper says of arms, as rules that are fixed before anything has run, and what the runs say to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import fmean
from typing import Any, Literal, Protocol

import numpy as np

from depthwise.comparison.outcome import TOP1, Metric
from depthwise.comparison.statistics import Paired, resamples
from depthwise.words import number_of

Verdict = Literal["shows", "does not show", "cannot be told"]

Scores = Mapping[str, Sequence[float]]
"""The metric of each arm by its name, seed by seed, all of the same seeds."""


@dataclass(frozen=True)
class Compared:
    """Two arms, and the differences of their runs by seed."""

    one: str
    other: str
    paired: Paired


@dataclass(frozen=True)
class Finding:
    """What came of a claim: the verdict, and a sentence with the numbers."""

    claim: str
    rule: str
    verdict: Verdict
    sentence: str
    metric: str
    compared: tuple[Compared, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


class Claim(Protocol):
    """A sentence of the paper's that runs can support or not."""

    @property
    def text(self) -> str:
        """The sentence."""

    @property
    def rule(self) -> str:
        """How it is judged."""

    @property
    def metric(self) -> Metric:
        """By what."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Of which arms it speaks."""

    def judged(self, scores: Scores) -> Finding:
        """What the runs say, of the metric's `scores` of these arms."""


@dataclass(frozen=True)
class Better:
    """One arm is better than another."""

    text: str
    better: str
    worse: str
    metric: Metric = TOP1

    @property
    def arms(self) -> tuple[str, ...]:
        return self.better, self.worse

    @property
    def rule(self) -> str:
        return (
            f"shows if the 95% interval of the mean paired difference of {self.better} and {self.worse} in "
            f"{self.metric.name} lies on its side of 0, does not show if it lies on the other"
        )

    def judged(self, scores: Scores) -> Finding:
        paired = _paired(self.metric, scores, self.better, self.worse)
        low, high = paired.interval
        verdict: Verdict = "shows" if low > 0 else "does not show" if high < 0 else "cannot be told"
        sentence = _said(self.metric, paired, self.better, self.worse)
        if verdict == "cannot be told":
            sentence += _seeds_needed(paired, abs(paired.mean))
        compared = Compared(self.better, self.worse, paired)
        return Finding(self.text, self.rule, verdict, sentence, self.metric.key, (compared,))


@dataclass(frozen=True)
class Alike:
    """Two arms are no further apart than `within`, in the metric's own scale (0.005 is half a point)."""

    text: str
    one: str
    other: str
    within: float
    metric: Metric = TOP1

    @property
    def arms(self) -> tuple[str, ...]:
        return self.one, self.other

    @property
    def rule(self) -> str:
        bound = self.metric.difference(self.within).lstrip("+")
        return (
            f"shows if the 95% interval of the mean paired difference of {self.one} and {self.other} in "
            f"{self.metric.name} lies within {bound} of 0, does not show if it lies beyond"
        )

    def judged(self, scores: Scores) -> Finding:
        paired = _paired(self.metric, scores, self.one, self.other)
        low, high = paired.interval
        beyond = low > self.within or high < -self.within
        verdict: Verdict = (
            "does not show"
            if beyond
            else "shows"
            if -self.within < low and high < self.within
            else "cannot be told"
        )
        sentence = _said(self.metric, paired, self.one, self.other)
        if verdict == "cannot be told" and low * high > 0:
            bound = self.metric.difference(self.within).lstrip("+")
            sentence += f"; that is a difference, of which it is open whether it exceeds {bound}"
        if verdict == "cannot be told":
            sentence += _seeds_needed(paired, abs(self.within - abs(paired.mean)))
        compared = Compared(self.one, self.other, paired)
        return Finding(self.text, self.rule, verdict, sentence, self.metric.key, (compared,))


@dataclass(frozen=True)
class Best:
    """Of arms along a line, the best is `expected`, or, where that is empty, whichever it is.

    Arms whose paired difference from the best mean has an interval that holds 0 are not told apart from it; intervals
    are as wide as so many comparisons need.
    """

    text: str
    arms: tuple[str, ...]
    expected: tuple[str, ...] = ()
    metric: Metric = TOP1

    @property
    def rule(self) -> str:
        apart = (
            f"an arm is told apart from the best mean if the interval of their paired difference excludes 0, at 95% "
            f"for all {len(self.arms) - 1} comparisons together"
        )
        if not self.expected:
            return f"the best of {', '.join(self.arms)} by mean {self.metric.name}; {apart}"
        return (
            f"shows if {' or '.join(self.expected)} is the best of {', '.join(self.arms)} by mean {self.metric.name} "
            f"and all others are told apart from it, does not show if it is told apart from the best; {apart}"
        )

    def judged(self, scores: Scores) -> Finding:
        sign = 1 if self.metric.higher_is_better else -1
        table = sign * np.asarray([scores[arm] for arm in self.arms])  # [arms, seeds]
        best = max(self.arms, key=lambda arm: sign * fmean(scores[arm]))
        # Arms share seeds, so a resample takes the same ones of all.
        means = table[:, resamples(table.shape[1])].mean(2)
        first = means == means.max(0)
        share = dict(zip(self.arms, (first / first.sum(0)).mean(1).tolist(), strict=True))
        compared = tuple(
            Compared(best, arm, _paired(self.metric, scores, best, arm)) for arm in self.arms if arm != best
        )
        number = len(compared)
        near = [best, *(each.other for each in compared if not each.paired.interval_among(number)[0] > 0)]
        outside = [arm for arm in near if arm not in self.expected]
        verdict: Verdict = "shows" if not outside else "cannot be told"
        if self.expected and not {*near} & {*self.expected}:
            verdict = "does not show"
        others = f"not told apart from it: {', '.join(near[1:])}" if near[1:] else "all others are told apart"
        mean = self.metric.shown(fmean(scores[best]))
        seeds = number_of(table.shape[1], "seed")
        first_in = f", and comes first in {share[best]:.0%} of resampled seeds" if table.shape[1] > 1 else ""
        sentence = f"{best} is best by its mean, {mean} over {seeds}{first_in}; {others}"
        details = {"best": best, "near": near, "share_of_resamples": share}
        if not self.expected:
            verdict = "shows" if len(near) == 1 else "cannot be told"
        if verdict == "cannot be told":
            closest = max(
                (each.paired for each in compared if each.other in near),
                key=lambda paired: paired.spread / abs(paired.mean) if paired.mean else inf,
            )
            sentence += _seeds_needed(closest, abs(closest.mean), number)
        return Finding(self.text, self.rule, verdict, sentence, self.metric.key, compared, details)


def _paired(metric: Metric, scores: Scores, one: str, other: str) -> Paired:
    """How much better `one` is than `other`."""
    a, b = (one, other) if metric.higher_is_better else (other, one)
    return Paired.of(scores[a], scores[b], metric.resolution)


def _said(metric: Metric, paired: Paired, one: str, other: str) -> str:
    n = len(paired.differences)
    size = metric.difference(abs(paired.mean)).lstrip("+")
    said = f"{one} is {size} {'worse' if paired.mean < 0 else 'better'} than {other} in {metric.name}"
    if n < 2:
        return f"{said}, with one seed, which tells nothing of others"
    low, high = paired.interval
    return (
        f"{said} (mean difference {metric.difference(paired.mean)}, 95% interval {metric.difference(low)} to "
        f"{metric.difference(high)}; ahead in {paired.wins} of {n} seeds, and with another seed with a probability of "
        f"{paired.probability:.0%})"
    )


def _seeds_needed(paired: Paired, half_width: float, comparisons: int = 1) -> str:
    if len(paired.differences) < 2:
        return "; give at least 2 seeds"
    if half_width == 0 or paired.mean == 0:
        return "; more seeds alone would not tell"
    number = paired.seeds_for(half_width, comparisons)
    if number is None:
        return "; by this spread it would take over a thousand seeds to tell"
    return f"; by this spread it would take about {number_of(number, 'seed')} to tell"
