"""Gymnasium's tables, by what their environments do."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offrl.errors import RequestError
from offrl.mdp import evaluate_policy, grid_of, mdp_of, optimal_policy
from tests.envs.grids import GRID


@pytest.mark.parametrize(
    ("name", "states", "actions", "horizon", "shape"),
    [
        ("FrozenLake-v1", 16, 4, 100, (4, 4)),
        ("CliffWalking-v1", 48, 4, None, (4, 12)),
        ("Taxi-v4", 500, 6, 200, None),
        (GRID, 20, 4, 40, (4, 5)),
    ],
)
def test_tables_are_what_their_environments_do(
    name: str, states: int, actions: int, horizon: int | None, shape: tuple[int, int] | None
) -> None:
    environment = gym.make(name)
    mdp = mdp_of(environment)
    assert (mdp.states, mdp.actions, mdp.horizon) == (states, actions, horizon)
    assert mdp.reward is not None
    known = {
        (int(o) // actions, int(o) % actions, int(t), float(r), bool(e))
        for o, t, r, e in zip(mdp.origin, mdp.target, mdp.reward, mdp.ends, strict=True)
    }
    rng = np.random.default_rng(0)
    for seed in range(3):
        state, _ = environment.reset(seed=seed)
        assert mdp.initial[int(state)] > 0
        for _ in range(60):
            action = int(rng.integers(actions))
            following, reward, terminated, truncated, _ = environment.step(action)
            assert (int(state), action, int(following), float(reward), terminated) in known
            state = following
            if terminated or truncated:
                break
    grid = grid_of(environment)
    assert (grid and grid[:2]) == shape
    assert grid is None or grid.letters == (["SFFF", "FHFH", "FFFH", "HFFG"] if name == "FrozenLake-v1" else [])


def test_the_best_way_along_the_cliff_takes_thirteen_steps() -> None:
    mdp = mdp_of(gym.make("CliffWalking-v1"), discount=0.9)
    assert mdp.reward is not None
    reward = mdp.expected_reward(mdp.reward)
    value = float(evaluate_policy(mdp, optimal_policy(mdp, reward), reward))
    assert value == pytest.approx(-sum(0.9**t for t in range(13)), abs=1e-9)


def test_a_horizon_takes_the_place_of_the_time_limit() -> None:
    assert mdp_of(gym.make("FrozenLake-v1"), horizon=7).horizon == 7


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Blackjack-v1"])
def test_what_is_no_table_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} isn't a table") as caught:
        mdp_of(gym.make(name))
    assert "FrozenLake-v1" in str(caught.value)


def test_probabilities_of_zero_are_left_out() -> None:
    class Sure(gym.Env[Any, Any]):
        observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(1)
        P = {s: {0: [(1.0, 1, 0.0, True), (0.0, 0, 5.0, False)]} for s in range(2)}  # noqa: RUF012

    mdp = mdp_of(Sure())
    assert mdp.target.tolist() == [1, 1]
    assert mdp.initial.tolist() == [0.5, 0.5]
    assert mdp.horizon is None
