"""An environment that allows only some of its actions in each step, and shows which."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

MENU, SHUT, ODD = "offrl-test/Menu-v0", "offrl-test/ShutMenu-v0", "offrl-test/OddMenu-v0"
DISHES = 4
VALUES = np.array([0.1, 0.2, 0.4, 0.8])
"""Rewards of the dishes, whatever the step."""
STEPS = 6


class Menu(gym.Env[Any, int]):
    """Every step offers some dishes, in a mask that the observation has too; to choose another one is an error.

    The observation is [mask, steps taken, whether the episode will terminate]. Some episodes are truncated after six
    steps; others terminate there, and then nothing is offered any more.

    Args:
        shut: whether nothing is offered in the second step of an episode that goes on.
        odd: whether the mask has an entry too many.
    """

    def __init__(self, shut: bool = False, odd: bool = False) -> None:
        self.observation_space = gym.spaces.Box(0.0, STEPS, (DISHES + 2,), np.float32)
        self.action_space: gym.spaces.Discrete = gym.spaces.Discrete(DISHES, start=2)
        self.shut, self.odd = shut, odd
        self.terminates, self.steps = False, 0
        self.mask = np.ones(DISHES, np.bool_)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.terminates, self.steps = bool(self.np_random.integers(2)), 0
        return self._show()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        dish = int(action) - 2
        assert self.mask[dish], "a dish that isn't offered was chosen"
        self.steps += 1
        ended = self.steps == STEPS
        terminated = ended and self.terminates
        shown, info = self._show(closed=terminated)
        return shown, float(VALUES[dish]), terminated, ended and not terminated, info

    def _show(self, closed: bool = False) -> tuple[Any, dict[str, Any]]:
        self.mask = self.np_random.random(DISHES) < 0.5
        self.mask[self.np_random.integers(DISHES)] = True
        if closed or (self.shut and self.steps == 1):
            self.mask[:] = False
        told = self.mask.astype(np.int8)
        shown = np.array([*told, self.steps, self.terminates], np.float32)
        return shown, {"action_mask": np.append(told, 1) if self.odd else told}


gym.register(MENU, entry_point=Menu, disable_env_checker=True)
gym.register(SHUT, entry_point=Menu, disable_env_checker=True, kwargs={"shut": True})
gym.register(ODD, entry_point=Menu, disable_env_checker=True, kwargs={"odd": True})
