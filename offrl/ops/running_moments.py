"""Means and variances that grow with the data, as one tensor [S, 3, D]: mean, variance and count of D components."""

from __future__ import annotations

import torch
from torch import Tensor

from offrl.ops.returns import running_returns


def fresh_moments(seeds: int, width: int) -> Tensor:
    """Moments of no data, [S, 3, width]: mean 0, variance 1, count 0, so that normalizing changes nothing."""
    moments = torch.zeros(seeds, 3, width)
    moments[:, 1] = 1.0
    return moments


def merge_moments(moments: Tensor, values: Tensor) -> Tensor:
    """The moments of the data so far and new `values` together (Chan, Golub & LeVeque, 1979).

    Args:
        moments: [S, 3, D].
        values: [S, N, D].

    Returns:
        [S, 3, D]; the variance is that of the population.
    """
    mean, variance, count = moments.unbind(dim=1)
    new_variance, new_mean = torch.var_mean(values, dim=1, correction=0)
    total = count + values.shape[1]
    share, shift = values.shape[1] / total, new_mean - mean
    spread = torch.lerp(variance, new_variance, share) + share * (1.0 - share) * shift.square()
    return torch.stack([mean + share * shift, spread, total], dim=1)


def normalize(values: Tensor, moments: Tensor, limit: float = 10.0, epsilon: float = 1e-8) -> Tensor:
    """(values − mean) / √(variance + ε), within ±limit.

    Args:
        values: [S, N, D].
        moments: [S, 3, D].
        limit: in standard deviations.
        epsilon: ε.

    Returns:
        [S, N, D].
    """
    mean, variance, _ = moments.unsqueeze(2).unbind(dim=1)
    return ((values - mean) * torch.rsqrt(variance + epsilon)).clamp(-limit, limit)


def standardize(values: Tensor) -> Tensor:
    """Each row of [..., N] with mean 0 and standard deviation 1, which here and now are its own."""
    spread, mean = torch.std_mean(values, dim=-1, keepdim=True, correction=0)
    return (values - mean) / (spread + 1e-8)


def scale_rewards(reward: Tensor, done: Tensor, carry: Tensor, moments: Tensor, discount: float) -> Tensor:
    """Rewards over the standard deviation of the discounted returns so far, these included.

    Args:
        reward: of consecutive steps, [S, E, T].
        done: float [S, E, T]; 1 where an episode ended behind the step, for whatever reason.
        carry: changed in place: the discounted return so far of the running episodes, [S, E].
        moments: changed in place: those of the running discounted return, [S, 3, 1].
        discount: γ.

    Returns:
        [S, E, T].
    """
    returns = running_returns(reward, done, carry, discount)
    moments.copy_(merge_moments(moments, returns.flatten(1).unsqueeze(-1)))
    carry.copy_(returns[..., -1] * (1.0 - done[..., -1]))
    return reward * torch.rsqrt(moments[:, 1:2] + 1e-8)
