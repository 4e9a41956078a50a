"""Stacked causal transformers (Vaswani et al., 2017) in the form of GPT-2: S seeds in one batched product a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from offrl.errors import RecipeError
from offrl.nn.flat import FlatModule, HooklessModule
from offrl.nn.linear import StackedLayerNorm, StackedLinear
from offrl.nn.mlp import ACTIVATIONS, dropout_masks

SPREAD = 0.02
"""Standard deviation of initial weights and embeddings, as GPT-2 has it; biases are 0."""
HIDDEN = -1e9
"""The score of a token that mustn't be looked at; minus infinity would make a row that sees none NaN."""
BLOCK_DRAWS = ("attention_dropout", "block_dropout")
WIDENING = 4
"""How much wider than a token the hidden layer behind each attention is."""


class Transformer(FlatModule):
    """S stacks of blocks, each of which sees a token's own place and those before it.

    A block is x + attention(norm(x)), then x + mlp(norm(x)); a last normalization follows.

    Args:
        width: D of a token; a multiple of `heads`.
        layers: blocks.
        heads: of each attention.
        dropout: chance of zeroing an entry of the tokens, of what attention weighs by, and of what each half of a block
            adds; the masks come from the draws handed to `forward`.
        activation: a name in `offrl.nn.mlp.ACTIVATIONS`.
        generators: one per seed; seed s's weights are drawn from the s-th and don't depend on S.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        generators: list[torch.Generator],
        *,
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.keep = 1.0 - dropout
        self.blocks = nn.ModuleList(Block(width, heads, dropout, activation, generators) for _ in range(layers))
        self.norm = StackedLayerNorm(width, 1, len(generators))
        self.flatten()

    def forward(self, tokens: Tensor, there: Tensor | None = None, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """Tokens [S, B, L, D] to the same.

        Args:
            tokens: sequences.
            there: bool [S, B, L], False where a place holds no token and nothing may look; None: all hold one.
            noise: draws of `dropout_shapes`, [S, …] each; without them nothing is dropped.
        """
        length = tokens.shape[2]
        earlier = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        seen = earlier if there is None else (earlier & there.unsqueeze(2)).unsqueeze(2)
        blocks: Any = self.blocks
        drawn = noise or {}
        tokens = dropped(tokens, drawn.get("token_dropout"), self.keep)
        for depth, block in enumerate(blocks):
            tokens = block(tokens, seen, {name: drawn[name][:, depth] for name in BLOCK_DRAWS if drawn})
        return normalized(self.norm, tokens)


def require_heads(width: int, heads: int) -> None:
    """Raise `RecipeError` unless tokens can be shared out among the heads."""
    if width % heads:
        raise RecipeError(
            f"{heads} heads can't share tokens of width {width} evenly",
            where="agent.heads",
            hint="choose agent.width as a multiple of agent.heads",
        )


def dropout_shapes(width: int, layers: int, heads: int, rows: int, tokens: int) -> Mapping[str, tuple[int, ...]]:
    """Shapes, per seed, of the draws that one `forward` of `rows` sequences takes in training with dropout."""
    return {
        "token_dropout": (rows, tokens, width),
        "attention_dropout": (layers, rows, heads, tokens, tokens),
        "block_dropout": (layers, 2, rows, tokens, width),
    }


class Block(HooklessModule):
    """One attention and one hidden layer."""

    def __init__(
        self, width: int, heads: int, dropout: float, activation: str, generators: list[torch.Generator]
    ) -> None:
        super().__init__()
        self.heads, self.keep, self.activation = heads, 1.0 - dropout, ACTIVATIONS[activation]
        self.norms = nn.ModuleList(StackedLayerNorm(width, 1, len(generators)) for _ in range(2))
        self.inward = spread_linear(width, 3 * width, generators)
        self.outward = spread_linear(width, width, generators)
        self.widening = spread_linear(width, WIDENING * width, generators)
        self.narrowing = spread_linear(WIDENING * width, width, generators)

    def forward(self, tokens: Tensor, seen: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """[S, B, L, D] to the same; `seen` is bool [L, L] or [S, B, 1, L, L]: who looks (rows) at whom."""
        residual = noise["block_dropout"].unbind(1) if noise else (None, None)
        added = self.attention(normalized(self.norms[0], tokens), seen, noise.get("attention_dropout"))
        tokens = tokens + self.dropped(added, residual[0])
        hidden = self.activation(linear(self.widening, normalized(self.norms[1], tokens)))
        return tokens + self.dropped(linear(self.narrowing, hidden), residual[1])

    def attention(self, tokens: Tensor, seen: Tensor, noise: Tensor | None) -> Tensor:
        """softmax(q kᵀ / √d) v of each head, joined and mapped, [S, B, L, D]."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(2, 3)
            for part in linear(self.inward, tokens).chunk(3, dim=-1)
        )
        scores = query @ key.mT * query.shape[-1] ** -0.5
        weights = scores.masked_fill(~seen, HIDDEN).softmax(dim=-1)
        mixed = (self.dropped(weights, noise) @ value).transpose(2, 3).flatten(-2)
        return linear(self.outward, mixed)

    def dropped(self, values: Tensor, noise: Tensor | None) -> Tensor:
        """With some entries zeroed, by draws of the same shape."""
        return dropped(values, noise, self.keep)


def dropped(values: Tensor, noise: Tensor | None, keep: float) -> Tensor:
    """Values with all but a share `keep` of their entries zeroed, by standard normal draws of the same shape."""
    masks = dropout_masks(noise, keep, (values.shape[-1],))
    return values * masks[0] if masks else values


def linear(layer: Any, x: Tensor) -> Tensor:
    """[S, B, L, inputs] to [S, B, L, outputs]."""
    output: Tensor = layer(x.flatten(1, 2), 1).unflatten(1, (-1, x.shape[2]))
    return output


def normalized(norm: Any, x: Tensor) -> Tensor:
    """[S, B, L, D] to the same."""
    output: Tensor = norm(x.flatten(1, 2), 1).unflatten(1, (-1, x.shape[2]))
    return output


def spread_linear(inputs: int, outputs: int, generators: list[torch.Generator]) -> StackedLinear:
    """A linear layer that starts as GPT-2's do."""
    layer = StackedLinear(inputs, outputs, 1, generators)
    with torch.no_grad():
        layer.weight.copy_(spread((1, outputs, inputs), generators))
        layer.bias.zero_()
    return layer


def spread(shape: tuple[int, ...], generators: list[torch.Generator]) -> Tensor:
    """Draws from N(0, 0.02²), [S, *shape]; each seed draws from its own generator, whatever S is."""
    return SPREAD * torch.stack([torch.randn(shape, generator=generator) for generator in generators])


class Embedding(HooklessModule):
    """A vector for each of `count` numbers, for S seeds."""

    def __init__(self, count: int, width: int, generators: list[torch.Generator]) -> None:
        super().__init__()
        self.weight = nn.Parameter(spread((count, width), generators))

    def forward(self, number: Tensor) -> Tensor:
        """int64 [S, …] to [S, …, width]; numbers beyond the last one count as the last one."""
        seeds, count, _ = self.weight.shape
        begin = count * torch.arange(seeds, device=number.device)
        rows = number.clamp(max=count - 1) + begin.view(-1, *(1,) * (number.dim() - 1))
        return nn.functional.embedding(rows, self.weight.flatten(0, 1))
