"""Actions before there is anything to act on."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.replay.normalization import ActionMap
from offrl.types import Spec


def random_actions(spec: Spec, draws: Tensor, action_mask: NDArray[np.bool_] | None = None) -> Tensor:
    """Random actions, as an agent would give them, from standard normal draws [..., action_dim].

    Discrete ones are equally probable among those that are allowed. Components of a Box are distributed as Gymnasium
    samples them: uniform between two bounds, exponential with mean 1 beyond one bound, standard normal without any.

    Args:
        spec: the spaces.
        draws: as many as there are actions in all, or components.
        action_mask: as many as there are draws, the Discrete actions that are allowed.
    """
    space = spec.action_space
    normal = draws
    # The largest of several draws is each of them with the same chance.
    if isinstance(space, gym.spaces.Discrete):
        if action_mask is not None:
            normal = normal.masked_fill(~torch.from_numpy(action_mask).view(normal.shape), -math.inf)
        return normal.argmax(dim=-1).add(int(space.start))
    if isinstance(space, gym.spaces.MultiDiscrete):
        choices = normal.split([int(n) for n in space.nvec.flat], dim=-1)
        picked = torch.stack([choice.argmax(dim=-1) for choice in choices], dim=-1)
        return picked + torch.as_tensor(space.start.reshape(-1), device=normal.device)
    below, above, low, high = (torch.from_numpy(part).to(normal.device) for part in _bounds(space))
    # Φ of a draw is uniform on [0, 1], so that -log Φ of it is exponential.
    uniform: Tensor = 2.0 * torch.special.ndtr(normal) - 1.0
    beyond: Tensor = -torch.special.log_ndtr(normal)
    one_sided = torch.where(below, low + beyond, high - beyond)
    return torch.where(below & above, uniform, torch.where(below | above, one_sided, normal))


def random_log_prob(spec: Spec, actions: Tensor, action_mask: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Log-density of `random_actions`, or their log-probability, in the environment's units, in nats; [N].

    Args:
        spec: the spaces.
        actions: what `random_actions` gave, [N, …].
        action_mask: what it was given, bool [N, A].
    """
    space, count = spec.action_space, len(actions)
    if isinstance(space, gym.spaces.Discrete) and action_mask is not None:
        return np.asarray(-np.log(action_mask.sum(axis=-1)), np.float64)
    if not isinstance(space, gym.spaces.Box):
        choices = space.nvec if isinstance(space, gym.spaces.MultiDiscrete) else np.array(spec.action_dim)
        return np.full(count, -np.log(choices).sum())
    below, above, low, high = _bounds(space)
    value = actions.numpy().astype(np.float64)
    from_bound = np.where(below, value - low, high - value)
    normal = -0.5 * value**2 - 0.5 * math.log(2.0 * math.pi)
    half = ActionMap.from_space(space).half.astype(np.float64)
    density = np.where(below & above, -np.log(2.0 * half), np.where(below | above, -from_bound, normal))
    return np.asarray(density.sum(axis=-1))


def _bounds(space: gym.Space[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[Any], NDArray[Any]]:
    """Where components of a Box are bounded below and above, and these bounds, 0 where there is none; [A] each."""
    assert isinstance(space, gym.spaces.Box)
    below, above = (part.reshape(-1) for part in (space.bounded_below, space.bounded_above))
    low, high = (part.reshape(-1).astype(np.float32) for part in (space.low, space.high))
    return below, above, np.where(below, low, np.float32(0)), np.where(above, high, np.float32(0))
