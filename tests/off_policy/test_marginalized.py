"""Values and weights that are solved for, beside exact ones."""

from __future__ import annotations

from typing import get_args

import gymnasium as gym
import numpy as np
import pytest

from offrl.errors import RequestError
from offrl.off_policy.choices import Choices
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.intervals import student_t
from offrl.off_policy.marginalized import Method, marginalized
from offrl.off_policy.target_policies import TablePolicy
from offrl.types import Spec
from tests.off_policy.tabular import BEHAVIOR, TARGET, TabularMDP

METHODS: tuple[Method, ...] = get_args(Method)
MDP = TabularMDP.random(seed=1, limit=8)
TRUTH = float(MDP.start @ MDP.values(TARGET, 0.9)[1])


@pytest.mark.parametrize("name", METHODS)
def test_of_a_table_it_is_the_value_in_the_mdp_of_the_frequencies(name: Method) -> None:
    logged = MDP.log(BEHAVIOR, 60)
    found = marginalized(logged.towards(TablePolicy(TARGET).choices(logged, draws=1, seed=0), discount=0.9), name)
    state, action = np.asarray(logged.observation), logged.action
    transition, reward, count = np.zeros((4, 2, 4)), np.zeros((4, 2)), np.zeros((4, 2))
    for step, row in enumerate(logged.row):
        count[state[row], action[step]] += 1
        reward[state[row], action[step]] += logged.reward[step]
        transition[state[row], action[step], state[row + 1]] += logged.continues[step]
    reward, transition = reward / count, transition / count[..., None]
    start = np.bincount(state[logged.first_row], minlength=4) / 60
    model = TabularMDP(transition, reward, np.zeros((4, 2)), start, 8)
    assert found.value == pytest.approx(float(start @ model.values(TARGET, 0.9)[1]), rel=1e-6)
    assert found.contributions.mean() == pytest.approx(found.value)
    assert (found.weights * logged.reward).mean() == pytest.approx(found.value, rel=1e-6)
    assert found.balanced


def test_intervals_hold_the_exact_value() -> None:
    """Truncated episodes are bootstrapped from, so the value is that of all that would have followed."""
    held, errors = dict.fromkeys(METHODS, 0), []
    for repetition in range(80):
        logged = MDP.log(BEHAVIOR, 60, seed=repetition)
        valued = logged.towards(TablePolicy(TARGET).choices(logged, draws=1, seed=0), discount=0.9)
        for name in METHODS:
            found = marginalized(valued, name)
            low, high = student_t(found.contributions, 0.95)
            held[name] += low <= TRUTH <= high
        errors.append(found.value - TRUTH)
    assert all(71 <= count <= 80 for count in held.values()), held
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(80)


@pytest.mark.parametrize("name", METHODS)
def test_continuous_states_and_actions(name: Method) -> None:
    """s' = a, r = s + a², and the policy always goes to s / 2: quadratic values hold them exactly."""
    generator = np.random.default_rng(0)
    episodes, length = 200, 10
    state = generator.uniform(-1, 1, (episodes, length + 1, 1))
    action = state[:, 1:].copy()
    log = EpisodeLog(
        (state[:, :-1] + action**2).ravel(),
        None,
        None,
        np.arange(episodes + 1) * length,
        np.zeros(episodes, bool),
        np.ones(episodes, bool),
        0.8,
        spaces=Spec(gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-1, 1, (1,))),
        observations=state.reshape(-1, 1).astype(np.float32),
        taken=action.reshape(-1, 1).astype(np.float32),
        choices=Choices(actions=(state.reshape(1, -1, 1) / 2).astype(np.float32)),
    )
    found = marginalized(log, name)
    start = state[:, 0, 0]
    exact = start / (1 - 0.8 / 2) + start**2 / 4 / (1 - 0.8 / 4)
    tolerance = 0.05 if name == "dice" else 1e-3
    assert found.value == pytest.approx(exact.mean(), abs=tolerance)
    assert found.balanced


def test_what_the_log_cannot_tell_is_not_balanced() -> None:
    """The policy takes the one action that the log hasn't."""
    logged = MDP.log(np.array([[1.0, 0.0]] * 4), 50)
    choices = TablePolicy(np.array([[0.0, 1.0]] * 4)).choices(logged, draws=1, seed=0)
    assert not marginalized(logged.towards(choices, discount=0.9), "mwl").balanced


def test_a_horizon_is_refused() -> None:
    logged = MDP.log(BEHAVIOR, 5)
    with pytest.raises(RequestError, match="don't depend on time"):
        marginalized(logged.towards(TablePolicy(TARGET).choices(logged, draws=1, seed=0), horizon=3), "dice")
