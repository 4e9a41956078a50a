"""Discounted sums along the time axis of rollouts, all environments and steps at once."""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_sums(values: Tensor, factors: Tensor) -> Tensor:
    """y_t = values_t + factors_t · y_{t+1} along the last axis, with nothing behind its end.

    Spans of 1, 2, 4, … steps are joined, so T steps take log₂ T rounds. Products of factors are all that is formed:
    a factor of 0 cuts the sum exactly.

    Args:
        values, factors: [..., T].

    Returns:
        [..., T].
    """
    sums, products, span, length = values, factors, 1, values.shape[-1]
    while span < length:
        # sums_t covers the steps t, …, t + span − 1, products_t is the product of their factors.
        joined = torch.addcmul(sums[..., :-span], products[..., : length - span], sums[..., span:])
        sums = torch.cat([joined, sums[..., -span:]], dim=-1)
        products = products[..., :-span] * products[..., span:]
        span *= 2
    return sums


def running_returns(reward: Tensor, done: Tensor, carry: Tensor, discount: float) -> Tensor:
    """The discounted sum of an episode's rewards so far, R_t = r_t + γ (1 − done_{t−1}) R_{t−1}.

    Args:
        reward: [..., T].
        done: float [..., T]; 1 where an episode ended behind the step, for whatever reason.
        carry: [...]; R_{−1}, 0 where an episode starts.
        discount: γ.

    Returns:
        [..., T].
    """
    factors = discount * (1.0 - done[..., :-1])
    first = torch.addcmul(reward[..., :1], carry.unsqueeze(-1), torch.full_like(carry, discount).unsqueeze(-1))
    values = torch.cat([first, reward[..., 1:]], dim=-1)
    backwards = torch.cat([torch.zeros_like(done[..., :1]), factors], dim=-1).flip(-1)
    return discounted_sums(values.flip(-1), backwards).flip(-1)


def generalized_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    discount: float,
    trace_decay: float,
) -> Tensor:
    """Generalized advantage estimation (Schulman et al., 2016), https://arxiv.org/abs/1506.02438.

    A_t = δ_t + γλ A_{t+1} with δ_t = r_t + γ V(s_{t+1}) − V(s_t). V(s_{t+1}) counts nothing where the episode
    terminated; where it ended, for whatever reason, nothing flows back from the step behind.

    Args:
        reward, value: [..., T].
        next_value: [..., T]; the value of the state that the step led to, also where the episode was truncated there.
        terminated, truncated: float [..., T]; 1 where the episode ended so.
        discount: γ.
        trace_decay: λ.

    Returns:
        [..., T].
    """
    error = reward + discount * (1.0 - terminated) * next_value - value
    return discounted_sums(error, discount * trace_decay * (1.0 - torch.maximum(terminated, truncated)))
