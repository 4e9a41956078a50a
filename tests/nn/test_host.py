"""Small networks in NumPy against the same networks in PyTorch."""

from __future__ import annotations

import pytest
import torch

from offrl.nn import MLP, seed_generators
from offrl.nn.host import LARGEST_LAYER, MOST_ROWS
from offrl.nn.mlp import plain_layers


def few_rows(seeds: int, rows: int = 2, width: int = 5) -> torch.Tensor:
    return torch.randn(seeds, rows, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("hidden", [(), (64, 64)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_numpy_and_pytorch_agree(activation: str, hidden: tuple[int, ...], seeds: int) -> None:
    network = MLP(5, 2, hidden, seed_generators(range(seeds)), activation=activation)
    x = few_rows(seeds)
    assert network.on_host().takes(x)
    with torch.no_grad():
        expected, _ = plain_layers(x, activation, network.stacked(1))
        torch.testing.assert_close(network(x), expected)


def test_it_follows_the_parameters_where_they_go() -> None:
    network = MLP(5, 2, (8,), seed_generators([0]))
    x = few_rows(1)
    with torch.no_grad():
        before = network(x)
        network.flat.mul_(2.0)
        changed = network(x)
        # Flattened anew, they lie elsewhere, as those of a part do once it is one.
        network.flatten()
        network.flat.mul_(0.5)
        assert not torch.equal(before, changed)
        torch.testing.assert_close(network(x), before)


def test_what_comes_out_is_not_overwritten_by_the_next_call() -> None:
    network = MLP(5, 2, (8,), seed_generators([0]))
    with torch.no_grad():
        first = network(few_rows(1))
        kept = first.clone()
        network(2.0 * few_rows(1))
    assert torch.equal(first, kept)


def test_many_rows_and_large_layers_are_left_to_pytorch() -> None:
    small, large = (MLP(5, 2, (width,), seed_generators([0])) for width in (8, LARGEST_LAYER))
    assert small.on_host().takes(few_rows(1, MOST_ROWS))
    assert not small.on_host().takes(few_rows(1, MOST_ROWS + 1))
    assert not large.on_host().takes(few_rows(1))


@pytest.mark.filterwarnings("ignore")
def test_a_trace_records_pytorch() -> None:
    network = MLP(5, 2, (8,), seed_generators([0]))
    one, other = few_rows(1), 2.0 * few_rows(1)
    with torch.no_grad():
        network(one)
        traced = torch.jit.trace(lambda x: network(x), one)
        torch.testing.assert_close(traced(other), network(other))
