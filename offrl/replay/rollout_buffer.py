"""The newest steps of S seeds' environments in the order they were taken, for agents that learn on-policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data import schema
from offrl.replay.row_layout import RowLayout
from offrl.types import Batch, Observation

Columns = Mapping[str, NDArray[Any]]


class RolloutBuffer:
    """T steps of every environment, filled and handed out again and again.

    Values are stored as agents see them: observations normalized, actions as the agent gave them.

    Args:
        layout: what a step holds.
        seeds: S.
        environments: E, environments per seed; a vector environment's n-th copy belongs to seed n // E.
        steps: T.
        discount: γ, per step.
    """

    def __init__(self, layout: RowLayout, seeds: int, environments: int, steps: int, discount: float) -> None:
        self.layout, self.seeds, self.environments, self.steps = layout, seeds, environments, steps
        self.discount = discount
        streams = seeds * environments
        self.floats = np.zeros((steps, streams, layout.width), np.float32)
        self.next_floats = np.zeros((steps, streams, layout.observation_width), np.float32)
        self.images = {name: np.zeros((steps, streams, *shape), np.uint8) for name, shape in layout.images}
        self.next_images = {name: np.zeros_like(image) for name, image in self.images.items()}
        self.position = 0
        self._observation: Columns = {}

    def begin(self, observation: Columns) -> None:
        """Start an episode in every environment; `observation` maps column names to [S·E, …]."""
        self._observation = observation

    def append(
        self,
        action: NDArray[Any],
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_observation: Columns,
        reset_observation: Columns,
    ) -> None:
        """Add one step of every environment; the arguments are those of `OnlineRing.append`."""
        t, slices = self.position, self.layout.slices
        row = self.floats[t]
        _write(row, self.images, t, slices, self._observation)
        _write(self.next_floats[t], self.next_images, t, slices, next_observation)
        row[:, slices[schema.ACTION]] = action.reshape(len(row), -1)
        for name, values in ((schema.REWARD, reward), (schema.TERMINATED, terminated), (schema.TRUNCATED, truncated)):
            row[:, slices[name].start] = values
        self.position += 1
        self._observation = reset_observation

    def cut(self) -> None:
        """Forget the steps that have not been handed out; `begin` follows."""
        self.position = 0

    def take(self) -> Batch:
        """All T steps, leading axes [S, E, T], and room for the next ones."""
        self.position = 0
        rows, layout, mask = self._by_seed(self.floats), self.layout, schema.ACTION_MASK
        terminated = layout.value(schema.TERMINATED, rows)
        return Batch(
            observation=self._observed(rows, self.images),
            action=layout.action(rows),
            reward=layout.value(schema.REWARD, rows),
            discount=self.discount * (1.0 - terminated),
            next_observation=self._observed(self._by_seed(self.next_floats), self.next_images),
            terminated=terminated,
            truncated=layout.value(schema.TRUNCATED, rows),
            action_mask=layout.value(mask, rows).bool() if mask in layout.slices else None,
        )

    def _observed(self, floats: Tensor, images: Mapping[str, NDArray[np.uint8]]) -> Observation:
        return self.layout.observation(floats, {name: self._by_seed(image) for name, image in images.items()})

    def _by_seed(self, values: NDArray[Any]) -> Tensor:
        """[T, S·E, …] to [S, E, T, …], copied."""
        steps: Tensor = torch.from_numpy(values)
        by_stream = steps.view(self.steps, self.seeds, self.environments, *steps.shape[2:])
        return by_stream.movedim(0, 2).clone(memory_format=torch.contiguous_format)


def _write(
    row: NDArray[np.float32],
    images: Mapping[str, NDArray[np.uint8]],
    step: int,
    slices: Mapping[str, slice],
    observation: Columns,
) -> None:
    """One step's observation; and its mask, where there is room for one."""
    for name, values in observation.items():
        if name in images:
            images[name][step] = values
        elif name in slices and slices[name].stop <= row.shape[1]:
            row[:, slices[name]] = values.reshape(len(row), -1)
