"""Losses of a discriminator that tells an expert's transitions from others, and the rewards it gives.

D is the probability that a transition is the expert's; the discriminator's output is its logit, log D − log(1 − D).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

RewardForm = Literal["positive", "negative", "logit"]
"""−log(1 − D), which is never negative; log D, which is never positive; log D − log(1 − D), which has either sign."""


def reward_of(logit: Tensor, form: RewardForm) -> Tensor:
    """The reward of transitions that the discriminator gives these logits."""
    if form == "positive":
        return softplus(logit)
    if form == "negative":
        return -softplus(-logit)
    return logit


def expert_loss(logit: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy −(1 − ε) log D − ε log(1 − D) of the expert's transitions, with one-sided label smoothing ε."""
    return softplus(-logit) + smoothing * logit


def generator_loss(logit: Tensor) -> Tensor:
    """Cross-entropy −log(1 − D) of others' transitions."""
    return softplus(logit)


def decision_entropy(logit: Tensor) -> Tensor:
    """Entropy of the Bernoulli distribution with probability D, in nats."""
    return softplus(-logit) + torch.sigmoid(-logit) * logit


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Over the last axis, [..., N] to [...]; evenly where there are no weights."""
    if weight is None:
        return values.mean(dim=-1)
    return (values * weight).sum(dim=-1) / weight.sum(dim=-1)
