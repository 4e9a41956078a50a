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

from offrl.data.schema import OBSERVATION, flatten_value
from offrl.ops.numpy_or_torch import Array, handed_back
from offrl.replay.normalization import ActionMap, ObservationNormalizer, observation_key
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
        columns = self.columns(observation)
        tensors = {observation_key(name): self._tensor(value) for name, value in columns.items()}
        return tensors[""] if OBSERVATION in columns else tensors

    def columns(self, observation: Any) -> Columns:
        """The same as columns, [S·N, …]: normalized, and floats in single precision."""
        if isinstance(observation, np.ndarray):
            return {OBSERVATION: self._seen("", observation)}
        parts = flatten_value(self.agent.spec.observation_space, observation, OBSERVATION)
        return {name: self._seen(observation_key(name), value) for name, value in parts.items()}

    def to_agent(self, columns: Columns) -> Observation | NDArray[Any]:
        """What `columns` returned, to be acted on, [S, N, …]: an array for agents that act on arrays, else tensors."""
        if OBSERVATION not in columns:
            return {observation_key(name): self._tensor(value) for name, value in columns.items()}
        value = columns[OBSERVATION]
        return self._by_seed(value) if self._acts_on_arrays else self._tensor(value)

    def act(
        self,
        observation: Observation | NDArray[Any],
        noise: Array = None,
        action_mask: NDArray[np.bool_] | None = None,
    ) -> Array:
        """The agent's actions [S, N, …] for what `observe` or `to_agent` returned.

        Args:
            observation: [S, N, …].
            noise: the agent's draws, to explore; greedy without.
            action_mask: bool [S·N, A], those that the vector environment allows; None allows all.
        """
        agent: Any = self.agent
        draws = noise if self._acts_on_arrays else handed_back(noise)
        return agent.act(self.state, observation, draws, *self._masks(action_mask))

    def log_prob(
        self, observation: Observation, action: Tensor, action_mask: NDArray[np.bool_] | None = None
    ) -> Tensor:
        """log π(a | s), [S, N], in nats, of the agent's actions [S, N, …]: of agents that have a density.

        Args:
            observation: what `observe` returned.
            action: as `act` gives them, on the policy's device.
            action_mask: as `act` takes it.
        """
        agent: Any = self.agent
        masks = (handed_back(mask) for mask in self._masks(action_mask))
        log_prob: Tensor = agent.log_prob(self.state, observation, action, *masks)
        return log_prob

    def act_greedily(self, observation: Any, action_mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """A vector environment's observation, and what it allows, to the greedy actions it should be given."""
        seen = self.to_agent(self.columns(observation))
        return self.to_environment(self.act(seen, action_mask=action_mask))

    @cached_property
    def honors_masks(self) -> bool:
        """Whether the agent does what a mask allows; one that doesn't is not told of masks."""
        return getattr(self.agent, "honors_masks", False)

    def to_environment(self, action: Array) -> NDArray[Any]:
        """The agent's actions [S, N, …] as the vector environment's [S·N, …]."""
        return self.in_units(as_rows(action))

    def in_units(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The agent's actions [S·N, …] in the environment's units, within its bounds."""
        raw = rows if self.action_map is None else self.action_map.from_unit(rows)
        return raw if raw.shape[1:] == self._action_shape else raw.reshape(len(raw), *self._action_shape)

    @cached_property
    def _acts_on_arrays(self) -> bool:
        return self.device.type == "cpu" and getattr(self.agent, "acts_on_arrays", False)

    @cached_property
    def _action_shape(self) -> tuple[int, ...]:
        return tuple(self.agent.spec.action_space.shape or ())

    def _masks(self, action_mask: NDArray[np.bool_] | None) -> tuple[Array, ...]:
        """A vector environment's mask as a further argument of the agent's `act`, where it takes one."""
        if action_mask is None or not self.honors_masks:
            return ()
        return (self._by_seed(action_mask) if self._acts_on_arrays else self._tensor(action_mask),)

    def _seen(self, key: str, value: NDArray[Any]) -> NDArray[Any]:
        single = value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value
        return single if self.normalizer is None else self.normalizer.normalize_part(key, single)

    def _by_seed(self, value: NDArray[Any]) -> NDArray[Any]:
        value = np.ascontiguousarray(value)
        return value[None] if self.seeds == 1 else value.reshape(self.seeds, -1, *value.shape[1:])

    def _tensor(self, value: NDArray[Any]) -> Tensor:
        tensor: Tensor = torch.from_numpy(self._by_seed(value))
        return tensor.to(self.device)


def as_rows(action: Array) -> NDArray[Any]:
    """Actions [S, N, …], wherever they are, as an array [S·N, …]."""
    values: NDArray[Any] = action if isinstance(action, np.ndarray) else action.cpu().numpy()
    return values[0] if len(values) == 1 else values.reshape(-1, *values.shape[2:])
