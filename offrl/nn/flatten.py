"""From an observation or an action, of whatever space, to one flat float vector."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
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
        self.width = 0
        for part in self.parts.values():
            if part.shape is None:
                raise SpaceMismatchError(
                    f"a {type(part).__name__} observation can't be flattened to a vector",
                    hint="describe observations with Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of "
                    "these",
                )
            self.width += int(part.n) if isinstance(part, gym.spaces.Discrete) else math.prod(part.shape)

    def __call__(self, observation: Observation) -> Tensor:
        """[S, B, …] to float32 [S, B, width]."""
        if isinstance(observation, Tensor):
            (space,) = self.parts.values()
            return _flat(observation, space)
        return torch.cat([_flat(observation[key], space) for key, space in self.parts.items()], dim=-1)


class FlatAction:
    """Makes actions vectors of `Spec.action_dim` numbers: discrete ones one-hot, joined where there are several.

    Args:
        space: the action space: Box, Discrete or MultiDiscrete.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.space = space

    def __call__(self, action: Tensor) -> Tensor:
        """[S, B, …] to [S, B, action_dim]; those of a Box as they are."""
        space = self.space
        if isinstance(space, gym.spaces.Discrete):
            return one_hot(action - int(space.start), int(space.n))
        if isinstance(space, gym.spaces.MultiDiscrete):
            columns = zip(action.unbind(-1), space.start.flat, space.nvec.flat, strict=True)
            return torch.cat([one_hot(column - int(first), int(n)) for column, first, n in columns], dim=-1)
        return action


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


def _flat(value: Tensor, space: gym.Space[Any]) -> Tensor:
    if isinstance(space, gym.spaces.Discrete):
        return one_hot(value.long() - int(space.start), int(space.n))
    numbers = value.float() / 255.0 if value.dtype == torch.uint8 else value.float()
    return numbers if numbers.dim() == 3 else numbers.reshape(*numbers.shape[:2], -1)


def one_hot(number: Tensor, count: int) -> Tensor:
    """Whole numbers […] to float32 […, count]; PyTorch's own looks at the values, which no trace can repeat."""
    return (number.unsqueeze(-1) == torch.arange(count, device=number.device)).float()
