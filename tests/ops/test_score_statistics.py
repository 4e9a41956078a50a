"""Score summaries against SciPy, by hand, and against what an interval promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import mstats, sem, trim_mean

from offrl.ops.score_statistics import (
    BOOTSTRAPPED_RUNS,
    Scores,
    bootstrap_interval,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    standard_error,
    trimmed_interval,
)

EPISODES, EXPERIMENTS = 20, 2_000


def test_interquartile_mean_by_hand() -> None:
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, 3.0])) == 2.5
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0
    np.testing.assert_array_equal(interquartile_mean(np.array([[0.0, 1, 2, 50], [5, 5, 5, 5]])), [1.5, 5.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_interquartile_mean_is_the_trimmed_mean(values: list[float]) -> None:
    assert interquartile_mean(np.array(values)) == pytest.approx(trim_mean(values, 0.25), rel=1e-9, abs=1e-6)


def test_standard_error_is_over_seeds_or_else_over_episodes() -> None:
    returns = np.array([[1.0, 3.0], [4.0, 8.0], [0.0, 1.0]])
    assert standard_error(returns) == pytest.approx(sem(returns.mean(axis=1)))
    assert standard_error(returns[:1]) == pytest.approx(sem(returns[0]))
    assert standard_error(np.array([[1.0]])) is None


def test_the_mean_s_interval_is_student_s() -> None:
    values = np.array([1.0, 4.0, 2.0, 9.0])
    assert mean_interval(values) == pytest.approx(stats.t.interval(0.95, 3, values.mean(), sem(values)))
    assert mean_interval(values[:1]) is None


@pytest.mark.parametrize("count", [4, 5, 7, 8, 9])
def test_the_trimmed_interval_is_scipy_s(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    share = (count // 4) / count
    expected = mstats.trimmed_mean_ci(values, limits=(share, share))
    assert trimmed_interval(values) == pytest.approx(list(expected))


def test_few_runs_are_not_bootstrapped_and_one_has_no_interquartile_mean_s_interval() -> None:
    values = np.random.default_rng(0).normal(size=BOOTSTRAPPED_RUNS)
    assert interquartile_interval(values) == bootstrap_interval(values)
    assert interquartile_interval(values[:-1]) == trimmed_interval(values[:-1])
    # Of two or three values none are cut.
    assert interquartile_interval(values[:3]) == pytest.approx(mean_interval(values[:3]))
    assert interquartile_interval(values[:1]) is None


def test_the_bootstrap_resamples_runs() -> None:
    """SciPy's percentile bootstrap, which draws others: the ends differ by a little."""
    values = np.random.default_rng(3).normal(size=12)
    expected = stats.bootstrap(
        (values,), interquartile_mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert bootstrap_interval(values) == pytest.approx(list(expected), abs=0.05)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def _returns(generator: np.random.Generator, seeds: int) -> Scores:
    """[seeds, episodes]: policies that differ, and starts that differ as much again."""
    return generator.normal(0.0, 1.0, (seeds, 1)) + generator.normal(0.0, EPISODES**0.5, (seeds, EPISODES))


def _coverage(interval: Callable[[Scores], list[float] | None], seeds: int) -> float:
    """How often an interval over seeds holds the mean (and the interquartile mean) of the population, 0."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(EXPERIMENTS):
        ends = interval(_returns(generator, seeds).mean(axis=1))
        assert ends is not None
        covered += ends[0] <= 0.0 <= ends[1]
    return covered / EXPERIMENTS


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_mean_s_interval_covers_seeds_and_starts(seeds: int) -> None:
    assert 0.93 <= _coverage(mean_interval, seeds) <= 0.97


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interquartile_mean_s_interval_covers_seeds_and_starts(seeds: int) -> None:
    assert 0.92 <= _coverage(interquartile_interval, seeds) <= 0.97


def test_the_bootstrap_of_few_runs_would_not() -> None:
    assert _coverage(bootstrap_interval, 3) < 0.80
    assert _coverage(bootstrap_interval, 5) < 0.92


def test_starts_that_all_seeds_share_would_not_be_covered() -> None:
    """What an error over seeds leaves out where every seed is tried on the same starts."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(EXPERIMENTS):
        shared = generator.normal(0.0, EPISODES**0.5, EPISODES)
        ends = mean_interval((generator.normal(0.0, 1.0, (10, 1)) + shared).mean(axis=1))
        assert ends is not None
        covered += ends[0] <= 0.0 <= ends[1]
    assert covered / EXPERIMENTS < 0.70


def test_one_policy_s_interval_covers_its_own_mean() -> None:
    """Exponential returns of 100 episodes each, whose mean is 1."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(EXPERIMENTS):
        ends = mean_interval(generator.exponential(1.0, 100))
        assert ends is not None
        covered += ends[0] <= 1.0 <= ends[1]
    assert 0.92 <= covered / EXPERIMENTS <= 0.97
