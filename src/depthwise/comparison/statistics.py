"""What a few seeds can say: differences of pairs that share a seed, their mean, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, sqrt
from statistics import fmean, stdev

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Paired:
    """The differences a - b of runs that share a seed.

    The mean's interval is Student's, at 95%: of three seeds a bootstrap has ten different resamples and is too narrow,
    so it stands beside it and decides nothing. Both speak of seeds, on these test images; of other images neither does.

    resolution: of what is measured. Seeds that all differ by the same are taken to scatter by that.
    """

    differences: tuple[float, ...]
    resolution: float = 0.0

    @staticmethod
    def of(a: Sequence[float], b: Sequence[float], resolution: float = 0.0) -> "Paired":
        """Of the same seeds in the same order. Raises ValueError for other lengths."""
        return Paired(tuple(x - y for x, y in zip(a, b, strict=True)), resolution)

    @property
    def mean(self) -> float:
        return fmean(self.differences)

    @property
    def spread(self) -> float:
        """The sample's standard deviation, at least the resolution; infinite of a single seed."""
        return max(stdev(self.differences), self.resolution) if len(self.differences) > 1 else inf

    @property
    def wins(self) -> int:
        """In how many seeds a is above b."""
        return sum(difference > 0 for difference in self.differences)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the mean difference over all seeds lies, by Student's t."""
        return self.interval_among(1)

    def interval_among(self, comparisons: int) -> tuple[float, float]:
        """The same where so many are made at once: each is wider, so that all hold at 95% (Bonferroni)."""
        half = _half_width(self.spread, len(self.differences), 1 - (1 - CONFIDENCE) / comparisons)
        return self.mean - half, self.mean + half

    @cached_property
    def bootstrap(self) -> tuple[float, float]:
        """The same by percentiles of resampled seeds, drawn alike each time."""
        drawn = resamples(len(self.differences))
        means = np.asarray(self.differences)[drawn].mean(1)
        low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return float(low), float(high)

    @property
    def probability(self) -> float:
        """That a beats b with another seed: Student's predictive distribution; 0.5 where one seed says nothing."""
        from scipy.stats import t

        n = len(self.differences)
        if n < 2:
            return 0.5
        if self.spread == 0:
            return 0.5 if self.mean == 0 else float(self.mean > 0)
        return float(t.cdf(self.mean / (self.spread * sqrt(1 + 1 / n)), n - 1))

    def seeds_for(self, half_width: float, comparisons: int = 1) -> int | None:
        """How many seeds bring half of the interval down to `half_width`, by this spread; None for over a thousand."""
        if self.spread == inf or half_width <= 0:
            return None
        low, high, confidence = 2, MOST_SEEDS, 1 - (1 - CONFIDENCE) / comparisons
        if _half_width(self.spread, high, confidence) > half_width:
            return None
        while low < high:
            middle = (low + high) // 2
            wide = _half_width(self.spread, middle, confidence) > half_width
            low, high = (middle + 1, high) if wide else (low, middle)
        return low


def resamples(number: int) -> np.ndarray:
    """int64 [RESAMPLES, number]: places of seeds, drawn with replacement, the same in every program."""
    return np.random.default_rng(0).integers(number, size=(RESAMPLES, number))


def _half_width(spread: float, number: int, confidence: float) -> float:
    from scipy.stats import t

    if number < 2:
        return inf
    return float(t.ppf((1 + confidence) / 2, number - 1)) * spread / sqrt(number)
