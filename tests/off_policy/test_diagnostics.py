"""Diagnostics of the weights, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from offrl.errors import DataError, RequestError
from offrl.off_policy.diagnostics import diagnose, effective_sample_sizes, over_steps, support, weight_histogram
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.weights import StepWeights
from tests.off_policy.logs import random_log
from tests.off_policy.plain import cumulative, plain_episodes


def two_episodes(last: float = 0.25) -> EpisodeLog:
    """Weights 2, 1 and, of an episode that ends after a step, 1/2."""
    target = np.array([0.5, 0.4, last])
    with np.errstate(divide="ignore"):
        logged = np.log(target)
    return EpisodeLog(np.ones(3), np.log([0.25, 0.8, 0.5]), logged, np.array([0, 2, 3]), np.ones(2), np.zeros(2), 0.5)


def test_by_hand() -> None:
    found = diagnose(two_episodes())
    np.testing.assert_allclose(found.effective_sample_size_by_step, [2.5**2 / 4.25, 1.5**2 / 1.25])
    assert found.effective_sample_size == pytest.approx(1.8)
    assert found.largest_weight_share == pytest.approx(2.0 / 3.0)
    assert found.mean_weight == pytest.approx(0.75)
    assert found.mean_weight_error == pytest.approx(0.25)
    np.testing.assert_array_equal(found.running_by_step, [2, 1])
    assert found.unsupported_share == 0.0
    # Steps count 2 · 1 and 1 · 1/2.
    size, share = over_steps(StepWeights.of(two_episodes()), 0.5)
    assert 1.0 / size == pytest.approx(0.8 * 4.25 / 2.5**2 + 0.2 / 1.8)
    assert share == pytest.approx(0.8 * 2.0 / 2.5 + 0.2 * 2.0 / 3.0)


def test_actions_that_the_target_never_takes() -> None:
    found = diagnose(two_episodes(last=0.0))
    assert found.unsupported_share == pytest.approx(1.0 / 3.0)
    assert found.histogram.zero == 1
    assert found.histogram.counts.sum() == 1
    json.dumps(found.to_dict(), allow_nan=False)


def test_plain_values_even_without_any_weight_and_for_one_episode() -> None:
    log = EpisodeLog.one_step([1.0], [-1.0], [-np.inf])
    found = diagnose(log)
    assert found.effective_sample_size == 0.0
    assert found.largest_weight_share == 0.0
    json.dumps(found.to_dict(), allow_nan=False)


def test_sizes_by_step_equal_straight_line_code_at_any_lengths() -> None:
    log = random_log(2, episodes=60, longest=40)
    weights = np.array(cumulative(plain_episodes(log), np.inf))
    np.testing.assert_allclose(
        effective_sample_sizes(StepWeights.of(log)), weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0)
    )


def test_padding_stays_small_however_uneven_the_lengths() -> None:
    lengths = np.ones(10_000, dtype=np.int64)
    lengths[17] = 50_000
    rows = int(lengths.sum())
    zeros = np.zeros(rows)
    log = EpisodeLog(
        zeros, zeros, zeros, np.concatenate([[0], np.cumsum(lengths)]), np.ones(10_000), np.zeros(10_000), 0.9
    )
    weights = StepWeights.of(log)
    assert sum(block.log_weight.size for block in weights.blocks) <= 2 * rows
    assert weights.steps == 50_000
    np.testing.assert_allclose(effective_sample_sizes(weights), 10_000.0)


def test_histogram() -> None:
    found = weight_histogram(np.log([0.1, 1.0, 1.0, 10.0, 0.0001]), bins=5)
    assert found.edges[[0, -1]] == pytest.approx([-4.0, 1.0])
    np.testing.assert_array_equal(found.counts, [1, 0, 0, 1, 3])


def test_support() -> None:
    behavior = [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]
    target = [[0.5, 0.3, 0.2], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
    found = support(behavior, target)
    assert found.uncovered_mass == pytest.approx(1.2 / 3.0)
    assert found.uncovered_rows == pytest.approx(2.0 / 3.0)


def test_support_of_what_are_no_tables_is_refused() -> None:
    with pytest.raises(RequestError, match="shapes"):
        support([[1.0]], [[0.5, 0.5]])
    with pytest.raises(DataError, match="first in row 1"):
        support([[1.0, 0.0], [0.7, 0.7]], [[0.5, 0.5], [0.5, 0.5]])
