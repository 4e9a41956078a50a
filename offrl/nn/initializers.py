"""Orthogonal initial weights (Saxe et al., 2014), https://arxiv.org/abs/1312.6120."""

from __future__ import annotations

import torch
from torch import nn

from offrl.nn.linear import StackedLinear
from offrl.nn.mlp import MLP


@torch.no_grad()
def make_orthogonal(network: MLP, generators: list[torch.Generator], *, hidden_gain: float, output_gain: float) -> MLP:
    """Replace each member's weights by an orthogonal matrix times a gain, and its biases by zero.

    Args:
        network: on the CPU, as the generators are.
        generators: one per seed; a seed's weights don't depend on the others.
        hidden_gain, output_gain: of the hidden layers and of the last one.
    """
    layers = [layer for layer in network.layers if isinstance(layer, StackedLinear)]
    for layer in layers:
        gain = output_gain if layer is layers[-1] else hidden_gain
        for seed, generator in enumerate(generators):
            for weight in layer.weight[seed]:
                nn.init.orthogonal_(weight, gain, generator)
        layer.bias.zero_()
    return network
