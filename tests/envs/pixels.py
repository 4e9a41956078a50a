"""A game to be played from its pixels: catch what falls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl.data.block import EpisodeBlock
from offrl.data.store import StoreWriter
from offrl.types import Spec

CATCH, NESTED_CATCH, SMOOTH_CATCH = "offrl-test/Catch-v0", "offrl-test/CatchNested-v0", "offrl-test/CatchSmooth-v0"

SIDE = 10
IMAGE = gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
NESTED = gym.spaces.Dict({"image": IMAGE, "paddle": gym.spaces.Box(-1.0, 1.0, (1,), np.float32)})


class Catch(gym.Env[Any, Any]):
    """A red ball falls by a pixel a step from the top row; a green paddle in the bottom row moves left, not, or right.

    The episode ends when the ball arrives: the reward is 1 if the paddle is there, else −1. Ball and paddle start in
    random columns that leave the paddle enough time.

    Args:
        nested: leave the paddle out of the image, and tell its place, from -1 to 1, beside it.
        smooth: actions are numbers from -1 to 1, the nearest of which to −2/3, 0 and 2/3 counts.
    """

    def __init__(self, nested: bool = False, smooth: bool = False) -> None:
        self.observation_space: gym.Space[Any] = NESTED if nested else IMAGE
        self.action_space: gym.Space[Any] = (
            gym.spaces.Box(-1.0, 1.0, (1,), np.float32) if smooth else gym.spaces.Discrete(3)
        )
        self.nested, self.smooth = nested, smooth
        self.row = self.ball = self.paddle = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, (self.ball, self.paddle) = 0, self.np_random.integers(0, SIDE, 2)
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        move = round(1.4 * float(action[0])) if self.smooth else int(action) - 1
        self.paddle = int(np.clip(self.paddle + move, 0, SIDE - 1))
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


def logged(path: Path, episodes: int, follows: float, env: str = CATCH) -> Path:
    """A dataset of the game, as it is or smooth, by a player who follows the ball in this share of the episodes.

    In the others the player flees from it.
    """
    game, rng = Catch(smooth=env == SMOOTH_CATCH), np.random.default_rng(0)
    rows: dict[str, list[Any]] = {name: [] for name in ("observation", "action", "reward", "terminated", "truncated")}
    still = np.zeros(1, np.float32) if game.smooth else 0
    for episode in range(episodes):
        observation, _ = game.reset(seed=episode)
        sense = 1 if rng.random() < follows else -1
        ended = False
        while not ended:
            move = sense * int(np.sign(game.ball - game.paddle))
            action = np.array([2 / 3 * move], np.float32) if game.smooth else 1 + move
            following, reward, ended, _, _ = game.step(action)
            for name, value in zip(rows, (observation, action, reward, ended, False), strict=True):
                rows[name].append(value)
            observation = following
        for name, value in zip(rows, (observation, still, 0.0, False, False), strict=True):
            rows[name].append(value)
    columns = {name: np.array(values) for name, values in rows.items()}
    columns["reward"] = columns["reward"].astype(np.float32)
    spec = Spec(game.observation_space, game.action_space)
    with StoreWriter(path, spec, environment=env) as writer:
        writer.append(EpisodeBlock(columns, np.full(episodes, SIDE - 1)))
    return path


gym.register(CATCH, entry_point=Catch, disable_env_checker=True)
gym.register(SMOOTH_CATCH, entry_point=Catch, disable_env_checker=True, kwargs={"smooth": True})
gym.register(NESTED_CATCH, entry_point=Catch, disable_env_checker=True, kwargs={"nested": True})
