"""Intervals: against SciPy's, by hand, and what follows from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from offrl.off_policy import intervals
from offrl.off_policy.bootstrap import counts, resample_means
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimate import estimate
from offrl.off_policy.intervals import Bounds

SKEWED = np.random.default_rng(0).exponential(size=60)


def test_t_interval_is_scipy_s() -> None:
    expected = stats.t.interval(0.9, len(SKEWED) - 1, SKEWED.mean(), stats.sem(SKEWED))
    assert intervals.student_t(SKEWED, 0.9) == pytest.approx(expected)


def test_bca_comes_close_to_scipy_s() -> None:
    """SciPy draws other resamples and takes the jackknife's acceleration, so the ends differ by a little."""
    expected = stats.bootstrap(
        (SKEWED,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    resampled = resample_means(SKEWED[:, np.newaxis], resamples=20_000, seed=0)[:, 0]
    low, high = intervals.bca(SKEWED, resampled, 0.95)
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.03 * width)
    assert high == pytest.approx(expected.high, abs=0.03 * width)
    plain = intervals.percentile(resampled, 0.95)
    assert low > plain[0]
    assert high > plain[1]


def test_studentized_by_hand() -> None:
    contributions = np.array([0.0, 2.0])  # mean 1, standard error 1
    resampled, errors = np.array([0.0, 1.0, 3.0, 9.0]), np.array([1.0, 0.5, 2.0, 0.0])
    # Of those with an error: (-1, 0, 1); the 50% interval mirrors the quartiles -1/2 and 1/2.
    assert intervals.studentized(contributions, resampled, errors, 0.5) == pytest.approx((0.5, 1.5))
    assert intervals.studentized(contributions, resampled, np.zeros(4), 0.5) == (1.0, 1.0)


def test_hoeffding_and_bernstein_by_hand() -> None:
    values = np.array([0.0, 1.0, 0.0, 1.0])
    half = 2.0 * math.sqrt(math.log(40.0) / 8.0)
    assert intervals.hoeffding(values, -1.0, 1.0, 0.95) == pytest.approx((0.5 - half, 0.5 + half))
    deviation = math.log(80.0)
    half = math.sqrt(2.0 * (1.0 / 3.0) * deviation / 4.0) + 7.0 * 2.0 * deviation / 9.0
    assert intervals.empirical_bernstein(values, -1.0, 1.0, 0.95) == pytest.approx((0.5 - half, 0.5 + half))


def test_bca_of_values_that_are_all_equal_is_that_value() -> None:
    assert intervals.bca(np.full(5, 2.0), np.full(100, 2.0), 0.95) == (2.0, 2.0)


def test_counts_are_drawn_with_equal_chances_whatever_the_blocks() -> None:
    drawn = np.concatenate(list(counts(50, 4_000, 0)))
    assert drawn.shape == (4_000, 50)
    assert (drawn.sum(axis=1) == 50).all()
    np.testing.assert_allclose(drawn.mean(axis=0), 1.0, atol=0.08)
    np.testing.assert_allclose(drawn.var(axis=0), 0.98, atol=0.12)


def test_bounded_intervals_of_estimates_stay_within_the_return_s_range() -> None:
    log = EpisodeLog.one_step([0.0, 1.0, 1.0], np.log([0.5] * 3), np.log([0.5] * 3))
    for kind in ("hoeffding", "bernstein"):
        (answer,) = estimate(log, ["ips"], interval=kind, bounds=Bounds((0.0, 1.0), 2.0))  # type: ignore[arg-type]
        assert answer.interval is not None
        assert (answer.interval.low, answer.interval.high) == (0.0, 1.0)
        assert answer.interval.method == kind


def test_bounds_by_hand() -> None:
    """Three steps at γ = 1/2 count 1.75."""
    ones = np.ones(3)
    log = EpisodeLog(ones, -ones, -ones, np.array([0, 3]), np.array([True]), np.array([False]), 0.5, 3, q=ones, v=ones)
    bounds = Bounds((-1.0, 2.0), 4.0)
    assert bounds.of_return(log) == (-1.75, 3.5)
    assert bounds.of_contribution(log, with_values=False) == (-7.0, 14.0)
    # δ lies between -1 - 1.75/2 - 3.5 and 2 + 3.5/2 + 1.75, and counts up to 4 · 1.75 times.
    assert bounds.of_contribution(log, with_values=True) == (-1.75 - 7.0 * 5.375, 3.5 + 7.0 * 5.5)
