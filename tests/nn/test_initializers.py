"""Orthogonal initial weights."""

from __future__ import annotations

import pytest
import torch

from offrl.nn import MLP, seed_generators
from offrl.nn.initializers import make_orthogonal


def network(*seeds: int, ensemble: int | None = None) -> MLP:
    generators = seed_generators(seeds)
    made = MLP(5, 3, (8, 6), generators, ensemble=ensemble)
    return make_orthogonal(made, generators, hidden_gain=2.0, output_gain=0.5)


@pytest.mark.parametrize("ensemble", [None, 2])
def test_weights_are_orthogonal_and_biases_zero(ensemble: int | None) -> None:
    for layer, gain in zip(network(0, 1, ensemble=ensemble).layers, (2.0, 2.0, 0.5), strict=True):
        assert layer.bias.eq(0.0).all()
        for weight in layer.weight.flatten(0, 1):
            rows, columns = weight.shape
            product = weight @ weight.T if rows <= columns else weight.T @ weight
            torch.testing.assert_close(product, gain**2 * torch.eye(min(rows, columns)), rtol=0.0, atol=1e-5)


def test_a_seeds_weights_depend_on_nothing_but_the_seed() -> None:
    together = network(4, 9, 1)
    for position, seed in enumerate((4, 9, 1)):
        for ours, theirs in zip(together.parameters(), network(seed).parameters(), strict=True):
            assert torch.equal(ours[position], theirs[0])
    assert not torch.equal(together.layers[0].weight[0], together.layers[0].weight[1])
