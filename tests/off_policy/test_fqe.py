"""Fitted Q evaluation beside exactly solved values; what ends a sum and what doesn't."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from offrl.errors import DataError, RequestError
from offrl.off_policy.choices import Choices
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.fqe import FQEConfig, fit_q, value_bounds
from offrl.off_policy.target_policies import TablePolicy
from offrl.types import Spec
from tests.off_policy.tabular import BEHAVIOR, TARGET, TabularMDP

QUICK = FQEConfig(hidden=(32,), steps=800, batch_size=128, learning_rate=3e-3, target_rate=0.05)


def chain(*, terminated: bool) -> EpisodeLog:
    """One state, one action, a reward of 1 at every step of two episodes of two steps."""
    ends = np.full(2, terminated)
    return EpisodeLog(
        np.ones(4),
        None,
        None,
        np.array([0, 2, 4]),
        ends,
        ~ends,
        spaces=Spec(gym.spaces.Discrete(1), gym.spaces.Discrete(1)),
        observations=np.zeros(6, np.int64),
        taken=np.zeros(4, np.int64),
    )


ALWAYS = Choices(probabilities=np.ones((6, 1), np.float32))


def test_a_truncation_is_bootstrapped_from() -> None:
    values = fit_q(chain(terminated=False), [ALWAYS], QUICK, discount=0.5)
    np.testing.assert_allclose(values.q, 2.0, atol=0.02)
    np.testing.assert_allclose(values.v_final, 2.0, atol=0.02)


def test_nothing_follows_a_termination() -> None:
    values = fit_q(chain(terminated=True), [ALWAYS], QUICK, discount=0.5)
    # The state looks the same before both steps: Q = 1 + γ/2 · Q.
    np.testing.assert_allclose(values.q, 4.0 / 3.0, atol=0.03)
    np.testing.assert_array_equal(values.v_final, 0.0)


def test_nothing_follows_the_horizon_and_networks_see_the_time() -> None:
    values = fit_q(chain(terminated=False), [ALWAYS], QUICK, discount=0.5, horizon=2)
    np.testing.assert_allclose(values.q, [[1.5, 1.0, 1.5, 1.0]], atol=0.03)
    np.testing.assert_array_equal(values.v_final, 0.0)


def test_bounds_of_values() -> None:
    assert value_bounds(chain(terminated=False), 0.5) == (2.0, 2.0)
    assert value_bounds(chain(terminated=True), 0.5) == (1.0, 2.0)
    assert value_bounds(chain(terminated=False), 1.0, 2) == (1.0, 2.0)


@pytest.mark.parametrize("horizon", [None, 5])
def test_values_of_a_table_are_those_solved_for(horizon: int | None) -> None:
    mdp = TabularMDP.random(seed=1)
    logged = mdp.log(BEHAVIOR, 1_000)
    choices = [TablePolicy(table).choices(logged, draws=1, seed=0) for table in (TARGET, BEHAVIOR)]
    config = dataclasses.replace(QUICK, steps=1_500, batch_size=256)
    values = fit_q(logged, choices, config, discount=0.9, horizon=horizon)
    state = np.asarray(logged.observation)[logged.row]
    first = np.cumsum(logged.lengths) - logged.lengths
    for position, table in enumerate((TARGET, BEHAVIOR)):
        q, v = mdp.values(table, 0.9, horizon)
        found = values.v[position, first]
        assert found.mean() == pytest.approx(v[state[first]].mean(), rel=0.04)
        if horizon is None:
            np.testing.assert_allclose(values.q[position].mean(), q[state, logged.action].mean(), rtol=0.04)


def test_continuous_actions() -> None:
    """r = −a²; the policy repeats 0.5 for ever, the log holds all actions."""
    generator = np.random.default_rng(0)
    action = generator.uniform(-1, 1, (2_000, 1)).astype(np.float32)
    log = EpisodeLog(
        -(action[:, 0].astype(np.float64) ** 2),
        None,
        None,
        np.arange(101) * 20,
        np.zeros(100, bool),
        np.ones(100, bool),
        spaces=Spec(gym.spaces.Discrete(1), gym.spaces.Box(-1, 1, (1,))),
        observations=np.zeros(2_100, np.int64),
        taken=action,
    )
    choices = Choices(actions=np.full((1, 2_100, 1), 0.5, np.float32))
    values = fit_q(log, [choices], QUICK, discount=0.5)
    np.testing.assert_allclose(values.v.mean(), -0.5, atol=0.05)
    near_zero = np.abs(action[:, 0]) < 0.05
    np.testing.assert_allclose(values.q[0, near_zero].mean(), -0.25, atol=0.05)


def test_policies_together_are_those_alone() -> None:
    mdp = TabularMDP.random(seed=2)
    logged = mdp.log(BEHAVIOR, 50)
    choices = [TablePolicy(table).choices(logged, draws=1, seed=0) for table in (TARGET, BEHAVIOR)]
    config = FQEConfig(hidden=(16,), steps=40, batch_size=32)
    together = fit_q(logged, choices, config, seed=3, discount=0.9)
    for position, each in enumerate(choices):
        alone = fit_q(logged, [each], config, seed=3, discount=0.9)
        np.testing.assert_allclose(together.q[position], alone.q[0], rtol=1e-4, atol=1e-4)
    again = fit_q(logged, choices, config, seed=3, discount=0.9)
    np.testing.assert_array_equal(together.v, again.v)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    log = chain(terminated=True)
    with pytest.raises(DataError, match="don't go with 5 observations"):
        dataclasses.replace(log, observations=np.zeros(5, np.int64))
    nothing = np.full((6, 1), np.nan, np.float32)
    seen = dataclasses.replace(
        log, spaces=Spec(gym.spaces.Box(0, 1, (1,)), gym.spaces.Discrete(1)), observations=nothing
    )
    with pytest.raises(DataError, match="observations hold NaN"):
        fit_q(seen, [ALWAYS], discount=0.5)


def test_no_episode_is_valued_by_a_network_that_has_seen_it() -> None:
    """Each episode has a state of its own and a reward of its own: to foretell it, one must have seen it."""
    episodes, length = 40, 3
    reward = np.repeat(np.random.default_rng(1).choice([-1.0, 1.0], episodes), length)
    ends = np.ones(episodes, bool)
    logged = EpisodeLog(
        reward,
        None,
        None,
        np.arange(episodes + 1) * length,
        ends,
        ~ends,
        spaces=Spec(gym.spaces.Discrete(episodes), gym.spaces.Discrete(1)),
        observations=np.repeat(np.arange(episodes), length + 1),
        taken=np.zeros(len(reward), np.int64),
    )
    always = Choices(probabilities=np.ones((logged.rows, 1), np.float32))
    for folds in (2, 5):
        values = fit_q(logged, [always], dataclasses.replace(QUICK, folds=folds), discount=0.0)
        assert abs(np.corrcoef(values.q[0], reward)[0, 1]) < 0.4
        np.testing.assert_allclose(values.q, values.v, rtol=1e-5)


def test_a_single_episode_is_refused() -> None:
    log = TabularMDP.random().log(BEHAVIOR, 1)
    with pytest.raises(RequestError, match="single episode"):
        fit_q(log, [TablePolicy(TARGET).choices(log, draws=1, seed=0)], QUICK, discount=0.5)


def test_values_are_the_expectation_of_clipped_action_values() -> None:
    """Networks that learned rare rewards by heart say less than nothing of other actions, which are clipped to 0.

    Nothing is bootstrapped from, so the networks of all policies are the same, and those of a mixture of actions are
    worth the mixture of the actions' values.
    """
    generator = np.random.default_rng(0)
    count, actions = 200, 3
    logged = EpisodeLog(
        (generator.random(count) < 0.05).astype(np.float64),
        None,
        None,
        np.arange(count + 1),
        np.ones(count, bool),
        np.zeros(count, bool),
        spaces=Spec(gym.spaces.Box(-np.inf, np.inf, (5,)), gym.spaces.Discrete(actions)),
        observations=generator.standard_normal((2 * count, 5)).astype(np.float32),
        taken=generator.integers(0, actions, count),
    )
    shares = np.array([0.5, 0.3, 0.2])
    policies = [TablePolicy(table).choices(logged, draws=1, seed=0) for table in (*np.eye(actions), shares)]
    values = fit_q(logged, policies, dataclasses.replace(QUICK, steps=300), discount=1.0)
    assert (values.v[:actions] == 0.0).mean() > 0.1
    np.testing.assert_allclose(values.v[actions], shares @ values.v[:actions], atol=1e-5)
    taken = values.v[logged.action, np.arange(count)]
    np.testing.assert_allclose(values.q[actions], taken, atol=1e-5)
