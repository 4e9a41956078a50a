"""From an observation, of whatever space, to one flat float vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from offrl.errors import SpaceMismatchError
from offrl.types import Observation


class FlatObservation:
    """Flattens and joins the parts of an observation: Discrete parts one-hot, uint8 over 255, the rest as they are.

    Args:
        space: the observation space; nested parts are taken in the order of its keys.

    Raises:
        SpaceMismatchError: a part has no fixed shape.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.parts = dict(_leaves(space))
        self.width = sum(_width(part) for part in self.parts.values())

    def __call__(self, observation: Observation) -> Tensor:
        """[S, B, …] to float32 [S, B, width]."""
        if isinstance(observation, Tensor):
            (space,) = self.parts.values()
            return _flat(observation, space)
        return torch.cat([_flat(observation[key], space) for key, space in self.parts.items()], dim=-1)


def _leaves(space: gym.Space[Any], prefix: str = "") -> Iterator[tuple[str, gym.Space[Any]]]:
    if isinstance(space, gym.spaces.Dict):
        children = list(space.spaces.items())
    elif isinstance(space, gym.spaces.Tuple):
        children = [(str(i), child) for i, child in enumerate(space.spaces)]
    else:
        yield prefix, space
        return
    for key, child in children:
        yield from _leaves(child, f"{prefix}.{key}" if prefix else key)


def _width(space: gym.Space[Any]) -> int:
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if space.shape is None:
        raise SpaceMismatchError(
            f"a {type(space).__name__} observation can't be flattened to a vector",
            hint="describe observations with Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these",
        )
    return int(np.prod(space.shape))


def _flat(value: Tensor, space: gym.Space[Any]) -> Tensor:
    if isinstance(space, gym.spaces.Discrete):
        return one_hot(value.long() - int(space.start), int(space.n))
    numbers = value.float() / 255.0 if value.dtype == torch.uint8 else value.float()
    return numbers if numbers.dim() == 3 else numbers.reshape(*numbers.shape[:2], -1)


def one_hot(number: Tensor, count: int) -> Tensor:
    """Whole numbers […] to float32 […, count]; PyTorch's own looks at the values, which no trace can repeat."""
    return (number.unsqueeze(-1) == torch.arange(count, device=number.device)).float()
