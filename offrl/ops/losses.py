"""Losses of single transitions, to be averaged over a batch and differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss


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
