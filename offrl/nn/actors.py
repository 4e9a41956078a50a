"""Stochastic policies with a density: a network, what turns its output into a distribution, and that one's formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from offrl.nn.distributions import (
    SQUASH_MARGIN,
    categorical_entropy,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
    gaussian_entropy,
    gaussian_log_prob,
    split_categoricals,
    squashed_gaussian_entropy,
)
from offrl.nn.flat import FlatModule
from offrl.nn.mlp import MLP

FORBIDDEN = -1e8
"""The logit of an action that the mask forbids; minus infinity would make its share of the entropy 0 · ∞."""

Distribution = tuple[Tensor, ...]
"""A distribution's parameters for each of [S, N] observations; what they are is the actor's own business."""


class Actor(FlatModule):
    """A network whose parameters lie, with those that it doesn't hold itself, in one flat tensor."""

    network: MLP

    def flatten(self) -> None:
        """The network's own flat tensor stays a view of the parameters: it is the last part of this one's."""
        super().flatten()
        self.network.flat = self.flat[-self.network.flat.numel() :]


class StochasticActor(Protocol):
    """What is common to policies with a density. `encode` makes logged actions what `log_prob` takes."""

    network: MLP

    def distribution(
        self, observation: Tensor, mask: Tensor | None = None, dropout_noise: Tensor | None = None
    ) -> Distribution:
        """For flat observations [S, N, D], masks bool [S, N, A], draws as `MLP.forward` takes them."""

    def encode(self, action: Tensor) -> Tensor:
        """Actions as `act` gives them, [S, N, …], as `log_prob` takes them."""

    def log_prob(self, distribution: Distribution, encoded: Tensor) -> Tensor:
        """[S, N], in nats."""

    def entropy(self, distribution: Distribution, noise: Tensor | None = None) -> Tensor:
        """[S, N] or [S, 1], in nats; estimated from draws [S, N, A] where it has no closed form."""

    def divergence(self, old: Distribution, new: Distribution) -> Tensor:
        """KL(old ‖ new), [S, N], in nats."""

    def mode(self, distribution: Distribution) -> Tensor:
        """The action to take greedily."""

    def sample(self, distribution: Distribution, noise: Tensor) -> Tensor:
        """An action drawn with standard normal draws [S, N, A]."""


class GaussianActor(Actor):
    """u ~ N(mean(s), diag exp(2 log_std)), the spread being one parameter for all states; a = u, or tanh(u).

    Args:
        network: gives the mean.
        log_std: at the start.
        squashed: whether a = tanh(u). Log-probabilities are then those of u: the squashing's derivative is the same
            for every policy, and drops out of ratios and divergences.
        bounded: whether greedy actions are clipped to [-1, 1].
    """

    def __init__(self, network: MLP, actions: int, log_std: float, *, squashed: bool, bounded: bool) -> None:
        super().__init__()
        self.network, self.squashed, self.bounded = network, squashed, bounded
        self.log_std = nn.Parameter(torch.full((network.seeds, 1, actions), log_std))
        self.flatten()

    def distribution(
        self, observation: Tensor, mask: Tensor | None = None, dropout_noise: Tensor | None = None
    ) -> Distribution:
        """Mean [S, N, A] and log standard deviation [S, 1, A]."""
        return self.network(observation, dropout_noise=dropout_noise), self.log_std

    def encode(self, action: Tensor) -> Tensor:
        if not self.squashed:
            return action
        return action.clamp(SQUASH_MARGIN - 1.0, 1.0 - SQUASH_MARGIN).atanh()

    def log_prob(self, distribution: Distribution, encoded: Tensor) -> Tensor:
        mean, log_std = distribution
        return gaussian_log_prob(mean, log_std, encoded)

    def entropy(self, distribution: Distribution, noise: Tensor | None = None) -> Tensor:
        mean, log_std = distribution
        if self.squashed and noise is not None:
            return squashed_gaussian_entropy(mean, log_std, noise)
        return gaussian_entropy(log_std)

    def divergence(self, old: Distribution, new: Distribution) -> Tensor:
        (mean, log_std), (new_mean, new_log_std) = old, new
        squares = (2.0 * log_std).exp() + (mean - new_mean).square()
        return (new_log_std - log_std + 0.5 * squares * (-2.0 * new_log_std).exp() - 0.5).sum(dim=-1)

    def mode(self, distribution: Distribution) -> Tensor:
        mean = distribution[0]
        if self.squashed:
            return mean.tanh()
        return mean.clamp(-1.0, 1.0) if self.bounded else mean

    def sample(self, distribution: Distribution, noise: Tensor) -> Tensor:
        """Not clipped to any bounds: the density is that of what was drawn."""
        mean, log_std = distribution
        drawn = mean + log_std.exp() * noise
        return drawn.tanh() if self.squashed else drawn


class CategoricalActor(Actor):
    """Independent choices, each by the softmax of its logits.

    Args:
        network: gives the logits, joined.
        choices: how many actions each choice has.
        first: the number of each choice's first action.
        single: whether actions are [S, N] rather than one column per choice.
    """

    def __init__(self, network: MLP, choices: Sequence[int], first: Sequence[int], *, single: bool) -> None:
        super().__init__()
        self.network, self.single = network, single
        self.choices, self.first = tuple(choices), tuple(first)
        self.flatten()

    def distribution(
        self, observation: Tensor, mask: Tensor | None = None, dropout_noise: Tensor | None = None
    ) -> Distribution:
        """Log-probabilities [S, N, K_i] of each choice."""
        logits = self.network(observation, dropout_noise=dropout_noise)
        if mask is not None:
            logits = logits.masked_fill(~mask, FORBIDDEN)
        return tuple(split_categoricals(logits, self.choices))

    def encode(self, action: Tensor) -> Tensor:
        columns = action.unsqueeze(-1) if self.single else action
        return self._shifted(columns, -1)

    def log_prob(self, distribution: Distribution, encoded: Tensor) -> Tensor:
        return categorical_log_prob(list(distribution), encoded)

    def entropy(self, distribution: Distribution, noise: Tensor | None = None) -> Tensor:
        return categorical_entropy(list(distribution))

    def divergence(self, old: Distribution, new: Distribution) -> Tensor:
        parts = [(p.exp() * (p - q)).sum(dim=-1) for p, q in zip(old, new, strict=True)]
        return torch.stack(parts).sum(dim=0)

    def mode(self, distribution: Distribution) -> Tensor:
        return self._numbers(categorical_mode(list(distribution)))

    def sample(self, distribution: Distribution, noise: Tensor) -> Tensor:
        return self._numbers(categorical_sample(list(distribution), noise))

    def _numbers(self, choice: Tensor) -> Tensor:
        """The environment's own numbers."""
        numbers = self._shifted(choice, 1)
        return numbers.squeeze(-1) if self.single else numbers

    def _shifted(self, columns: Tensor, sign: int) -> Tensor:
        if not any(self.first):
            return columns
        shifted = [column + sign * first for column, first in zip(columns.unbind(-1), self.first, strict=True)]
        return torch.stack(shifted, dim=-1)
