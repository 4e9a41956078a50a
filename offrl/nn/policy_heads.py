"""Stochastic policies with a density: a network, what turns its output into a distribution, and that one's formulas.

Derivatives are written down rather than left to autograd, whose bookkeeping takes small networks longer than the
arithmetic. They are sums over the observations, each with a weight of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
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
    standard_log_prob,
)
from offrl.nn.flat import FlatModule
from offrl.nn.mlp import MLP
from offrl.ops.numpy_or_torch import Array, at_hand, handed_back, namespace

Distribution = tuple[Array, ...]
"""A distribution's parameters for each of [S, N] observations; what they are is the actor's own business."""

Slopes = tuple[Array, ...]
"""Derivatives: first by the network's output, [S, N, outputs], then by the actor's parameters that are not its own."""

SlopesOf = Callable[[Array], Slopes]
"""Makes them of each observation's weight, [S, N]."""


class StochasticActor(Protocol):
    """What policies with a density have in common. Weights and divergences are [S, N], entropies [S, N] or [S, 1]."""

    network: MLP

    def distribution(self, output: Array, mask: Array | None = None) -> Distribution:
        """For the network's output [S, N, outputs], and the actions that are allowed, bool [S, N, A]."""

    def encode(self, action: Tensor) -> Tensor:
        """Actions as they are logged, [S, N, …], as `log_prob` takes them."""

    def log_prob(self, distribution: Distribution, encoded: Array) -> Array:
        """[S, N], in nats."""

    def log_prob_and_slopes(self, distribution: Distribution, encoded: Array) -> tuple[Array, SlopesOf]:
        """`log_prob`, and the slopes of Σ weight · log π for weights to come, which share its intermediate results."""

    def entropy(self, distribution: Distribution, noise: Array | None = None) -> Tensor:
        """In nats; a squashed policy's is estimated from draws [S, N, A], and without them is that before squashing."""

    def entropy_slopes(self, distribution: Distribution, noise: Array | None, weight: Array) -> Slopes:
        """Of Σ weight · entropy."""

    def divergence(self, old: Distribution, new: Distribution) -> Tensor:
        """KL(old ‖ new), in nats."""

    def divergence_slopes(self, old: Distribution, new: Distribution, weight: Array) -> Slopes:
        """Of Σ weight · KL(old ‖ new), by the new one's parameters."""

    def act(self, output: Array, noise: Array = None, mask: Array | None = None) -> Array:
        """The action to take greedily, or one drawn with standard normal draws [S, N, A], from the network's output."""


class GaussianActor(FlatModule):
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

    def rehomed(self) -> None:
        """The spread as an array, where it can be one."""
        self._spread: Array = at_hand(self.log_std.detach())

    def distribution(self, output: Array, mask: Array | None = None) -> Distribution:
        """Mean [S, N, A] and log standard deviation [S, 1, A]."""
        return output, self._spread if isinstance(output, np.ndarray) else self.log_std

    def encode(self, action: Tensor) -> Tensor:
        if not self.squashed:
            return action
        return action.clamp(SQUASH_MARGIN - 1.0, 1.0 - SQUASH_MARGIN).atanh()

    def log_prob(self, distribution: Distribution, encoded: Array) -> Array:
        mean, log_std = distribution
        return gaussian_log_prob(mean, log_std, encoded)

    def log_prob_and_slopes(self, distribution: Distribution, encoded: Array) -> tuple[Array, SlopesOf]:
        """z / std by the mean and z² − 1 by log_std, with z = (u − mean) / std."""
        mean, log_std = distribution
        inverse_std = namespace(log_std).exp(-log_std)
        z = (encoded - mean) * inverse_std

        def slopes(weight: Array) -> Slopes:
            weight = weight[..., None]
            weighted = weight * z
            return weighted * inverse_std, (weighted * z - weight).sum(1)[:, None]

        return standard_log_prob(z, log_std), slopes

    def entropy(self, distribution: Distribution, noise: Array | None = None) -> Tensor:
        mean, log_std = distribution
        if self.squashed and noise is not None:
            return squashed_gaussian_entropy(mean, log_std, noise)
        return gaussian_entropy(log_std)

    def entropy_slopes(self, distribution: Distribution, noise: Array | None, weight: Array) -> Slopes:
        """1 by log_std; squashed, u = mean + std · noise adds log(1 − tanh² u), whose derivative by u is −2 tanh u."""
        (mean, log_std), xp = distribution, namespace(distribution[0])
        weight = xp.broadcast_to(weight[..., None], mean.shape)
        if not self.squashed or noise is None:
            return xp.zeros_like(mean), weight.sum(1)[:, None]
        deviation = xp.exp(log_std) * noise
        by_mean = -2.0 * weight * xp.tanh(mean + deviation)
        return by_mean, (weight + by_mean * deviation).sum(1)[:, None]

    def divergence(self, old: Distribution, new: Distribution) -> Tensor:
        (old_mean, old_log_std), (mean, log_std) = old, new
        squares = (2.0 * old_log_std).exp() + (mean - old_mean).square()
        terms: Tensor = log_std - old_log_std + 0.5 * squares * (-2.0 * log_std).exp() - 0.5
        return terms.sum(dim=-1)

    def divergence_slopes(self, old: Distribution, new: Distribution, weight: Array) -> Slopes:
        """Δ / var by the mean and 1 − (var_old + Δ²) / var by log_std, with Δ = mean − mean_old."""
        (old_mean, old_log_std), (mean, log_std), weight = old, new, weight[..., None]
        xp = namespace(mean)
        precision, shift = xp.exp(-2.0 * log_std), mean - old_mean
        squares = xp.exp(2.0 * old_log_std) + shift * shift
        return weight * shift * precision, (weight * (1.0 - squares * precision)).sum(1)[:, None]

    def act(self, output: Array, noise: Array = None, mask: Array | None = None) -> Array:
        """Samples are not clipped to any bounds: the density is that of what was drawn."""
        action = at_hand(output)
        xp = namespace(action)
        if noise is not None:
            action = action + xp.exp(self._spread if xp is np else self.log_std) * at_hand(noise)
        if self.squashed:
            return xp.tanh(action)
        return action.clip(-1.0, 1.0) if self.bounded and noise is None else action


class CategoricalActor(FlatModule):
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

    def distribution(self, output: Array, mask: Array | None = None) -> Distribution:
        """Log-probabilities [S, N, K_i] of each choice, as tensors."""
        return tuple(split_categoricals(handed_back(output), self.choices, handed_back(mask)))

    def encode(self, action: Tensor) -> Tensor:
        columns = action.unsqueeze(-1) if self.single else action
        return self._shifted(columns, -1)

    def log_prob(self, distribution: Distribution, encoded: Tensor) -> Tensor:
        return categorical_log_prob(list(distribution), encoded)

    def log_prob_and_slopes(self, distribution: Distribution, encoded: Array) -> tuple[Array, SlopesOf]:
        """1 − p by the logit of what was chosen, −p by the others. No logit of a forbidden action matters: p is 0."""
        choice = handed_back(encoded)

        def slopes(weights: Array) -> Slopes:
            weight, columns = handed_back(weights).unsqueeze(-1), choice.unsqueeze(-1).unbind(dim=-2)
            parts = [
                (-weight * log_p.exp()).scatter_add_(-1, column, weight)
                for log_p, column in zip(distribution, columns, strict=True)
            ]
            return (torch.cat(parts, dim=-1),)

        return handed_back(self.log_prob(distribution, choice), to=encoded), slopes

    def entropy(self, distribution: Distribution, noise: Tensor | None = None) -> Tensor:
        return categorical_entropy(list(distribution))

    def entropy_slopes(self, distribution: Distribution, noise: Array | None, weight: Array) -> Slopes:
        """−p (log p + H) by each logit."""
        parts, each = [], handed_back(weight).unsqueeze(-1)
        for log_p in distribution:
            p = log_p.exp()
            entropy = -(p * log_p).sum(dim=-1, keepdim=True)
            parts.append(-each * p * (log_p + entropy))
        return (torch.cat(parts, dim=-1),)

    def divergence(self, old: Distribution, new: Distribution) -> Tensor:
        parts = [(p.exp() * (p - q)).sum(dim=-1) for p, q in zip(old, new, strict=True)]
        return torch.stack(parts).sum(dim=0)

    def divergence_slopes(self, old: Distribution, new: Distribution, weight: Array) -> Slopes:
        """p − p_old by each logit."""
        p, old_p = (torch.cat([handed_back(part) for part in parts], dim=-1).exp() for parts in (new, old))
        return (handed_back(weight).unsqueeze(-1) * (p - old_p),)

    def act(self, output: Array, noise: Array = None, mask: Array | None = None) -> Array:
        log_probs = list(self.distribution(output, mask))
        choice = categorical_mode(log_probs) if noise is None else categorical_sample(log_probs, handed_back(noise))
        return self._numbers(choice)

    def _numbers(self, choice: Tensor) -> Tensor:
        """The environment's own numbers."""
        numbers = self._shifted(choice, 1)
        return numbers.squeeze(-1) if self.single else numbers

    def _shifted(self, columns: Tensor, sign: int) -> Tensor:
        if not any(self.first):
            return columns
        shifted = [column + sign * first for column, first in zip(columns.unbind(-1), self.first, strict=True)]
        return torch.stack(shifted, dim=-1)
