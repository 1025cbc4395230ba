"""Paired differences against scipy's own test, and what few seeds may and may not say."""

import numpy as np
import pytest
from scipy import stats

from depthwise.comparison.statistics import Paired, resamples

A, B = (0.912, 0.915, 0.909, 0.921), (0.905, 0.911, 0.910, 0.912)


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    paired = Paired.of(A, B)
    test = stats.ttest_rel(A, B)
    low, high = test.confidence_interval(0.95)
    assert paired.interval == pytest.approx((low, high))
    assert paired.mean == pytest.approx(np.mean(np.subtract(A, B)))
    assert paired.wins == 3


def test_the_probability_of_another_seed_by_simulation() -> None:
    paired = Paired.of(A, B)
    # Of normal differences with unknown mean and deviation: the posterior's draws, and one more difference of each.
    generator = np.random.default_rng(0)
    n, d = 4, np.subtract(A, B)
    variance = d.var(ddof=1) * (n - 1) / generator.chisquare(n - 1, 200_000)
    mean = generator.normal(d.mean(), np.sqrt(variance / n))
    assert paired.probability == pytest.approx(
        (generator.normal(mean, np.sqrt(variance)) > 0).mean(), abs=0.005
    )


def test_the_bootstrap_resamples_seeds_and_is_the_same_each_time() -> None:
    d = np.subtract(A, B)
    means = [d[list(row)].mean() for row in resamples(4)]
    assert Paired.of(A, B).bootstrap == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert Paired.of(A, B).bootstrap == Paired.of(A, B).bootstrap


def test_so_many_seeds_as_are_said_bring_the_interval_down() -> None:
    paired = Paired.of(A, B)
    number = paired.seeds_for(0.002)
    assert number is not None

    def half(n: int) -> float:
        return float(stats.t.ppf(0.975, n - 1)) * paired.spread / n**0.5

    assert half(number) <= 0.002 < half(number - 1)
    assert paired.seeds_for(1e-6) is None


def test_many_comparisons_at_once_widen_each() -> None:
    paired = Paired.of(A, B)
    low, high = stats.ttest_rel(A, B).confidence_interval(1 - 0.05 / 7)
    assert paired.interval_among(7) == pytest.approx((low, high))
    assert (paired.seeds_for(0.002, 7) or 0) > (paired.seeds_for(0.002) or 0)


def test_seeds_that_differ_by_the_same_scatter_by_the_resolution() -> None:
    alike = Paired.of([0.5, 0.6], [0.4, 0.5], resolution=0.01)
    assert alike.spread == 0.01
    assert alike.interval[0] < alike.mean - 0.05


def test_one_seed_says_nothing() -> None:
    one = Paired.of([0.9], [0.8])
    assert one.interval == (-np.inf, np.inf)
    assert one.probability == 0.5
    assert one.seeds_for(0.01) is None


def test_seeds_that_all_agree() -> None:
    assert Paired.of([0.5, 0.6], [0.25, 0.35]).probability == 1
    assert Paired.of([0.5, 0.6], [0.5, 0.6]).probability == 0.5
