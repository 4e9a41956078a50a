"""An environment for every kind of space that Gymnasium has, as observation and as action."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

LENGTH = 4
"""Steps of an episode."""

KINDS: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "box-float64": spaces.Box(-2.0, 3.0, (2,), np.float64),
    "box-scalar": spaces.Box(-1, 1, (), np.float32),
    "box-matrix": spaces.Box(-1, 1, (2, 2), np.float32),
    "box-below": spaces.Box(1, np.inf, (2,), np.float32),
    "box-above": spaces.Box(-np.inf, 1, (2,), np.float32),
    "box-unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "box-mixed": spaces.Box(np.float32([-1, 0, -np.inf]), np.float32([1, np.inf, np.inf])),
    "box-uint8": spaces.Box(0, 255, (3,), np.uint8),
    "image": spaces.Box(0, 255, (6, 7, 3), np.uint8),
    "image-beside": spaces.Dict(eye=spaces.Box(0, 255, (5, 6), np.uint8), joint=spaces.Box(-1, 1, (2,), np.float32)),
    "box-int64": spaces.Box(-5, 5, (2,), np.int64),
    "discrete": spaces.Discrete(3),
    "discrete-start": spaces.Discrete(3, start=-1),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-discrete-start": spaces.MultiDiscrete([2, 3], start=[5, -1]),
    "multi-discrete-matrix": spaces.MultiDiscrete([[2, 3], [3, 2]]),
    "multi-binary": spaces.MultiBinary(3),
    "multi-binary-matrix": spaces.MultiBinary([2, 2]),
    "tuple": spaces.Tuple([spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)]),
    "dict": spaces.Dict(
        arm=spaces.Dict(joint=spaces.Box(-1, 1, (2,), np.float64), grip=spaces.MultiBinary(2)), mode=spaces.Discrete(3)
    ),
    "text": spaces.Text(4),
    "graph": spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)),
    "sequence": spaces.Sequence(spaces.Box(-1, 1, (2,))),
    "one-of": spaces.OneOf([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]),
}


class AnySpace(gym.Env[Any, Any]):
    """Shows samples of its observation space, and takes nothing but actions of its action space."""

    def __init__(self, observation: str = "box", action: str = "discrete") -> None:
        self.observation_space, self.action_space = KINDS[observation], KINDS[action]
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        given = np.asarray(action) if isinstance(self.action_space, spaces.Box) else action
        if isinstance(self.action_space, spaces.Box):
            given = given.astype(self.action_space.dtype)
        if not self.action_space.contains(given):
            raise ValueError(f"{action!r} is no action of {self.action_space}")
        self.steps += 1
        return self.observation_space.sample(), 1.0, False, self.steps == LENGTH, {}


def environment_of(observation: str = "box", action: str = "discrete") -> str:
    """The id of the environment that has these."""
    return f"offrl-test/Shows-{observation}-takes-{action}-v0"


for _observation in KINDS:
    for _action in KINDS:
        gym.register(
            environment_of(_observation, _action),
            entry_point=AnySpace,
            disable_env_checker=True,
            kwargs={"observation": _observation, "action": _action},
        )
