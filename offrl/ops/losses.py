"""Losses of single transitions, to be averaged over a batch and differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss, mse_loss


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Σ (prediction − target)² over the last axis: [S, B, A] to [S, B]."""
    return mse_loss(prediction, target, reduction="none").sum(dim=-1)


def log_sum_exp_gap(values: Tensor, choice: Tensor, mask: Tensor | None = None) -> Tensor:
    """log Σ_a exp Q(s, a) over the allowed actions, less Q(s, a) of the chosen one: what CQL keeps small, [S, B].

    The chosen one counts as allowed, whatever the mask says: else there would be no least gap, and training diverges.

    Args:
        values: Q(s, ·), [S, B, A].
        choice: which of them, int64 [S, B], from 0.
        mask: bool [S, B, A], the allowed actions.
    """
    choice = choice.unsqueeze(-1)
    possible = values if mask is None else values.masked_fill(~mask.scatter(-1, choice, True), -torch.inf)
    return possible.logsumexp(dim=-1) - values.gather(-1, choice).squeeze(-1)


def quantile_huber_loss(quantiles: Tensor, target: Tensor) -> Tensor:
    """Σ_i mean_j |τ_i − 1(u_ij < 0)| L(u_ij), the quantile Huber loss of u_ij = y_j − θ_i; [S, B, N] to [S, B].

    The τ_i = (i − 1/2) / N are the midpoints of N equal shares, and L is Huber's loss, u²/2 for |u| ≤ 1 and |u| − 1/2
    beyond (Dabney et al., 2018, https://arxiv.org/abs/1710.10044, equation 10 with κ = 1).

    Args:
        quantiles: θ, [S, B, N].
        target: y, draws of the distribution or its quantiles, [S, B, M].
    """
    count = quantiles.shape[-1]
    midpoints = (torch.arange(count, device=quantiles.device) + 0.5) / count
    errors = target.unsqueeze(-2) - quantiles.unsqueeze(-1)
    share = torch.where(errors < 0.0, 1.0 - midpoints.unsqueeze(-1), midpoints.unsqueeze(-1))
    sizes = huber_loss(errors, torch.zeros_like(errors), reduction="none")
    return (share * sizes).mean(dim=-1).sum(dim=-1)
