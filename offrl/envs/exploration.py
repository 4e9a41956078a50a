"""Actions before there is anything to act on."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.types import Spec


def uniform_actions(spec: Spec, draws: Tensor, action_mask: NDArray[np.bool_] | None = None) -> Tensor:
    """Uniformly random actions, as an agent would give them, from standard normal draws [..., action_dim].

    A mask, as many as there are draws, has the Discrete ones that are allowed.
    Φ of a draw is uniform on [0, 1]; the largest of several draws is each of them with the same chance.
    """
    space = spec.action_space
    normal = draws
    if isinstance(space, gym.spaces.Discrete):
        if action_mask is not None:
            normal = normal.masked_fill(~torch.from_numpy(action_mask).view(normal.shape), -math.inf)
        return normal.argmax(dim=-1).add(int(space.start))
    if isinstance(space, gym.spaces.MultiDiscrete):
        choices = normal.split([int(n) for n in space.nvec.flat], dim=-1)
        picked = torch.stack([choice.argmax(dim=-1) for choice in choices], dim=-1)
        return picked + torch.as_tensor(space.start.reshape(-1), device=normal.device)
    uniform: Tensor = torch.special.ndtr(normal)
    return 2.0 * uniform - 1.0
