"""PPO's losses, and their slopes by what the networks say: https://arxiv.org/abs/1707.06347."""

from __future__ import annotations

import torch
from torch import Tensor

from offrl.ops.numpy_or_torch import Array, namespace


def clipped_gain(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) with ρ = exp(log_ratio), the paper's equation 7.

    Args:
        log_ratio, advantage: [S, N].
        clip: ε; infinite leaves ρ A.

    Returns:
        [S, N].
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)


def clipped_gain_slope(log_ratio: Array, advantage: Array, clip: float) -> Array:
    """The derivative of `clipped_gain` by log ρ, [S, N]: ρ A, or 0 where clipping has made it smaller."""
    xp = namespace(log_ratio)
    ratio = xp.exp(log_ratio)
    gain = ratio * advantage
    return xp.where(gain > ratio.clip(1.0 - clip, 1.0 + clip) * advantage, 0.0, gain)


def clipped_error(value: Tensor, old: Tensor, target: Tensor, limit: float) -> Tensor:
    """The larger one of two squared errors: the value's, and that of the value held within ±limit of the old one.

    Args:
        value, old, target: [S, N].
        limit: 0 leaves the value's own.

    Returns:
        [S, N].
    """
    error = (value - target).square()
    return torch.maximum(error, (_held(value, old, limit) - target).square()) if limit else error


def clipped_error_slope(value: Array, old: Array, target: Array, limit: float) -> Array:
    """The derivative of `clipped_error` by the value, [S, N]: that of the square, or 0 where the held one errs more."""
    error = value - target
    if limit:
        worse = abs(_held(value, old, limit) - target) > abs(error)
        # Nearer ones are their own held values, but for rounding.
        error = namespace(error).where(worse & (abs(value - old) > limit), 0.0, error)
    return 2.0 * error


def _held(value: Array, old: Array, limit: float) -> Array:
    return old + (value - old).clip(-limit, limit)
