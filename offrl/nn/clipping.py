"""What an environment receives of the actions that a policy samples."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor


class Clipping:
    """Clips actions as they are clipped on their way into the environment; those of other spaces than a Box stay.

    A component with two finite bounds spans [-1, 1], as agents see it; one with a single bound is in the environment's
    own units.

    Args:
        space: of the actions.

    Attributes:
        changes: whether there is a bound that a sample could be beyond: what is clipped has no density there.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.bounds = _unit_bounds(space) if isinstance(space, gym.spaces.Box) else []
        self.changes = any(math.isfinite(bound) for bounds in self.bounds for bound in bounds)

    def __call__(self, action: Tensor) -> Tensor:
        """[..., A] to the same."""
        if not self.changes:
            return action
        if len(set(self.bounds)) == 1:
            return action.clamp(*self.bounds[0])
        columns = zip(action.unbind(-1), self.bounds, strict=True)
        return torch.stack([column.clamp(*bounds) for column, bounds in columns], dim=-1)


def _unit_bounds(space: gym.spaces.Box) -> list[tuple[float, float]]:
    """Of each component of the flat action, as agents see it."""
    pairs = zip(space.low.flatten().tolist(), space.high.flatten().tolist(), strict=True)
    return [_unit_bound(low, high) for low, high in pairs]


def _unit_bound(low: float, high: float) -> tuple[float, float]:
    if low == high:
        # The only action that there is lies in the middle.
        return 0.0, 0.0
    return (low, high) if math.isinf(low) or math.isinf(high) else (-1.0, 1.0)
