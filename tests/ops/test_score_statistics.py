"""Score summaries against SciPy, by hand, and against what an interval promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import sem, trim_mean

from offrl.ops.score_statistics import bootstrap_interval, interquartile_mean, standard_error


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
    assert math.isnan(standard_error(np.array([[1.0]])))


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    """400 experiments of 50 exponential episodes each, whose mean is 1; percentile bootstraps are a little short."""
    generator = np.random.default_rng(0)
    covered = 0
    for repetition in range(400):
        low, high = bootstrap_interval(generator.exponential(1.0, (1, 50)), resamples=400, seed=repetition)
        covered += low <= 1.0 <= high
    assert 0.90 <= covered / 400 <= 0.97


def test_the_interval_grows_with_the_spread_between_seeds() -> None:
    generator = np.random.default_rng(0)
    alike = generator.normal(0.0, 1.0, (10, 20))
    apart = alike + generator.normal(0.0, 10.0, (10, 1))
    width = [high - low for low, high in (bootstrap_interval(alike), bootstrap_interval(apart))]
    assert width[1] > 5 * width[0]
    assert bootstrap_interval(alike) == bootstrap_interval(alike)
