"""Estimated behavior: right where the log is large, checked on what it hasn't seen."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from offrl.errors import RequestError
from offrl.off_policy.behavior_policy import BehaviorConfig, estimate_behavior
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.folds import fold_of_episodes
from offrl.types import Spec
from tests.off_policy.tabular import BEHAVIOR, TabularMDP

QUICK = BehaviorConfig(folds=2, hidden=(32,), steps=600, batch_size=256, check_every=100, learning_rate=3e-3)


def gaussian_log(episodes: int = 200, scale: float = 2.0) -> EpisodeLog:
    """a ~ N(s / 2, 0.1²) in [-1, 1], in the environment's units stretched by `scale`."""
    generator = np.random.default_rng(0)
    length, observation = 10, generator.uniform(-1, 1, (episodes * 11, 1)).astype(np.float32)
    row = np.arange(episodes * length) + np.repeat(np.arange(episodes), length)
    unit = observation[row] / 2 + 0.1 * generator.standard_normal((len(row), 1))
    return EpisodeLog(
        spaces=Spec(gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-scale, scale, (1,))),
        observations=observation,
        taken=(scale * unit).astype(np.float32),
        reward=np.zeros(len(row)),
        behavior_log_prob=None,
        target_log_prob=None,
        offsets=np.arange(episodes + 1) * length,
        terminated=np.zeros(episodes, bool),
        truncated=np.zeros(episodes, bool),
    )


def test_a_table_is_found_again() -> None:
    logged = TabularMDP.random().log(BEHAVIOR, 1_000)
    found = estimate_behavior(logged, QUICK)
    assert logged.behavior_log_prob is not None
    np.testing.assert_allclose(np.exp(found.log_prob), np.exp(logged.behavior_log_prob), atol=0.05)
    assert found.calibration_error < 0.03
    assert found.held_out_log_likelihood == pytest.approx(logged.behavior_log_prob.mean(), abs=0.01)
    assert found.baseline_log_likelihood < found.held_out_log_likelihood
    assert (found.folds, found.warnings) == (2, ())


def test_a_gaussian_is_found_again_in_the_environments_units() -> None:
    found = estimate_behavior(gaussian_log(), QUICK)
    entropy = np.log(0.1 * 2.0 * np.sqrt(2 * np.pi * np.e))
    assert found.held_out_log_likelihood == pytest.approx(-entropy, abs=0.1)
    assert found.calibration_error < 0.05


def test_no_episode_is_judged_by_a_network_that_has_seen_it() -> None:
    """Each episode repeats an action of its own, which its observation names: to foretell it, one must have seen it."""
    generator = np.random.default_rng(1)
    episodes, length = 40, 30
    action = np.repeat(generator.integers(0, 2, episodes), length)
    logged = EpisodeLog(
        spaces=Spec(gym.spaces.Discrete(episodes), gym.spaces.Discrete(2)),
        observations=np.repeat(np.arange(episodes), length + 1),
        taken=action,
        reward=np.zeros(len(action)),
        behavior_log_prob=None,
        target_log_prob=None,
        offsets=np.arange(episodes + 1) * length,
        terminated=np.zeros(episodes, bool),
        truncated=np.zeros(episodes, bool),
    )
    found = estimate_behavior(logged, dataclasses.replace(QUICK, steps=100, check_every=100))
    assert found.held_out_log_likelihood < np.log(0.6)


def test_a_bad_estimate_is_warned_of() -> None:
    """A single gradient step is too few to learn anything."""
    logged = TabularMDP.random().log(np.array([[0.99, 0.01]] * 4), 30)
    found = estimate_behavior(logged, dataclasses.replace(QUICK, steps=1, check_every=1))
    assert found.calibration_error > 0.05
    assert any("calibration error" in text for text in found.warnings)
    assert any("worse than their average" in text for text in found.warnings)


def test_a_single_episode_is_refused() -> None:
    with pytest.raises(RequestError, match="single episode"):
        estimate_behavior(TabularMDP.random().log(BEHAVIOR, 1), QUICK)


def test_what_is_reported_on_has_not_stopped_its_network() -> None:
    """Whatever the held-out actions were, the network that is reported on them is the same.

    With another column of actions in one fold's episodes, that fold's network gives each of its steps the same
    probabilities of both actions: nothing of them has gone into it.
    """
    logged = TabularMDP.random().log(BEHAVIOR, 40)
    config = dataclasses.replace(QUICK, steps=400, check_every=20, patience=2)
    held_out = fold_of_episodes(logged.episodes, config.folds, 0, "")[logged.episode] == 1
    changed = dataclasses.replace(logged, taken=np.where(held_out, 1 - logged.action, logged.action))
    one, other = (estimate_behavior(each, config) for each in (logged, changed))
    np.testing.assert_allclose(np.exp(one.log_prob[held_out]) + np.exp(other.log_prob[held_out]), 1.0, atol=1e-6)
    assert one.steps[1] == other.steps[1]
    assert max(one.steps) < config.steps


def test_two_episodes_suffice() -> None:
    found = estimate_behavior(TabularMDP.random().log(BEHAVIOR, 2), dataclasses.replace(QUICK, steps=100))
    assert np.isfinite(found.log_prob).all()
