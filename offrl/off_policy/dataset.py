"""A dataset's episodes as off-policy evaluation reads them: all of them, in memory, in the environment's own units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from offrl.data.schema import (
    ACTION,
    ACTION_MASK,
    BEHAVIOR_LOG_PROB,
    OBSERVATION,
    REWARD,
    TERMINATED,
    TRUNCATED,
    flatten_space,
)
from offrl.data.trajectories import Trajectories
from offrl.errors import DataError, RequestError, SpaceMismatchError
from offrl.nn import FlatObservation
from offrl.off_policy.transitions import Steps
from offrl.replay.normalization import ActionMap, observation_key
from offrl.replay.row_layout import known_masks
from offrl.types import Spec

Observations = NDArray[Any] | Mapping[str, NDArray[Any]]
"""Rows of observations as the dataset holds them, [n, …]; by dotted key where the space is nested."""


@dataclass(frozen=True)
class Logged:
    """R steps in N whole episodes, and their R + N observations.

    Attributes:
        spec: the spaces.
        observation: [R + N, …].
        action: [R, …], in the environment's units and numbers.
        reward: float64 [R].
        terminated, truncated: bool [R].
        lengths: int64 [N].
        behavior_log_prob: float64 [R], in nats and the environment's action units; None where it wasn't logged.
        action_mask: bool [R + N, A]; the discrete actions that were allowed: all, where none was logged.
        columns: further columns by name, [R, …] or, of those that have one, with the row of the last observation,
            [R + N, …].
        name: what people call the dataset.
    """

    spec: Spec
    observation: Observations
    action: NDArray[Any]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    behavior_log_prob: NDArray[np.float64] | None = None
    action_mask: NDArray[np.bool_] | None = None
    columns: Mapping[str, NDArray[Any]] | None = None
    name: str = ""

    @classmethod
    def read(cls, store: Trajectories, columns: tuple[str, ...] = ()) -> Logged:
        """All episodes of a store.

        Args:
            store: what was logged.
            columns: further columns to read.

        Raises:
            RequestError: there is no such column, or actions are nested.
            DataError: there is no episode.
        """
        missing = [name for name in (ACTION, *columns) if name not in store.column_names]
        if missing:
            raise RequestError(
                f"the dataset has no column '{missing[0]}'",
                where=store.metadata.name or "",
                hint=f"it has {', '.join(store.column_names)}",
            )
        if not store.num_episodes:
            raise DataError("the dataset has no episode", where=store.metadata.name or "", hint="name another one")
        lengths = np.asarray(store.episodes.length, np.int64)
        step_rows = np.arange(store.num_steps) + np.repeat(np.arange(len(lengths)), lengths)

        def whole(name: str) -> NDArray[Any]:
            return store.read(name, 0, store.num_rows)

        names = flatten_space(store.spec.observation_space, OBSERVATION)
        observation = {observation_key(name): whole(name) for name in names}
        known = BEHAVIOR_LOG_PROB in store.column_names
        return cls(
            spec=store.spec,
            observation=cast(Observations, observation.get("", observation)),
            action=whole(ACTION)[step_rows],
            reward=whole(REWARD)[step_rows].astype(np.float64),
            terminated=whole(TERMINATED)[step_rows].astype(bool),
            truncated=whole(TRUNCATED)[step_rows].astype(bool),
            lengths=lengths,
            behavior_log_prob=whole(BEHAVIOR_LOG_PROB)[step_rows].astype(np.float64) if known else None,
            action_mask=known_masks(whole(ACTION_MASK).astype(np.bool_)) if ACTION_MASK in store.column_names else None,
            columns={name: whole(name) for name in columns},
            name=store.metadata.name or "",
        )

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """The row of each step's observation, [R]."""
        return np.arange(len(self.reward)) + np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def rows(self) -> int:
        """R + N."""
        return len(self.reward) + len(self.lengths)

    @cached_property
    def features(self) -> NDArray[np.float32]:
        """Observations as flat vectors, float32 [R + N, F]: one-hot where discrete, else of mean 0 and deviation 1."""
        observation = self.observation
        # Copies: PyTorch takes no read-only memory.
        tensors = (
            {key: torch.tensor(part).unsqueeze(0) for key, part in observation.items()}
            if isinstance(observation, Mapping)
            else torch.tensor(observation).unsqueeze(0)
        )
        flat: NDArray[np.float32] = FlatObservation(self.spec.observation_space)(tensors)[0].numpy()
        if isinstance(self.spec.observation_space, gym.spaces.Discrete):
            return flat
        steps = flat[self.row]
        scaled: NDArray[np.float32] = ((flat - steps.mean(axis=0)) / (steps.std(axis=0) + 1e-3)).astype(np.float32)
        return scaled

    @cached_property
    def agent_action(self) -> NDArray[Any]:
        """Actions as densities are fitted to: int64 [R] from 0, or float32 [R, A] in [-1, 1].

        Raises:
            SpaceMismatchError: actions are neither discrete nor vectors.
        """
        space = self.spec.action_space
        if isinstance(space, gym.spaces.Discrete):
            return self.action.astype(np.int64).reshape(-1) - int(space.start)
        if isinstance(space, gym.spaces.Box):
            unit: NDArray[np.float32] = self.action_map.to_unit(self.action.reshape(len(self.action), -1))
            return unit
        raise SpaceMismatchError(
            f"nothing is fitted to actions in {space}, as those of '{self.name}' are",
            hint="choose importance sampling by logged probabilities: --estimators is,wis,pdis,wpdis",
        )

    @cached_property
    def valued_action(self) -> NDArray[Any]:
        """Actions as values are fitted to: as densities are, or float32 [R, A] of 0 and 1 for a MultiDiscrete.

        Raises:
            SpaceMismatchError: actions are neither discrete nor vectors.
        """
        space = self.spec.action_space
        return one_hot_each(space, self.action) if isinstance(space, gym.spaces.MultiDiscrete) else self.agent_action

    @cached_property
    def action_map(self) -> ActionMap:
        """From the environment's bounds to [-1, 1], for a Box."""
        space = self.spec.action_space
        assert isinstance(space, gym.spaces.Box)
        return ActionMap.from_space(space)

    @property
    def log_volume(self) -> float:
        """What a log-density in the environment's units has less than that of the action mapped to [-1, 1]."""
        return self.action_map.log_volume if self.spec.is_continuous else 0.0

    @property
    def actions(self) -> int | None:
        """How many discrete actions there are; None for a Box."""
        return None if self.spec.is_continuous else self.spec.action_dim

    def steps(self, discount: float, horizon: int | None = None) -> Steps:
        """What values are fitted to."""
        return Steps(
            features=self.features,
            action=self.valued_action,
            reward=self.reward,
            terminated=self.terminated,
            lengths=self.lengths,
            discount=discount,
            horizon=horizon,
            actions=self.actions if isinstance(self.spec.action_space, gym.spaces.Discrete) else None,
        )


def one_hot_each(space: gym.spaces.MultiDiscrete, action: NDArray[Any]) -> NDArray[np.float32]:
    """Several choices [..., K] as vectors [..., A]: a 1 for each choice, among as many places as it has options."""
    columns = zip(np.moveaxis(action, -1, 0), space.start, space.nvec, strict=True)
    return np.concatenate([np.eye(count, dtype=np.float32)[choice - first] for choice, first, count in columns], -1)
