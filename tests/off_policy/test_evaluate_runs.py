"""Runs valued from logs, and what they earn where they act themselves."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from offrl.converters.catalog import open_dataset
from offrl.errors import RequestError, SpaceMismatchError
from offrl.off_policy.behavior_policy import BehaviorConfig
from offrl.off_policy.choices import Choices
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.evaluate_runs import Acting, Trial, evaluate_policies, true_returns, with_time_limit
from offrl.off_policy.features import one_hot_each
from offrl.off_policy.fqe import FQEConfig, fit_q
from offrl.off_policy.plan import Plan
from offrl.types import Spec
from tests.off_policy.runs import make_logs, policies

PLAN = Plan(estimators=["is", "wis"], horizon=10, resamples=60, fqe=FQEConfig(hidden=(8,), steps=20))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make_logs` makes."""
    return make_logs(tmp_path_factory.mktemp("ope"))


def test_values_of_several_choices_at_once() -> None:
    """A reward of 1 for one pair of six: the policy that always takes it earns 1, one that never does 0."""
    space = gym.spaces.MultiDiscrete([2, 3], start=[0, 1])
    count = 600
    generator = np.random.default_rng(0)
    action = np.stack([generator.integers(0, 2, count), generator.integers(1, 4, count)], axis=1)
    assert one_hot_each(space, np.array([[1, 1], [0, 3]])).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    log = EpisodeLog(
        1.0 * (action == [1, 2]).all(axis=1),
        None,
        None,
        np.arange(count + 1),
        np.ones(count, bool),
        np.zeros(count, bool),
        spaces=Spec(gym.spaces.Box(-1, 1, (1,)), space),
        observations=np.zeros((2 * count, 1), np.float32),
        taken=action,
    )
    choices = [
        Choices(actions=np.broadcast_to(one_hot_each(space, np.array(pair)), (1, 2 * count, 5)))
        for pair in ([1, 2], [0, 2])
    ]
    values = fit_q(log, choices, FQEConfig(hidden=(32,), steps=1_500), discount=1.0)
    np.testing.assert_allclose(values.v.mean(axis=1), [1.0, 0.0], atol=0.1)


def test_every_seed_is_a_policy_unless_one_is_chosen(logs: Path) -> None:
    found = evaluate_policies([logs / "ppo"], str(logs / "random"), PLAN)
    assert [policy.name for policy in found.policies] == ["ppo seed 0", "ppo seed 1"]
    one = evaluate_policies([logs / "ppo"], str(logs / "random"), PLAN, Acting(seed_index=1))
    assert one.policies[0].name == "ppo seed 1"
    assert one.policies[0].estimates[0].value == found.policies[1].estimates[0].value
    twice = evaluate_policies([logs / "ppo"] * 2, str(logs / "random"), PLAN, Acting(seed_index=0))
    assert [policy.name for policy in twice.policies] == ["0: ppo seed 0", "1: ppo seed 0"]
    with pytest.raises(RequestError, match="no seed 2"):
        evaluate_policies([logs / "ppo"], str(logs / "random"), PLAN, Acting(seed_index=2))


def test_the_truth_is_discounted_and_cut_at_the_horizon(logs: Path) -> None:
    loaded = policies(logs, "ppo")
    plan = Plan(discount=0.5, horizon=3)
    returns = true_returns(loaded, (0, 1), Trial("CartPole-v1", 4), plan)
    np.testing.assert_allclose(returns, np.full((2, 4), 1.75))
    long = true_returns(loaded, (0, 1), Trial("CartPole-v1", 4), Plan(discount=1.0))
    assert long.min() > 5
    random = true_returns(policies(logs, "ppo", epsilon=1.0), (0, 1), Trial("CartPole-v1", 40), Plan(discount=1.0))
    assert random.mean() == pytest.approx(22.0, abs=5.0)
    found = evaluate_policies([logs / "ppo"], str(logs / "random"), PLAN, trial=Trial("CartPole-v1", 4))
    assert found.policies[0].truth is not None
    assert found.policies[0].truth.value == pytest.approx((1 - 0.99**10) / 0.01, abs=1.5)
    assert found.agreement is None or math.isfinite(found.agreement.regret[0])


def test_what_cannot_be_valued_is_refused(logs: Path) -> None:
    random, pendulum = str(logs / "random"), str(logs / "pendulum")
    with pytest.raises(RequestError, match="no policy is named"):
        evaluate_policies([], random, PLAN)
    with pytest.raises(RequestError, match="no column 'behavior'"):
        evaluate_policies([], random, PLAN, column="behavior")
    with pytest.raises(SpaceMismatchError, match="the log"):
        evaluate_policies([logs / "ppo"], pendulum, PLAN)
    with pytest.raises(SpaceMismatchError, match="have no density"):
        evaluate_policies([logs / "bc"], pendulum, PLAN, Acting(stochastic=True))
    with pytest.raises(SpaceMismatchError, match="only discrete actions are mixed"):
        evaluate_policies([logs / "bc"], pendulum, PLAN, Acting(epsilon=0.1))
    with pytest.raises(RequestError, match="only runs can be tried out"):
        evaluate_policies([], random, PLAN, column="behavior_log_prob", trial=Trial("CartPole-v1"))


def test_the_behaviors_own_column_is_worth_its_own_return(logs: Path) -> None:
    found = evaluate_policies([], str(logs / "random"), PLAN, column="behavior_log_prob")
    (policy,) = found.policies
    assert policy.estimates[0].value == pytest.approx(found.behavior.value)
    assert policy.estimates[0].effective_sample_size == pytest.approx(found.episodes)


def test_smoothing_gives_a_density(logs: Path) -> None:
    behavior = BehaviorConfig(folds=2, hidden=(8,), steps=100, check_every=50)
    plan = dataclasses.replace(PLAN, estimators=["wis", "fqe"], may_estimate_behavior=True, behavior=behavior)
    found = evaluate_policies([logs / "bc"], str(logs / "pendulum"), plan, Acting(kernel_bandwidth=0.5))
    for policy in found.policies:
        assert policy.smoothing_bias is not None
        assert policy.estimates[0].effective_sample_size is not None


def test_the_horizon_is_the_environment_s_time_limit_and_told(logs: Path) -> None:
    store = open_dataset(str(logs / "random"))
    plan, notes = with_time_limit(Plan(), store, None)
    assert plan.horizon == 500
    assert "The horizon is the time limit of CartPole-v1, 500 steps" in notes[0]
    tried = Trial("MountainCar-v0", 2)
    assert with_time_limit(Plan(), store, tried)[0].horizon == 200
    assert with_time_limit(Plan(), store, dataclasses.replace(tried, max_episode_steps=50))[0].horizon == 50
    found = evaluate_policies([logs / "ppo"], str(logs / "random"), dataclasses.replace(PLAN, horizon=None))
    assert found.horizon == 500
    assert found.notes[0] == notes[0]


def test_a_horizon_that_is_given_stays_and_the_truth_s_end_is_told(logs: Path) -> None:
    store, tried = open_dataset(str(logs / "random")), Trial("CartPole-v1", 2)
    assert with_time_limit(Plan(horizon=10), store, tried) == (Plan(horizon=10), [])
    plan, notes = with_time_limit(Plan(horizon=600), store, tried)
    assert plan.horizon == 600
    assert "The truth is of the 500 steps" in notes[0]


def test_estimators_of_all_that_follows_get_no_horizon(logs: Path) -> None:
    store = open_dataset(str(logs / "random"))
    everything = Plan(estimators=["lstd", "fqe"])
    assert with_time_limit(everything, store, None) == (everything, [])
    plan, notes = with_time_limit(everything, store, Trial("CartPole-v1", 2))
    assert plan.horizon is None
    assert "lstd value all that follows" in notes[0]


def test_a_dataset_s_environment_is_looked_up_and_never_imported(logs: Path) -> None:
    store = open_dataset(str(logs / "random"))
    foreign = dataclasses.replace(store.metadata, environment="antigravity:Env-v0")
    for known in (foreign, dataclasses.replace(foreign, environment=None)):
        unknown = SimpleNamespace(metadata=known, num_steps=9, num_episodes=1)
        assert with_time_limit(Plan(), unknown, None) == (Plan(), [])  # type: ignore[arg-type]
    assert "antigravity" not in sys.modules
