"""A game to be played from its pixels: catch what falls."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

CATCH, NESTED_CATCH = "offrl-test/Catch-v0", "offrl-test/CatchNested-v0"

SIDE = 10
IMAGE = gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
NESTED = gym.spaces.Dict({"image": IMAGE, "paddle": gym.spaces.Box(-1.0, 1.0, (1,), np.float32)})


class Catch(gym.Env[Any, Any]):
    """A red ball falls by a pixel a step from the top row; a green paddle in the bottom row moves left, not, or right.

    The episode ends when the ball arrives: the reward is 1 if the paddle is there, else −1. Ball and paddle start in
    random columns that leave the paddle enough time.

    Args:
        nested: leave the paddle out of the image, and tell its place, from -1 to 1, beside it.
    """

    def __init__(self, nested: bool = False) -> None:
        self.observation_space: gym.Space[Any] = NESTED if nested else IMAGE
        self.action_space = gym.spaces.Discrete(3)
        self.nested = nested
        self.row = self.ball = self.paddle = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, (self.ball, self.paddle) = 0, self.np_random.integers(0, SIDE, 2)
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 0, SIDE - 1))
        self.row += 1
        landed = self.row == SIDE - 1
        reward = (1.0 if self.ball == self.paddle else -1.0) if landed else 0.0
        return self._observation(), reward, landed, False, {}

    def _observation(self) -> Any:
        image: NDArray[np.uint8] = np.zeros(IMAGE.shape, np.uint8)
        image[self.row, self.ball, 0] = 255
        if self.nested:
            place = 2.0 * self.paddle / (SIDE - 1) - 1.0
            return {"image": image, "paddle": np.array([place], np.float32)}
        image[SIDE - 1, self.paddle, 1] = 255
        return image


gym.register(CATCH, entry_point=Catch, disable_env_checker=True)
gym.register(NESTED_CATCH, entry_point=Catch, disable_env_checker=True, kwargs={"nested": True})
