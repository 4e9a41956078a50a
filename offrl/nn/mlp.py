"""Stacked multilayer perceptrons: S networks, or S ensembles of E, in one batched matrix product a layer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from statistics import NormalDist

import torch
from torch import Tensor, nn

from offrl.nn.flat import FlatModule
from offrl.nn.linear import StackedLayerNorm, StackedLinear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}


class MLP(FlatModule):
    """S multilayer perceptrons, or S ensembles of E of them.

    Args:
        inputs: width of the input.
        outputs: width of the output; the last layer is linear.
        hidden: widths of the hidden layers.
        generators: one per seed; seed s's weights are drawn from the s-th and don't depend on S.
        ensemble: members per seed (twin critics: 2), or None for a single network without that axis.
        activation: a name in `ACTIVATIONS`.
        layer_norm: normalize each hidden layer before its activation.
        dropout: chance of zeroing a hidden unit; the masks come from the draws handed to `forward`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        generators: list[torch.Generator],
        *,
        ensemble: int | None = None,
        activation: str = "relu",
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.seeds, self.ensemble, self.hidden = len(generators), ensemble, tuple(hidden)
        self.activation, self.keep = ACTIVATIONS[activation], 1.0 - dropout
        members = ensemble or 1
        widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(
            StackedLinear(fan_in, fan_out, members, generators) for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(StackedLayerNorm(width, members, self.seeds) for width in hidden if layer_norm)
        self.flatten()

    def forward(self, x: Tensor, *, members: int | None = None, dropout_noise: Tensor | None = None) -> Tensor:
        """Apply the networks.

        Args:
            x: [S, B, inputs], the same for every member of an ensemble; or one for each, [S, members, B, inputs].
            members: how many of the ensemble to apply, the first ones; None for all.
            dropout_noise: standard normal draws [S, B, sum(hidden)], or [S, members, B, sum(hidden)] with an ensemble;
                None leaves dropout off.

        Returns:
            [S, B, outputs], or [S, members, B, outputs] with an ensemble.
        """
        count = members or self.ensemble or 1
        features = self.features(x, members=members, dropout_noise=dropout_noise)
        output: Tensor = self.layers[-1](features, count)
        return output.unflatten(0, (self.seeds, count)) if self.ensemble else output

    def features(self, x: Tensor, *, members: int | None = None, dropout_noise: Tensor | None = None) -> Tensor:
        """What `forward` hands to the last layer, [S · members, B, …]; the input itself without a hidden layer."""
        count = members or self.ensemble or 1
        if x.dim() == 4:
            x = x.flatten(0, 1)
        elif count > 1:
            x = x.unsqueeze(1).expand(-1, count, -1, -1).flatten(0, 1)
        if dropout_noise is not None and self.ensemble:
            dropout_noise = dropout_noise.flatten(0, 1)
        masks = () if dropout_noise is None else dropout_masks(dropout_noise, self.keep, self.hidden)
        for depth in range(len(self.hidden)):
            x = self.layers[depth](x, count)
            if self.norms:
                x = self.norms[depth](x, count)
            x = self.activation(x)
            if masks:
                x = x * masks[depth]
        return x


def dropout_masks(noise: Tensor | None, keep: float, hidden: Sequence[int]) -> Sequence[Tensor]:
    """Factors on the units of each hidden layer, from draws [..., sum(hidden)]; none at all where nothing is dropped.

    A unit is kept where its draw falls under the `keep` quantile of the normal, and scaled up to stay unbiased.
    """
    if noise is None or keep == 1.0:
        return ()
    mask = (noise < NormalDist().inv_cdf(keep)).to(noise.dtype) / keep
    return torch.split(mask, list(hidden), dim=-1)
