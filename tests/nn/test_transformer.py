"""Stacked transformers against torch's own encoder layers, and what they may see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offrl.errors import RecipeError
from offrl.nn import seed_generators
from offrl.nn.transformer import Embedding, Transformer, dropout_shapes, require_heads

WIDTH, LAYERS, HEADS, ROWS, LENGTH = 8, 2, 2, 3, 5


def plain(network: Transformer, seed: int, activation: str = "relu") -> nn.TransformerEncoder:
    """Torch's, with the weights of one seed."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation=activation, batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
    blocks: Any = network.blocks
    pairs = [(encoder.norm, network.norm)]
    with torch.no_grad():
        for theirs, ours in zip(encoder.layers, blocks, strict=True):
            pairs += [(theirs.norm1, ours.norms[0]), (theirs.norm2, ours.norms[1])]
            theirs.self_attn.in_proj_weight.copy_(ours.inward.weight[seed, 0])
            theirs.self_attn.in_proj_bias.copy_(ours.inward.bias[seed, 0, 0])
            linears = (
                (theirs.self_attn.out_proj, ours.outward),
                (theirs.linear1, ours.widening),
                (theirs.linear2, ours.narrowing),
            )
            for linear, own in linears:
                linear.weight.copy_(own.weight[seed, 0])
                linear.bias.copy_(own.bias[seed, 0, 0])
        for norm, own in pairs:
            norm.weight.copy_(own.gain[seed, 0, 0])
            norm.bias.copy_(own.offset[seed, 0, 0])
    return encoder


def random_network(activation: str = "relu", dropout: float = 0.0) -> Transformer:
    """Of two seeds, with weights far from their small beginning."""
    network = Transformer(WIDTH, LAYERS, HEADS, seed_generators([3, 8]), dropout=dropout, activation=activation)
    with torch.no_grad():
        network.flat.add_(0.3 * torch.randn(network.flat.shape, generator=torch.Generator().manual_seed(1)))
    return network


def tokens() -> Tensor:
    return torch.randn(2, ROWS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_blocks_are_those_of_torch(activation: str) -> None:
    network, given = random_network(activation), tokens()
    there = torch.ones(2, ROWS, LENGTH, dtype=torch.bool)
    # Places without a token lie in front or behind.
    there[:, 1, :2], there[:, 2, 3:] = False, False
    found = network(given, there)
    later = nn.Transformer.generate_square_subsequent_mask(LENGTH).bool()
    for seed in range(2):
        expected = plain(network, seed, activation)(given[seed], mask=later, src_key_padding_mask=~there[seed])
        torch.testing.assert_close(found[seed][there[seed]], expected[there[seed]], rtol=1e-4, atol=1e-5)
    assert found.isfinite().all()


def test_tokens_see_those_before_them_alone() -> None:
    network, given = random_network(), tokens()
    other = given.clone()
    other[:, :, 3] = tokens()[:, :, 0]
    before, after = network(given), network(other)
    torch.testing.assert_close(after[:, :, :3], before[:, :, :3])
    assert ((after - before)[:, :, 3:].abs().amax(dim=-1) > 1e-3).all()


def test_what_is_dropped_is_what_the_draws_say() -> None:
    """Draws of −9 keep everything, scaled up; those of 9 drop everything, and the input's normalization is left."""
    network, given = random_network(dropout=0.25), tokens()
    shapes = dropout_shapes(WIDTH, LAYERS, HEADS, ROWS, LENGTH)
    nothing = {name: torch.full((2, *shape), 9.0) for name, shape in shapes.items()}
    torch.testing.assert_close(
        network(given, noise=nothing), network.norm.offset.squeeze(1).unsqueeze(1).expand_as(given)
    )
    generator = torch.Generator().manual_seed(2)
    noise = {name: torch.randn(2, *shape, generator=generator) for name, shape in shapes.items()}
    moved = {
        name
        for name in noise
        if not torch.equal(network(given, noise=noise), network(given, noise=noise | {name: -noise[name]}))
    }
    assert moved == set(shapes)


def test_embeddings_beyond_the_last_are_the_last() -> None:
    embedding = Embedding(4, 3, seed_generators([0, 1]))
    found = embedding(torch.tensor([[[0, 3, 9]], [[1, 2, 3]]]))
    assert torch.equal(found[0, 0], embedding.weight[0, [0, 3, 3]])
    assert torch.equal(found[1, 0], embedding.weight[1, [1, 2, 3]])


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    require_heads(8, 2)
    with pytest.raises(RecipeError, match="3 heads can't share tokens of width 8 evenly"):
        require_heads(8, 3)
