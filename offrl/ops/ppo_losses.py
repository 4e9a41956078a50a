"""PPO's losses, row by row: https://arxiv.org/abs/1707.06347."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def clipped_gain(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) with ρ = exp(log_ratio), the paper's equation 7.

    Computed as min(ρ A, A + ε |A|), which is the same: only an upper bound of the ratio can make a positive A's gain
    smaller, only a lower one a negative A's.

    Args:
        log_ratio, advantage: [S, N].
        clip: ε; infinite leaves ρ A.

    Returns:
        [S, N].
    """
    gain = log_ratio.exp() * advantage
    return gain if math.isinf(clip) else gain.clamp(max=advantage + clip * advantage.abs())


def clipped_error(value: Tensor, old: Tensor, target: Tensor, limit: float) -> Tensor:
    """The larger one of two squared errors: the value's, and that of the value held within ±limit of the old one.

    Args:
        value, old, target: [S, N].
        limit: 0 leaves the value's own.

    Returns:
        [S, N].
    """
    error = (value - target).square()
    if not limit:
        return error
    held = old + (value - old).clamp(-limit, limit)
    return torch.maximum(error, (held - target).square())


def divergence_estimate(log_ratio: Tensor) -> Tensor:
    """E[ρ − 1 − log ρ], an estimate of KL(old ‖ new) that has little variance and is never negative.

    Args:
        log_ratio: log ρ = log π_new − log π_old of actions that the old policy took, [S, N].

    Returns:
        Nats, [S].
    """
    return (log_ratio.exp() - 1.0 - log_ratio).mean(dim=1)
