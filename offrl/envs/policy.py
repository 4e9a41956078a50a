"""An agent as an environment meets it: raw observations in, actions within the environment's own bounds out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data.normalization import ActionMap, ObservationNormalizer, observation_key
from offrl.data.schema import OBSERVATION, flatten_value
from offrl.types import Agent, Observation


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
        flat: Observation
        if isinstance(observation, np.ndarray):
            flat = self._to_seed_axis(observation)
        else:
            columns = flatten_value(self.agent.spec.observation_space, observation, OBSERVATION)
            flat = {observation_key(name): self._to_seed_axis(value) for name, value in columns.items()}
        if self.normalizer is None:
            return flat
        normalized: Observation = self.normalizer.normalize(flat)
        return normalized

    def act(self, observation: Observation, noise: Tensor | None = None) -> Tensor:
        """The agent's actions [S, N, …] for what `observe` returned: greedy without `noise`."""
        action: Tensor = self.agent.act(self.state, observation, noise)
        return action

    def act_greedily(self, observation: Any) -> NDArray[Any]:
        """A vector environment's observation to the greedy actions it should be given."""
        return self.to_environment(self.act(self.observe(observation)))

    def to_environment(self, action: Tensor) -> NDArray[Any]:
        """The agent's actions [S, N, …] as the vector environment's [S·N, …]."""
        flat = action.flatten(0, 1).cpu().numpy()
        raw = flat if self.action_map is None else self.action_map.from_unit(flat)
        return raw.reshape(len(raw), *(self.agent.spec.action_space.shape or ()))

    def _to_seed_axis(self, value: NDArray[Any]) -> Tensor:
        tensor: Tensor = torch.from_numpy(np.ascontiguousarray(value))
        if tensor.is_floating_point():
            tensor = tensor.float()
        per_seed = tensor.view(self.seeds, -1, *tensor.shape[1:])
        return per_seed.to(self.device)
