"""Stacked recurrent networks: LSTM (Hochreiter & Schmidhuber, 1997) and GRU (Cho et al., 2014) layers of S seeds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from offrl.nn.flat import FlatModule, HooklessModule, uniform_per_seed
from offrl.nn.linear import StackedLinear

Memory = dict[str, Tensor]
"""What a network remembers: "hidden", and "cell" of an LSTM, each [S, B, layers, width]."""


class Recurrent(FlatModule):
    """S networks of recurrent layers and a linear output, each step of which sees all that came before in its row.

    Unlike `torch.nn.LSTM` under `offrl.nn.stacked`, all seeds' steps are one batched product, and can be traced.

    Args:
        cell: "lstm" or "gru".
        inputs: width of the input.
        outputs: width of the output.
        width: of each layer.
        layers: how many.
        generators: one per seed; seed s's weights are drawn from the s-th and don't depend on S.
    """

    def __init__(
        self, cell: str, inputs: int, outputs: int, width: int, layers: int, generators: list[torch.Generator]
    ) -> None:
        super().__init__()
        self.cell, self.width, self.seeds = cell, width, len(generators)
        kind = {"lstm": LSTMLayer, "gru": GRULayer}[cell]
        self.layers = nn.ModuleList(kind(inputs if depth == 0 else width, width, generators) for depth in range(layers))
        self.head = StackedLinear(width, outputs, 1, generators)
        self.flatten()

    def initial(self, count: int) -> Memory:
        """Nothing remembered: zeros."""
        names = ("hidden", "cell") if self.cell == "lstm" else ("hidden",)
        shape = self.seeds, count, len(self.layers), self.width
        return {name: self.flat.new_zeros(shape) for name in names}

    def forward(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Outputs [S, B, T, outputs] for T steps of each row, [S, B, T, inputs], and what is remembered behind them."""
        steps = x.shape[2]
        rows = x.flatten(1, 2)
        kept: list[Memory] = []
        layers: Any = self.layers
        for depth, layer in enumerate(layers):
            inward = layer.inward(rows).unflatten(1, (-1, steps))
            part, outputs = {name: whole[:, :, depth] for name, whole in memory.items()}, []
            for step in inward.unbind(2):
                part = layer.step(step, part)
                outputs.append(part["hidden"])
            kept.append(part)
            rows = torch.stack(outputs, dim=2).flatten(1, 2)
        output: Tensor = self.head(rows, 1).unflatten(1, (-1, steps))
        return output, {name: torch.stack([part[name] for part in kept], dim=2) for name in memory}


class RecurrentLayer(HooklessModule):
    """One layer's weights, with the shapes, order of gates and initial distribution of torch's own."""

    gates: int

    def __init__(self, inputs: int, width: int, generators: list[torch.Generator]) -> None:
        super().__init__()
        rows, bound = self.gates * width, width**-0.5
        self.weight_ih = nn.Parameter(uniform_per_seed((rows, inputs), bound, generators))
        self.weight_hh = nn.Parameter(uniform_per_seed((rows, width), bound, generators))
        self.bias_ih = nn.Parameter(uniform_per_seed((1, rows), bound, generators))
        self.bias_hh = nn.Parameter(uniform_per_seed((1, rows), bound, generators))

    def inward(self, x: Tensor) -> Tensor:
        """What the inputs [S, N, inputs] add to the gates, [S, N, gates · width]."""
        return torch.baddbmm(self.bias_ih, x, self.weight_ih.mT)

    def recurrent(self, hidden: Tensor) -> Tensor:
        """What the state [S, B, width] adds to them."""
        return torch.baddbmm(self.bias_hh, hidden, self.weight_hh.mT)


class LSTMLayer(RecurrentLayer):
    """c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c')."""

    gates = 4

    def step(self, inward: Tensor, memory: Memory) -> Memory:
        """The state [S, B, width] behind a step."""
        i, f, g, o = (inward + self.recurrent(memory["hidden"])).chunk(4, dim=-1)
        cell = f.sigmoid() * memory["cell"] + i.sigmoid() * g.tanh()
        return {"hidden": o.sigmoid() * cell.tanh(), "cell": cell}


class GRULayer(RecurrentLayer):
    """n = tanh(n_x + σ(r) n_h), h' = n + σ(z) (h − n)."""

    gates = 3

    def step(self, inward: Tensor, memory: Memory) -> Memory:
        """The state [S, B, width] behind a step."""
        hidden = memory["hidden"]
        (r, z, n), (r_h, z_h, n_h) = inward.chunk(3, dim=-1), self.recurrent(hidden).chunk(3, dim=-1)
        candidate = (n + (r + r_h).sigmoid() * n_h).tanh()
        return {"hidden": candidate + (z + z_h).sigmoid() * (hidden - candidate)}
