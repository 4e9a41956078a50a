"""Whole episodes from vector environments, step by step."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from offrl.envs.episodes import rollouts, share_evenly, single_episode
from offrl.envs.evaluator import Greedy
from offrl.envs.make import make_environments
from offrl.envs.vector import stack
from tests.envs.counting import COUNTING, NESTED, PARTS, PLACES, Counting, constant_policy


def test_each_copy_is_followed_through_its_share_of_whole_episodes() -> None:
    quota, seeds = 3, [4, 5, 6]
    environments = make_environments(COUNTING, len(seeds))
    policy = constant_policy([[0.0, 0.0]])
    steps = list(rollouts(Greedy(policy, len(seeds)), environments, quota, seeds))
    environments.close()
    for copy, seed in enumerate(seeds):
        followed = [step for step in steps if step.running[copy]]
        # One environment by hand.
        single = Counting()
        observation, _ = single.reset(seed=seed)
        ends = 0
        for step in followed:
            np.testing.assert_array_equal(step.observation[copy], observation)
            observation, reward, terminated, truncated, _ = single.step(step.action[copy])
            assert (step.reward[copy], step.terminated[copy], step.truncated[copy]) == (reward, terminated, truncated)
            np.testing.assert_array_equal(step.next_observation[copy], observation)
            if terminated or truncated:
                ends += 1
                observation, _ = single.reset()
        assert ends == quota
    assert steps[-1].running.any()


@pytest.mark.parametrize(
    ("episodes", "limit", "expected"),
    [(1, 10, (1, 1)), (10, 10, (10, 1)), (20, 10, (10, 2)), (11, 10, (1, 11)), (12, 5, (4, 3)), (100, 64, (50, 2))],
)
def test_shares_are_whole(episodes: int, limit: int, expected: tuple[int, int]) -> None:
    assert share_evenly(episodes, limit) == expected


@pytest.mark.parametrize("name", [COUNTING, NESTED])
def test_one_episode_of_one_seed(name: str) -> None:
    environment = gym.make(name)
    policy = constant_policy([[0.0, -1.0], [0.0, 1.0]], space=PARTS if name == NESTED else PLACES)
    rewards = list(single_episode(policy, 1, environment, reset_seed=2))
    # Identity 2, episode 0: 1 + 6 % 7 steps; the second seed's action adds 10.
    assert rewards == [10.0 + step for step in range(7)]
    environment.close()


def test_single_observations_are_stacked_as_vector_environments_stack_them() -> None:
    single = Counting(nested=True)
    observation, _ = single.reset(seed=7)
    stacked = stack(PARTS, [observation] * 3)
    assert stacked["observation"].shape == (3, 2)
    assert stacked["pixels"].dtype == np.uint8
    assert stacked["step"].tolist() == [0, 0, 0]
