"""Losses of single values with their derivatives, which spares autograd's record of them; outside of autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from offrl.ops.numpy_or_torch import Array, one_hot


def chosen_huber(
    values: Array, choice: Array, target: Array, weight: Array | None = None
) -> tuple[Array, Array, Array]:
    """Huber loss (1964) of chosen values: δ²/2 for |δ| ≤ 1, |δ| − 1/2 beyond; its derivative is δ clipped to ±1.

    Args:
        values: Q(s, ·), [S, B, A].
        choice: which of them, int64 [S, B], from 0.
        target: y, [S, B].
        weight: importance weights, [S, B].

    Returns:
        Each transition's loss, [S, B]; the derivative of their mean by the values, [S, B, A]; the errors
        δ = Q(s, a) − y, [S, B].
    """
    chosen = one_hot(choice, values.shape[-1])
    error = (values * chosen).sum(-1) - target
    slope = error.clip(-1.0, 1.0)
    # δ²/2 or |δ| − 1/2, from the clipped error c: c (δ − c/2).
    loss = slope * (error - 0.5 * slope)
    if weight is not None:
        loss, slope = loss * weight, slope * weight
    slope = slope * (1.0 / slope.shape[-1])
    return loss, chosen * slope[..., None], error


def squared_error(prediction: Array, target: Array) -> tuple[Array, Array]:
    """Σ (prediction − target)² over the last axis, both [S, B, A].

    Returns:
        Each transition's, [S, B]; the derivative of their mean by the prediction, [S, B, A].
    """
    error = prediction - target
    return (error * error).sum(-1), error * (2.0 / error.shape[1])


def log_sum_exp_gap(
    values: Tensor, choice: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """log Σ_a exp Q(s, a) over the allowed actions, less Q(s, a) of the chosen one: what CQL keeps small.

    The chosen one counts as allowed, whatever the mask says: else there would be no least gap, and training diverges.

    Args:
        values, choice, weight: as for `chosen_huber`.
        mask: bool [S, B, A], the allowed actions.

    Returns:
        Each transition's, [S, B]; the derivative of their mean by the values, [S, B, A].
    """
    choice = choice.unsqueeze(-1)
    chosen = values.gather(-1, choice)
    if mask is not None:
        values = values.masked_fill(~mask.scatter(-1, choice, True), -torch.inf)
    gap = values.logsumexp(dim=-1) - chosen.squeeze(-1)
    slope = values.softmax(dim=-1).scatter_add_(-1, choice, -torch.ones_like(chosen))
    if weight is not None:
        gap, slope = gap * weight, slope * weight.unsqueeze(-1)
    return gap, slope / slope.shape[1]
