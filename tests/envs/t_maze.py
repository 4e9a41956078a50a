"""A T-maze (Bakker, 2001): where to turn at the end of a corridor is shown at its beginning, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from offrl.collection.record import RecordedEnvironment

T_MAZE = "offrl-test/TMaze-v0"
AHEAD, LEFT, RIGHT = 0, 1, 2
SHORTEST, LONGEST = 4, 8
"""Steps from the beginning of the corridor to its end."""


class TMaze(gym.Env[Any, int]):
    """The observation is [sign, junction]: a sign of ±1 at the beginning, 0 behind it, and 1 where the corridor ends.

    Going ahead leads through the corridor, whose length differs from episode to episode. At its end, turning left
    earns 1 where the sign was −1, turning right where it was 1; the other turn earns 0. Other actions change nothing.
    """

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space: gym.spaces.Discrete = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.sign = 2 * int(self.np_random.integers(2)) - 1
        self.length, self.place = int(self.np_random.integers(SHORTEST, LONGEST + 1)), 0
        return self._show(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        turned = self.place == self.length and action != AHEAD
        reward = float(turned and action == (RIGHT if self.sign > 0 else LEFT))
        self.place += int(action == AHEAD and self.place < self.length)
        return self._show(), reward, turned, False, {}

    def _show(self) -> Any:
        return np.array([self.sign * (self.place == 0), self.place == self.length], np.float32)


gym.register(T_MAZE, entry_point=TMaze, max_episode_steps=4 * LONGEST, disable_env_checker=True)


def demonstrations(path: Path, episodes: int = 200) -> str:
    """A dataset of episodes that turn where the sign says."""
    with RecordedEnvironment(gym.make(T_MAZE), path, environment=T_MAZE) as environment:
        for episode in range(episodes):
            observation, _ = environment.reset(seed=episode)
            sign, ended = observation[0], False
            while not ended:
                action = AHEAD if not observation[1] else RIGHT if sign > 0 else LEFT
                observation, _, ended, _, _ = environment.step(np.int64(action))
    return str(path)
