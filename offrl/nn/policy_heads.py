"""Stochastic policies with a density: a network, what turns its output into a distribution, and that one's formulas."""

from __future__ import annotations

from typing import Protocol

import gymnasium as gym
import torch
from torch import Tensor, nn

from offrl.errors import RecipeError
from offrl.nn.distributions import (
    SQUASH_MARGIN,
    categorical_entropy,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
    gaussian_entropy,
    gaussian_log_prob,
    log_tanh_derivative,
    split_categoricals,
    squashed_gaussian_entropy,
)
from offrl.nn.flat import FlatModule
from offrl.nn.mlp import MLP
from offrl.types import Spec

Distribution = tuple[Tensor, ...]
"""A distribution's parameters for each of [S, N] observations; what they are is the actor's own business."""


class StochasticActor(Protocol):
    """What policies with a density have in common. Divergences are [S, N], entropies [S, N] or [S, 1]."""

    network: MLP

    def distribution(self, output: Tensor, mask: Tensor | None = None) -> Distribution:
        """For the network's output [S, N, outputs], and the actions that are allowed, bool [S, N, A]."""

    def encode(self, action: Tensor) -> Tensor:
        """Actions as they are logged, [S, N, …], as `log_prob` takes them."""

    def log_prob(self, distribution: Distribution, encoded: Tensor) -> Tensor:
        """[S, N], in nats; of a squashed policy's actions before the squashing."""

    def log_density(self, distribution: Distribution, action: Tensor) -> Tensor:
        """[S, N], in nats, of actions as they are logged."""

    def entropy(self, distribution: Distribution, noise: Tensor | None = None) -> Tensor:
        """In nats; a squashed policy's is estimated from draws [S, N, A], and without them is that before squashing."""

    def divergence(self, old: Distribution, new: Distribution) -> Tensor:
        """KL(old ‖ new), in nats."""

    def act(self, output: Tensor, noise: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The action to take greedily, or one drawn with standard normal draws [S, N, A], from the network's output."""


class GaussianActor(FlatModule):
    """u ~ N(mean(s), diag exp(2 log_std)), the spread being one parameter for all states; a = u, or tanh(u).

    Args:
        network: gives the mean.
        actions: A, components of an action.
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

    def distribution(self, output: Tensor, mask: Tensor | None = None) -> Distribution:
        """Mean [S, N, A] and log standard deviation [S, 1, A]."""
        return output, self.log_std

    def encode(self, action: Tensor) -> Tensor:
        if not self.squashed:
            return action
        return action.clamp(SQUASH_MARGIN - 1.0, 1.0 - SQUASH_MARGIN).atanh()

    def log_prob(self, distribution: Distribution, encoded: Tensor) -> Tensor:
        mean, log_std = distribution
        log_prob: Tensor = gaussian_log_prob(mean, log_std, encoded)
        return log_prob

    def log_density(self, distribution: Distribution, action: Tensor) -> Tensor:
        encoded = self.encode(action)
        log_prob = self.log_prob(distribution, encoded)
        return log_prob - log_tanh_derivative(encoded).sum(dim=-1) if self.squashed else log_prob

    def entropy(self, distribution: Distribution, noise: Tensor | None = None) -> Tensor:
        mean, log_std = distribution
        if self.squashed and noise is not None:
            return squashed_gaussian_entropy(mean, log_std, noise)
        return gaussian_entropy(log_std)

    def divergence(self, old: Distribution, new: Distribution) -> Tensor:
        (old_mean, old_log_std), (mean, log_std) = old, new
        squares = (2.0 * old_log_std).exp() + (mean - old_mean).square()
        terms: Tensor = log_std - old_log_std + 0.5 * squares * (-2.0 * log_std).exp() - 0.5
        return terms.sum(dim=-1)

    def act(self, output: Tensor, noise: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Samples are not clipped to any bounds: the density is that of what was drawn."""
        action = output if noise is None else output + self.log_std.exp() * noise
        if self.squashed:
            return action.tanh()
        return action.clamp(-1.0, 1.0) if self.bounded and noise is None else action


class CategoricalActor(FlatModule):
    """Independent choices, each by the softmax of its logits.

    Args:
        network: gives the logits, joined.
        choices: how many actions each choice has.
        first: the number of each choice's first action.
        single: whether actions are [S, N] rather than one column per choice.
    """

    def __init__(self, network: MLP, choices: tuple[int, ...], first: tuple[int, ...], *, single: bool) -> None:
        super().__init__()
        self.network, self.choices, self.first, self.single = network, choices, first, single
        self.flatten()

    def distribution(self, output: Tensor, mask: Tensor | None = None) -> Distribution:
        """Log-probabilities [S, N, K_i] of each choice."""
        return tuple(split_categoricals(output, self.choices, mask))

    def encode(self, action: Tensor) -> Tensor:
        columns = action.unsqueeze(-1) if self.single else action
        return self._shifted(columns, -1)

    def log_prob(self, distribution: Distribution, encoded: Tensor) -> Tensor:
        return categorical_log_prob(list(distribution), encoded)

    def log_density(self, distribution: Distribution, action: Tensor) -> Tensor:
        return self.log_prob(distribution, self.encode(action))

    def entropy(self, distribution: Distribution, noise: Tensor | None = None) -> Tensor:
        return categorical_entropy(list(distribution))

    def divergence(self, old: Distribution, new: Distribution) -> Tensor:
        parts = [(p.exp() * (p - q)).sum(dim=-1) for p, q in zip(old, new, strict=True)]
        return torch.stack(parts).sum(dim=0)

    def act(self, output: Tensor, noise: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The environment's own numbers."""
        log_probs = list(self.distribution(output, mask))
        choice = categorical_mode(log_probs) if noise is None else categorical_sample(log_probs, noise)
        numbers = self._shifted(choice, 1)
        return numbers.squeeze(-1) if self.single else numbers

    def _shifted(self, columns: Tensor, sign: int) -> Tensor:
        if not any(self.first):
            return columns
        shifted = [column + sign * first for column, first in zip(columns.unbind(-1), self.first, strict=True)]
        return torch.stack(shifted, dim=-1)


def actor_of(
    kind: str, network: MLP, spec: Spec, choices: tuple[tuple[int, ...], tuple[int, ...]], log_std: float
) -> GaussianActor | CategoricalActor:
    """The policy of a kind that fits the action space.

    Args:
        kind: "gaussian", "squashed_gaussian" or "categorical".
        network: gives a Gaussian's mean, or logits.
        spec: the spaces.
        choices: how many actions each choice of a categorical policy has, and the number of its first one.
        log_std: a Gaussian's, at the start.
    """
    if kind == "categorical":
        return CategoricalActor(network, *choices, single=isinstance(spec.action_space, gym.spaces.Discrete))
    squashed, bounded = kind == "squashed_gaussian", is_bounded(spec)
    return GaussianActor(network, spec.action_dim, log_std, squashed=squashed, bounded=bounded)


def is_bounded(spec: Spec) -> bool:
    """Whether actions are vectors with finite bounds."""
    space = spec.action_space
    return isinstance(space, gym.spaces.Box) and space.is_bounded("both")


def check_adoptable(kind: str, other: str, *, bounded: bool) -> None:
    """Raise `RecipeError` unless a network's greedy actions are the same under two kinds of policies.

    Args:
        kind: of the policy that takes the network over, which has a density.
        other: of that which it was trained for.
        bounded: whether actions have finite bounds.
    """
    fits = {
        "gaussian": ("gaussian",) if bounded else ("gaussian", "deterministic"),
        "squashed_gaussian": ("squashed_gaussian", "deterministic"),
        "categorical": ("categorical",),
    }
    if other not in fits[kind]:
        able = next((name for name, kinds in fits.items() if other in kinds), None)
        raise RecipeError(f"a {kind} policy can't start from a {other} one", hint=f"set agent.policy={able}")
