"""Noisy networks (Fortunato et al., 2018), https://arxiv.org/abs/1706.10295: exploration by noise on the weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from offrl.nn.flat import FlatModule, uniform_per_seed
from offrl.nn.linear import StackedLayerNorm
from offrl.nn.mlp import ACTIVATIONS, dropout_masks

INITIAL_SPREAD = 0.5
"""σ₀ of the paper: spreads start at σ₀ over the square root of the layer's inputs."""


class NoisyLinear(nn.Module):
    """y = (μ + σ ⊙ ε) x + μ' + σ' ⊙ ε', with factorized noise: ε = f(ε_out) f(ε_in)ᵀ and ε' = f(ε_out).

    Here f(e) = sgn(e) √|e|, of standard normal draws. The noisy weights are never made:
    y = μ x + μ' + f(ε_out) ⊙ (σ (f(ε_in) ⊙ x) + σ').
    """

    def __init__(self, inputs: int, outputs: int, generators: list[torch.Generator]) -> None:
        super().__init__()
        self.inputs, self.outputs, seeds = inputs, outputs, len(generators)
        bound, spread = inputs**-0.5, INITIAL_SPREAD * inputs**-0.5
        self.weight = nn.Parameter(uniform_per_seed((outputs, inputs), bound, generators))
        self.bias = nn.Parameter(uniform_per_seed((1, outputs), bound, generators))
        self.weight_spread = nn.Parameter(torch.full((seeds, outputs, inputs), spread))
        self.bias_spread = nn.Parameter(torch.full((seeds, 1, outputs), spread))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """[S, B, inputs] to [S, B, outputs], with f(ε) [S, B, inputs + outputs], or one for all of a batch; or none."""
        mean = torch.baddbmm(self.bias, x, self.weight.mT)
        if noise is None:
            return mean
        on_inputs, on_outputs = noise.split([self.inputs, self.outputs], dim=-1)
        spread = torch.baddbmm(self.bias_spread, x * on_inputs, self.weight_spread.mT)
        return torch.addcmul(mean, spread, on_outputs)


class NoisyMLP(FlatModule):
    """S multilayer perceptrons of noisy layers; see `offrl.nn.MLP` for the arguments.

    Attributes:
        noise_width: how many draws one sample of the network's noise takes.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        generators: list[torch.Generator],
        *,
        activation: str = "relu",
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.hidden, self.activation, self.keep = tuple(hidden), ACTIVATIONS[activation], 1.0 - dropout
        widths = list(itertools.pairwise([inputs, *hidden, outputs]))
        self.layers = nn.ModuleList(NoisyLinear(fan_in, fan_out, generators) for fan_in, fan_out in widths)
        self.norms = nn.ModuleList(StackedLayerNorm(width, 1, len(generators)) for width in hidden if layer_norm)
        self.parts = [fan_in + fan_out for fan_in, fan_out in widths]
        self.noise_width = sum(self.parts)
        self.flatten()

    def forward(self, x: Tensor, *, noise: Tensor | None = None, dropout_noise: Tensor | None = None) -> Tensor:
        """Apply the networks.

        Args:
            x: [S, B, inputs].
            noise: standard normal draws [S, B, noise_width], or [S, 1, noise_width] for one sample of the weights for
                all of a batch; None takes the weights' means.
            dropout_noise: standard normal draws [S, B, sum(hidden)]; None leaves dropout off.

        Returns:
            [S, B, outputs].
        """
        noises: Sequence[Tensor | None] = [None] * len(self.layers)
        if noise is not None:
            noises = (noise.sign() * noise.abs().sqrt()).split(self.parts, dim=-1)
        masks = dropout_masks(dropout_noise, self.keep, self.hidden)
        for depth, layer in enumerate(self.layers[:-1]):
            x = layer(x, noises[depth])
            if self.norms:
                x = self.norms[depth](x, 1)
            x = self.activation(x)
            if masks:
                x = x * masks[depth]
        output: Tensor = self.layers[-1](x, noises[-1])
        return output
