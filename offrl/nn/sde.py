"""Policies that explore by a random function of the state (gSDE; Raffin et al., 2021), https://arxiv.org/abs/2005.05719."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offrl.nn.flat import FlatModule
from offrl.nn.mlp import MLP, Recorded, record_graph

LEAST_VARIANCE = 1e-6
"""Added to the variance, which is zero in a state that activates no feature."""


class StateDependentGaussian(FlatModule):
    """u = μ(s) + z(s) E, with z(s) the last hidden layer of μ's network and E_ij = σ_ij ε_ij, ε standard normal.

    One ε gives a deterministic policy; over all of them, u ~ N(μ(s), diag Σ_i z_i(s)² σ_ij²).

    Args:
        mean: μ, a network without ensemble, layer normalization or dropout, and at least one hidden layer.
        initial_log_std: log σ_ij at the start.
    """

    def __init__(self, mean: MLP, initial_log_std: float) -> None:
        super().__init__()
        self.mean = mean
        actions = list(mean.parameters())[-1].shape[-1]
        self.log_std = nn.Parameter(torch.full((mean.seeds, mean.hidden[-1], actions), initial_log_std))
        self.flatten()

    def forward(self, observation: Tensor) -> Tensor:
        """Mean and log standard deviation of u, [S, B, 2A], from [S, B, inputs]."""
        features = self._features(observation)
        variance = torch.bmm(features.square(), (2.0 * self.log_std).exp())
        return torch.cat([self._mean(features), 0.5 * (variance + LEAST_VARIANCE).log()], dim=-1)

    def record(self, observation: Tensor) -> Recorded:
        """`forward`, for gradients that start from a hand-made one by the output."""
        return record_graph(self, observation)

    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """u, [S, B, A], for the matrices ε, [S, F, A], that are held for a while."""
        features = self._features(observation)
        return self._mean(features) + torch.bmm(features, self.log_std.exp() * noise)

    def _features(self, x: Tensor) -> Tensor:
        for layer in self.mean.layers[:-1]:
            x = self.mean.activation(layer(x, 1))
        return x

    def _mean(self, features: Tensor) -> Tensor:
        mean: Tensor = self.mean.layers[-1](features, 1)
        return mean
