"""A small MDP whose values are solved for exactly, and logs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl.off_policy.episode_log import EpisodeLog
from offrl.types import Spec

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TabularMDP:
    """States and actions by number; an episode ends by chance, or after `limit` steps.

    Attributes:
        transition: [S, A, S].
        reward: [S, A].
        stop: [S, A]; chance that the episode ends behind the step.
        start: [S]; where episodes start.
        limit: steps after which an episode is truncated.
    """

    transition: Array
    reward: Array
    stop: Array
    start: Array
    limit: int

    @classmethod
    def random(cls, seed: int = 0, states: int = 4, actions: int = 2, limit: int = 20) -> TabularMDP:
        generator = np.random.default_rng(seed)
        return cls(
            generator.dirichlet(np.ones(states), (states, actions)),
            generator.normal(1.0, 1.0, (states, actions)),
            generator.uniform(0.0, 0.2, (states, actions)),
            generator.dirichlet(np.ones(states)),
            limit,
        )

    def values(self, policy: Array, discount: float, horizon: int | None = None) -> tuple[Array, Array]:
        """Q [S, A] and V [S] of a policy [S, A], exactly; of the first `horizon` steps, or of all to come."""
        states, actions = self.reward.shape
        follow = discount * (1.0 - self.stop)[..., None] * self.transition
        if horizon is None:
            onwards = (follow[..., None] * policy).reshape(states * actions, states * actions)
            q = np.linalg.solve(np.eye(len(onwards)) - onwards, self.reward.ravel()).reshape(states, actions)
        else:
            q = np.zeros((states, actions))
            for _ in range(horizon):
                q = self.reward + follow @ (policy * q).sum(axis=1)
        return q, (policy * q).sum(axis=1)

    def log(self, behavior: Array, episodes: int, seed: int = 0) -> EpisodeLog:
        """Episodes of a policy [S, A]."""
        generator = np.random.default_rng(seed)
        columns: dict[str, list[Any]] = {name: [] for name in ("observation", "action", "reward", "terminated")}
        lengths = []
        for _ in range(episodes):
            state, length, ended = generator.choice(len(self.start), p=self.start), 0, False
            while not ended and length < self.limit:
                action = generator.choice(behavior.shape[1], p=behavior[state])
                ended = generator.random() < self.stop[state, action]
                columns["observation"].append(state)
                columns["action"].append(action)
                columns["reward"].append(self.reward[state, action])
                columns["terminated"].append(ended)
                state = generator.choice(len(self.start), p=self.transition[state, action])
                length += 1
            columns["observation"].append(state)
            lengths.append(length)
        actions, terminated = np.array(columns["action"]), np.array(columns["terminated"])
        observation = np.array(columns["observation"])
        row = np.arange(len(actions)) + np.repeat(np.arange(episodes), lengths)
        offsets = np.append(0, np.cumsum(lengths))
        return EpisodeLog(
            reward=np.array(columns["reward"]),
            behavior_log_prob=np.log(behavior[observation[row], actions]),
            target_log_prob=None,
            offsets=offsets,
            terminated=terminated[offsets[1:] - 1],
            truncated=~terminated[offsets[1:] - 1],
            spaces=Spec(gym.spaces.Discrete(behavior.shape[0]), gym.spaces.Discrete(behavior.shape[1])),
            observations=observation,
            taken=actions,
            name="tabular",
        )


BEHAVIOR = np.array([[0.5, 0.5], [0.7, 0.3], [0.4, 0.6], [0.5, 0.5]])
TARGET = np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1], [0.3, 0.7]])
