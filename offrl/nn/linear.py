"""Affine layers and layer normalization for many networks at once: one batched operation for all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offrl.nn.flat import HooklessModule, uniform_per_seed


class StackedLinear(HooklessModule):
    """y = x Wᵀ + b for S seeds of E members each.

    W is [S, E, outputs, inputs], b [S, E, 1, outputs]; both start as `torch.nn.Linear`'s do.
    """

    def __init__(self, inputs: int, outputs: int, ensemble: int, generators: list[torch.Generator]) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(uniform_per_seed((ensemble, outputs, inputs), bound, generators))
        self.bias = nn.Parameter(uniform_per_seed((ensemble, 1, outputs), bound, generators))

    def forward(self, x: Tensor, members: int) -> Tensor:
        """[N, B, inputs] to [N, B, outputs], N = S · members; the members beyond the first ones are left out."""
        return torch.baddbmm(merged(self.bias, members), x, merged(self.weight, members).mT)


class StackedLayerNorm(HooklessModule):
    """Layer normalization (Ba et al., 2016) with a gain and offset of its own for each stacked network."""

    def __init__(self, features: int, ensemble: int, seeds: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(seeds, ensemble, 1, features))
        self.offset = nn.Parameter(torch.zeros(seeds, ensemble, 1, features))

    def forward(self, x: Tensor, members: int) -> Tensor:
        """[N, B, features], N = S · members, of the same shape."""
        normal = nn.functional.layer_norm(x, x.shape[-1:])
        return torch.addcmul(merged(self.offset, members), normal, merged(self.gain, members))


def merged(parameter: Tensor, members: int) -> Tensor:
    """A parameter [S, E, …] as [S · members, …], of each seed's first members.

    All of them are left as they are, since a slice's derivative fills a whole copy.
    """
    first = parameter if members == parameter.shape[1] else parameter[:, :members]
    return first.flatten(0, 1)
