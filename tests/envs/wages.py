"""A task whose every return can be earned: who asks for one tells policies that go by it from those that don't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from offrl.collection.record import RecordedEnvironment

WAGES = "offrl-test/Wages-v0"
STEPS, MOST = 8, 16
"""Of an episode: its steps, and what the best one earns."""
OFFERS = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
"""What each of the three actions earns, for each of the offers that may be shown."""


class Wages(gym.Env[Any, int]):
    """Shows which of three offers holds, one-hot; each step's action earns 0, 1 or 2 by it."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
        self.action_space: gym.spaces.Discrete = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(OFFERS[self.offer, action])
        self.steps += 1
        return self._show(), reward, False, self.steps == STEPS, {}

    def _show(self) -> Any:
        self.offer = int(self.np_random.integers(3))
        return np.eye(3, dtype=np.float32)[self.offer]


gym.register(WAGES, entry_point=Wages, disable_env_checker=True)


def wages(path: Path, episodes: int = 400) -> str:
    """A dataset of workers of whom each takes the best offer with a chance of its own, else the worst."""
    rng = np.random.default_rng(0)
    with RecordedEnvironment(gym.make(WAGES), path, environment=WAGES) as environment:
        for episode in range(episodes):
            (observation, _), eagerness, ended = environment.reset(seed=episode), rng.random(), False
            while not ended:
                earned = 2 if rng.random() < eagerness else 0
                action = int(np.flatnonzero(OFFERS[int(observation.argmax())] == earned)[0])
                observation, _, _, ended, _ = environment.step(np.int64(action))
    return str(path)
