"""An environment that hands over something else than its spaces promise, or never answers."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

FAULTY, UNSAFE, LATE, STUCK, HANGING, ENDLESS, LIMITED = (
    f"offrl-test/{name}-v0" for name in ("Faulty", "Unsafe", "Late", "Stuck", "Hanging", "Endless", "Limited")
)
FAULT_STEP = 3
"""The step of each episode that goes wrong."""

BOX = gym.spaces.Box(-1, 1, (3,), np.float32)
SPACES: dict[str, gym.Space[Any]] = {
    "box": BOX,
    "wide": gym.spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "image": gym.spaces.Box(0, 255, (2, 2), np.uint8),
    "number": gym.spaces.Discrete(4, start=1),
    "numbers": gym.spaces.MultiDiscrete([2, 3]),
    "bits": gym.spaces.MultiBinary(2),
    "parts": gym.spaces.Dict(camera=BOX, mode=gym.spaces.Tuple([gym.spaces.Discrete(2), BOX])),
}
RIGHT: dict[str, Any] = {
    "box": np.zeros(3, np.float32),
    "wide": np.zeros(3),
    "image": np.zeros((2, 2), np.uint8),
    "number": 1,
    "numbers": np.zeros(2, np.int64),
    "bits": np.zeros(2, np.int8),
    "parts": {"camera": np.zeros(3, np.float32), "mode": (0, np.zeros(3, np.float32))},
}


def step_with(**changes: Any) -> Callable[[Any], Any]:
    """A step with some parts changed: `shown`, `reward`, `terminated`, `truncated`, `info`."""

    def made(right: Any) -> Any:
        parts = {"shown": right, "reward": 1.0, "terminated": False, "truncated": False, "info": {}} | changes
        return tuple(parts.values())

    return made


class Faulty(gym.Env[Any, Any]):
    """Its third step, or its reset, gives something else; `Faulty.gives` is set by tests."""

    gives: Callable[[Any], Any] = step_with()
    begins: Callable[[Any], Any] = staticmethod(lambda shown: (shown, {}))

    def __init__(self, space: str = "box") -> None:
        self.observation_space, self.right = SPACES[space], RIGHT[space]
        self.action_space = gym.spaces.Discrete(2)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return Faulty.begins(self.right)

    def step(self, action: Any) -> Any:
        self.steps += 1
        return Faulty.gives(self.right) if self.steps == FAULT_STEP else step_with()(self.right)


class Unsafe(gym.Env[Any, Any]):
    """Every episode's third step shows NaN, in whichever process.

    Args:
        after: steps of all episodes together that it goes well for.
    """

    observation_space, action_space = BOX, gym.spaces.Discrete(2)

    def __init__(self, after: int = 0) -> None:
        self.steps, self.left = 0, after

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps, self.left = self.steps + 1, self.left - 1
        wrong = self.steps == FAULT_STEP and self.left < 0
        return np.full(3, np.nan if wrong else 0.0, np.float32), 0.0, False, False, {}


class Endless(gym.Env[Any, Any]):
    """Goes on for ever.

    Args:
        hangs: whether its third step never ends: "everywhere", or in "others" than the main process.
    """

    observation_space, action_space = BOX, gym.spaces.Discrete(2)

    def __init__(self, hangs: str = "") -> None:
        self.hangs, self.steps = hangs, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        here = self.hangs == "everywhere" or (self.hangs and multiprocessing.parent_process() is not None)
        if here and self.steps == FAULT_STEP:
            time.sleep(3_600)
        return np.zeros(3, np.float32), 1.0, False, False, {}


def ends(process: int, seconds: float) -> bool:
    """Whether a process ends in time; one that only waits to be asked how it ended has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ") Z" in Path(f"/proc/{process}/stat").read_text():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


gym.register(FAULTY, entry_point=Faulty, disable_env_checker=True)
gym.register(UNSAFE, entry_point=Unsafe, disable_env_checker=True)
gym.register(LATE, entry_point=Unsafe, disable_env_checker=True, kwargs={"after": 20})
gym.register(ENDLESS, entry_point=Endless, disable_env_checker=True)
gym.register(LIMITED, entry_point=Endless, disable_env_checker=True, max_episode_steps=6)
gym.register(HANGING, entry_point=Endless, disable_env_checker=True, kwargs={"hangs": "others"})
gym.register(STUCK, entry_point=Endless, disable_env_checker=True, kwargs={"hangs": "everywhere"})
