"""An agent as an environment meets it: raw observations in, actions within the environment's own bounds out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data.normalization import ActionMap, ObservationNormalizer, observation_key
from offrl.data.schema import OBSERVATION, flatten_value
from offrl.types import Agent, Observation

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Policy:
    """What lies between an environment and an agent's `act`, for S seeds at once.

    Attributes:
        agent: the algorithm.
        state: its state for S seeds.
        seeds: S.
        device: where the state lives.
        normalizer: applied to observations before the agent sees them; None leaves them as they are.
        action_map: from the agent's [-1, 1] to the environment's bounds; None where actions are not a Box.
        frame_stack: how many of the newest observations the agent sees at once.
    """

    agent: Agent[Any]
    state: Any
    seeds: int
    device: torch.device
    normalizer: ObservationNormalizer | None
    action_map: ActionMap | None
    frame_stack: int = 1

    def observe(self, observation: Any) -> Observation:
        """A vector environment's observation, [S·N, …] and nested as its space is, as the agent's [S, N, …]."""
        return self.to_agent(self.columns(observation))

    def columns(self, observation: Any) -> Columns:
        """The same as columns, [S·N, …]: normalised, and floats in single precision."""
        if isinstance(observation, np.ndarray):
            return {OBSERVATION: self._seen("", observation)}
        parts = flatten_value(self.agent.spec.observation_space, observation, OBSERVATION)
        return {name: self._seen(observation_key(name), value) for name, value in parts.items()}

    def to_agent(self, columns: Columns) -> Observation:
        """What `columns` returned as the agent's observation, [S, N, …], on its device."""
        if OBSERVATION in columns:
            return self._to_seed_axis(columns[OBSERVATION])
        return {observation_key(name): self._to_seed_axis(value) for name, value in columns.items()}

    def act(self, observation: Observation, noise: Tensor | None = None) -> Tensor:
        """The agent's actions [S, N, …] for what `observe` returned: greedy without `noise`."""
        action: Tensor = self.agent.act(self.state, observation, noise)
        return action

    def act_greedily(self, observation: Any) -> NDArray[Any]:
        """A vector environment's observation to the greedy actions it should be given."""
        return self.to_environment(self.act(self.observe(observation)))

    def to_environment(self, action: Tensor) -> NDArray[Any]:
        """The agent's actions [S, N, …] as the vector environment's [S·N, …]."""
        return self.in_units(as_rows(action))

    def in_units(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The agent's actions [S·N, …] in the environment's units, within its bounds."""
        raw = rows if self.action_map is None else self.action_map.from_unit(rows)
        return raw if raw.shape[1:] == self._action_shape else raw.reshape(len(raw), *self._action_shape)

    @cached_property
    def _action_shape(self) -> tuple[int, ...]:
        return tuple(self.agent.spec.action_space.shape or ())

    def _seen(self, key: str, value: NDArray[Any]) -> NDArray[Any]:
        single = value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value
        return single if self.normalizer is None else self.normalizer.normalize_part(key, single)

    def _to_seed_axis(self, value: NDArray[Any]) -> Tensor:
        value = np.ascontiguousarray(value)
        by_seed = value[None] if self.seeds == 1 else value.reshape(self.seeds, -1, *value.shape[1:])
        tensor: Tensor = torch.from_numpy(by_seed)
        return tensor.to(self.device)


def as_rows(action: Tensor) -> NDArray[Any]:
    """Actions [S, N, …] on any device as an array [S·N, …]."""
    values: NDArray[Any] = action.cpu().numpy()
    return values[0] if len(values) == 1 else values.reshape(-1, *values.shape[2:])
