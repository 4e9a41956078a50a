"""Whole episodes from vector environments, step by step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offrl.envs.episodes import rollouts, share_evenly, single_episode
from offrl.envs.evaluator import Greedy
from offrl.envs.make import make_environments
from offrl.errors import RequestError
from tests.envs.counting import COUNTING, NESTED, PARTS, PLACES, Counting, constant_policy
from tests.envs.faulty import BOX, ENDLESS, LIMITED


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


def steps_of(environment: str, **options: Any) -> int:
    """How many steps an episode of two copies takes."""
    environments = make_environments(environment, 2, **options)
    policy = constant_policy([[0.0, 0.0]], space=BOX)
    acts = Greedy(policy, 2)
    acts.act = lambda observation, mask: np.zeros(2, np.int64)  # type: ignore[method-assign]
    steps = list(rollouts(acts, environments, 1, [0, 1]))
    environments.close()
    assert steps[-1].truncated.all()
    return len(steps)


def test_an_episode_without_an_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offrl.envs.episodes.LONGEST", 20)
    with pytest.raises(RequestError, match="hasn't ended after 20 steps") as caught:
        steps_of(ENDLESS)
    assert ENDLESS in str(caught.value)
    assert "--max-episode-steps" in str(caught.value)
    policy = constant_policy([[0.0, 0.0]], space=BOX)
    with pytest.raises(RequestError, match="hasn't ended after 20 steps"):
        list(single_episode(policy, 0, gym.make(ENDLESS), 0))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_limit_ends_episodes(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's own, or another one in its place, be it longer than what counts as endless."""
    monkeypatch.setattr("offrl.envs.episodes.LONGEST", 20)
    assert steps_of(LIMITED, processes=processes) == 6
    assert steps_of(LIMITED, processes=processes, max_episode_steps=4) == 4
    assert steps_of(ENDLESS, processes=processes, max_episode_steps=30) == 30
