"""The game of pixels is won by whoever can see, and by nobody else."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.envs.pixels import CATCH, NESTED_CATCH, SIDE


def places(observation: Any) -> tuple[int, int]:
    """The columns of ball and paddle, as they are shown."""
    if isinstance(observation, dict):
        (ball,) = np.nonzero(observation["image"][..., 0])[1]
        return int(ball), round((float(observation["paddle"][0]) + 1.0) / 2.0 * (SIDE - 1))
    (ball,), (paddle,) = (np.nonzero(observation[..., channel])[1] for channel in (0, 1))
    return int(ball), int(paddle)


@pytest.mark.parametrize("name", [CATCH, NESTED_CATCH])
def test_following_the_ball_catches_it_and_standing_still_seldom_does(name: str) -> None:
    env = gym.make(name)
    returns: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(100):
        for follows in (True, False):
            observation, _ = env.reset(seed=seed)
            assert env.observation_space.contains(observation)
            for step in range(1, SIDE):
                ball, paddle = places(observation)
                action = 1 + int(np.sign(ball - paddle)) if follows else 1
                observation, reward, terminated, truncated, _ = env.step(action)
                assert env.observation_space.contains(observation)
                assert (terminated, truncated) == (step == SIDE - 1, False)
            returns[follows].append(float(reward))
    assert min(returns[True]) == 1.0
    assert -1.0 < np.mean(returns[False]) < -0.5
