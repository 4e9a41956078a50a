"""Policies that explore by a random function of the state (gSDE; Raffin et al., 2021), https://arxiv.org/abs/2005.05719."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offrl.nn.distributions import LOG_STD_MAX, LOG_STD_MIN
from offrl.nn.flat import FlatModule
from offrl.nn.mlp import MLP

LEAST_VARIANCE = 1e-6
"""Added to the variance, which is zero in a state that activates no feature."""

NO_VARIANCE = 1e-12
"""Up to this one, a state counts as one without."""

Carry = tuple[Tensor, ...]
"""What is held for each episode: ε, [S, B, F, A], and the steps that explored, int64 [S, B]; nothing elsewhere."""


class StateDependentGaussian(FlatModule):
    """u = μ(s) + z(s) E, with z(s) the last hidden layer of μ's network and E_ij = σ_ij ε_ij, ε standard normal.

    One ε gives a deterministic policy; over all of them, u ~ N(μ(s), diag Σ_i z_i(s)² σ_ij²). Densities clamp the
    standard deviation of u, see `offrl.nn.distributions.split_gaussian`; so what explores is scaled to the clamped one.

    Args:
        mean: μ, a network without ensemble, layer normalization or dropout, and at least one hidden layer.
        initial_log_std: log σ_ij at the start.
    """

    def __init__(self, mean: MLP, initial_log_std: float) -> None:
        super().__init__()
        self.mean = mean
        actions = mean.own_parameters[-1].shape[-1]
        self.log_std = nn.Parameter(torch.full((mean.seeds, mean.hidden[-1], actions), initial_log_std))
        self.flatten()

    def forward(self, observation: Tensor) -> Tensor:
        """Mean and log standard deviation of u, [S, B, 2A], from [S, B, inputs]."""
        features = self.mean.features(observation)
        return torch.cat([self._mean(features), 0.5 * (self._variance(features) + LEAST_VARIANCE).log()], dim=-1)

    def initial_carry(self, count: int) -> Carry:
        """Where so many episodes begin: no matrix yet, and no step."""
        held = self.log_std.new_zeros(len(self.log_std), count, *self.log_std.shape[1:])
        return held, torch.zeros(held.shape[:2], dtype=torch.int64, device=held.device)

    def explore(self, observation: Tensor, carry: Carry, noise: Tensor, every: int) -> tuple[Tensor, Carry]:
        """u, [S, B, A], for each observation's own matrix ε, which is redrawn every so many steps of its episode.

        Args:
            observation: [S, B, inputs].
            carry: of each observation's episode.
            noise: standard normal draws [S, B, F, A]; those are held whose turn it is.
            every: steps between the draws.
        """
        held, steps = carry
        held = torch.where((steps % every == 0)[..., None, None], noise, held)
        features = self.mean.features(observation)
        variance = self._variance(features)
        std = (0.5 * (variance + LEAST_VARIANCE).log()).clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        deviation = (features.unsqueeze(-2) @ (self.log_std.exp().unsqueeze(1) * held)).squeeze(-2)
        # A state that activates no feature has no direction to explore in.
        unit = deviation * variance.clamp(min=NO_VARIANCE).rsqrt()
        return self._mean(features) + std * unit, (held, steps + 1)

    def _variance(self, features: Tensor) -> Tensor:
        """Of z(s) E over all ε, [S, B, A], from features [S, B, F]."""
        return torch.bmm(features.square(), (2.0 * self.log_std).exp())

    def _mean(self, features: Tensor) -> Tensor:
        mean: Tensor = self.mean.layers[-1](features, 1)
        return mean
