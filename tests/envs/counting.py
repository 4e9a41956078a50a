"""An environment whose every step says where it is: which reset seed, which episode, which step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from offrl.envs.policy import Policy
from offrl.replay.normalization import ActionMap, ObservationNormalizer
from offrl.types import Observation, Spec

COUNTING, NESTED = "offrl-test/Counting-v0", "offrl-test/CountingNested-v0"
SEEDED = "offrl-test/CountingSeeded-v0"

ACTIONS = gym.spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, 10.0]))
PLACES = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
PARTS = gym.spaces.Dict(
    {
        "observation": gym.spaces.Box(-np.inf, np.inf, (2,), np.float64),
        "pixels": gym.spaces.Box(0, 255, (1, 2), np.uint8),
        "step": gym.spaces.Discrete(20),
    }
)


class Counting(gym.Env[Any, Any]):
    """Shows [identity, episode, step]; even episodes terminate, odd ones are truncated.

    The identity is the last reset seed modulo 1000; episodes are counted over all resets. A reward is
    100 · episode + step + the action's second component.

    Args:
        nested: whether the observation has parts.
        seeded: whether a reset seed starts the count of episodes anew, so that all that follows depends on it alone.
    """

    def __init__(self, nested: bool = False, seeded: bool = False) -> None:
        self.observation_space: gym.Space[Any] = PARTS if nested else PLACES
        self.action_space = ACTIONS
        self.nested, self.seeded = nested, seeded
        self.identity, self.episode, self.steps = 0, -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.identity = self.identity if seed is None else seed % 1000
        self.episode, self.steps = 0 if self.seeded and seed is not None else self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = 100.0 * self.episode + self.steps + float(action[1])
        self.steps += 1
        ended = self.steps == self.length
        even = self.episode % 2 == 0
        return self._observation(), reward, ended and even, ended and not even, {}

    @property
    def length(self) -> int:
        """Steps of the current episode, 1 to 7."""
        return 1 + (3 * self.identity + 5 * self.episode) % 7

    def _observation(self) -> Any:
        if not self.nested:
            return np.array([self.identity, self.episode, self.steps], np.float32)
        return {
            "observation": np.array([self.identity, self.episode], np.float64),
            "pixels": np.full((1, 2), self.steps, np.uint8),
            "step": self.steps,
        }


gym.register(COUNTING, entry_point=Counting, disable_env_checker=True)
gym.register(NESTED, entry_point=Counting, disable_env_checker=True, kwargs={"nested": True})
gym.register(SEEDED, entry_point=Counting, disable_env_checker=True, kwargs={"seeded": True})


@dataclass
class Constant:
    """An agent that knows one action for each seed: its state, [S, A] in [-1, 1]."""

    spec: Spec
    batches_per_update: int = 1

    def initial_carry(self, state: Tensor, count: int) -> tuple[()]:
        return ()

    def act(
        self,
        state: Tensor,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        part = observation if isinstance(observation, Tensor) else next(iter(observation.values()))
        action = state.unsqueeze(1).expand(-1, part.shape[1], *state.shape[1:])
        return action if noise is None else action + noise, carry


def constant_policy(
    actions: Any, *, space: gym.Space[Any] = PLACES, action_space: gym.Space[Any] = ACTIONS, **options: Any
) -> Policy:
    """A policy of one constant action per seed, given in the agent's units."""
    state = torch.as_tensor(actions)
    action_map = ActionMap.from_space(action_space) if isinstance(action_space, gym.spaces.Box) else None
    normalizer: ObservationNormalizer | None = options.get("normalizer")
    agent: Any = Constant(Spec(space, action_space))
    return Policy(agent, state, len(state), torch.device("cpu"), normalizer, action_map)
