"""Values of discrete actions: those that were taken, those that are allowed, and sometimes random ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor


def of_choice(values: Tensor, choice: Tensor) -> Tensor:
    """The chosen ones of values [S, B, A], [S, B]."""
    return values.gather(-1, choice.unsqueeze(-1)).squeeze(-1)


def allowed(values: Tensor, mask: Tensor | None) -> Tensor:
    """Numbers [S, B, A] of the actions that a mask allows, −∞ for the others; all, where there is no mask."""
    return values if mask is None else values.masked_fill(~mask, -math.inf)


@dataclass(frozen=True)
class EpsilonGreedy:
    """Greedy actions, with a chance of ε random ones; ε goes from one number to another by the count of steps.

    Attributes:
        start, end: ε at first and at last.
        steps: exploring steps of each seed in which it goes from one to the other, linearly.
    """

    start: float
    end: float
    steps: int

    def __call__(self, greedy: Tensor, draws: Tensor, mask: Tensor | None, steps_taken: Tensor) -> Tensor:
        """The actions to take, int64 [S, N], from 0.

        The place of the largest allowed draw is a uniformly random action, whatever the draws' sum is. The sum says
        whether it is taken: Φ(sum / √A) is uniform on [0, 1].

        Args:
            greedy: int64 [S, N], from 0.
            draws: standard normal, [S, N, A].
            mask: bool [S, N, A], the allowed actions; None for all.
            steps_taken: int64, by each seed's environments so far; goes up by N, unless ε is the same at all times.
        """
        if self.start == self.end:
            quantile: Tensor | float = normal_quantile(self.end)
        else:
            slope = (self.end - self.start) / self.steps
            low, high = sorted((self.start, self.end))
            epsilon = (steps_taken.float() * slope + self.start).clamp(low, high)
            quantile = torch.special.ndtri(epsilon)
            steps_taken += draws.shape[1]
        explores = draws.sum(dim=-1) < quantile * draws.shape[-1] ** 0.5
        return torch.where(explores, allowed(draws, mask).argmax(dim=-1), greedy)


def normal_quantile(probability: float) -> float:
    """Φ⁻¹; infinite at 0 and 1."""
    return NormalDist().inv_cdf(probability) if 0.0 < probability < 1.0 else math.copysign(math.inf, probability - 0.5)
