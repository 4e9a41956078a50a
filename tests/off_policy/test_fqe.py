"""Fitted Q evaluation beside exactly solved values; what ends a sum and what doesn't."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from offrl.errors import DataError
from offrl.off_policy.fqe import FQEConfig, fit_q
from offrl.off_policy.target_policies import TablePolicy
from offrl.off_policy.transitions import Choices, Steps
from tests.off_policy.tabular import BEHAVIOR, TARGET, TabularMDP

QUICK = FQEConfig(hidden=(32,), members=1, steps=800, batch_size=128, learning_rate=3e-3, target_rate=0.05)


def chain(*, terminated: bool, discount: float = 0.5, horizon: int | None = None) -> Steps:
    """One state, one action, a reward of 1 at every step of two episodes of two steps."""
    ends = np.array([False, terminated, False, terminated])
    return Steps(
        features=np.ones((6, 1), np.float32),
        action=np.zeros(4, np.int64),
        reward=np.ones(4),
        terminated=ends,
        lengths=np.array([2, 2]),
        discount=discount,
        horizon=horizon,
        actions=1,
    )


ALWAYS = Choices(probabilities=np.ones((6, 1), np.float32))


def test_a_truncation_is_bootstrapped_from() -> None:
    values = fit_q(chain(terminated=False), [ALWAYS], QUICK)
    np.testing.assert_allclose(values.q, 2.0, atol=0.02)
    np.testing.assert_allclose(values.v_final, 2.0, atol=0.02)


def test_nothing_follows_a_termination() -> None:
    values = fit_q(chain(terminated=True), [ALWAYS], QUICK)
    # The state looks the same before both steps: Q = 1 + γ/2 · Q.
    np.testing.assert_allclose(values.q, 4.0 / 3.0, atol=0.03)
    np.testing.assert_array_equal(values.v_final, 0.0)


def test_nothing_follows_the_horizon_and_networks_see_the_time() -> None:
    values = fit_q(chain(terminated=False, horizon=2), [ALWAYS], QUICK)
    np.testing.assert_allclose(values.q, [[1.5, 1.0, 1.5, 1.0]], atol=0.03)
    np.testing.assert_array_equal(values.v_final, 0.0)


def test_bounds_of_values() -> None:
    assert chain(terminated=False).value_bounds() == (2.0, 2.0)
    assert chain(terminated=True).value_bounds() == (1.0, 2.0)
    assert chain(terminated=False, discount=1.0, horizon=2).value_bounds() == (1.0, 2.0)


@pytest.mark.parametrize("horizon", [None, 5])
def test_values_of_a_table_are_those_solved_for(horizon: int | None) -> None:
    mdp = TabularMDP.random(seed=1)
    logged = mdp.log(BEHAVIOR, 1_000)
    choices = [TablePolicy(table).choices(logged, draws=1, seed=0) for table in (TARGET, BEHAVIOR)]
    values = fit_q(logged.steps(0.9, horizon), choices, dataclasses.replace(QUICK, steps=1_500, batch_size=256))
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
    steps = Steps(
        features=np.ones((2_100, 1), np.float32),
        action=action,
        reward=-(action[:, 0].astype(np.float64) ** 2),
        terminated=np.zeros(2_000, bool),
        lengths=np.full(100, 20),
        discount=0.5,
    )
    choices = Choices(actions=np.full((1, 2_100, 1), 0.5, np.float32))
    values = fit_q(steps, [choices], QUICK)
    np.testing.assert_allclose(values.v.mean(), -0.5, atol=0.05)
    near_zero = np.abs(action[:, 0]) < 0.05
    np.testing.assert_allclose(values.q[0, near_zero].mean(), -0.25, atol=0.05)


def test_policies_together_are_those_alone() -> None:
    mdp = TabularMDP.random(seed=2)
    logged = mdp.log(BEHAVIOR, 50)
    choices = [TablePolicy(table).choices(logged, draws=1, seed=0) for table in (TARGET, BEHAVIOR)]
    config = FQEConfig(hidden=(16,), members=2, steps=40, batch_size=32)
    together = fit_q(logged.steps(0.9), choices, config, seed=3)
    for position, each in enumerate(choices):
        alone = fit_q(logged.steps(0.9), [each], config, seed=3)
        np.testing.assert_allclose(together.q[position], alone.q[0], rtol=1e-4, atol=1e-4)
    again = fit_q(logged.steps(0.9), choices, config, seed=3)
    np.testing.assert_array_equal(together.v, again.v)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DataError, match="don't go with 5 observations"):
        dataclasses.replace(chain(terminated=True), features=np.ones((5, 1), np.float32))
    with pytest.raises(DataError, match="reward hold NaN"):
        dataclasses.replace(chain(terminated=True), reward=np.array([0.0, np.nan, 0.0, 0.0]))
