"""Small networks in NumPy against the same networks in PyTorch."""

from __future__ import annotations

import pytest
import torch

from offrl.nn import MLP, seed_generators
from offrl.nn.mlp import RecordedOnHost, plain_layers, record_graph
from offrl.nn.numpy_mlp import LARGEST_LAYER, LARGEST_PRODUCT


def few_rows(seeds: int, rows: int = 2, width: int = 5) -> torch.Tensor:
    return torch.randn(seeds, rows, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("hidden", [(), (64, 64)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_numpy_and_pytorch_agree(activation: str, hidden: tuple[int, ...], seeds: int) -> None:
    network = MLP(5, 2, hidden, seed_generators(range(seeds)), activation=activation)
    x = few_rows(seeds)
    assert network.on_host(1).takes(x)
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


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("hidden", [(), (64, 64)])
@pytest.mark.parametrize(("seeds", "ensemble"), [(1, None), (3, None), (1, 2), (3, 2)])
def test_gradients_agree(activation: str, hidden: tuple[int, ...], seeds: int, ensemble: int | None) -> None:
    network = MLP(5, 2, hidden, seed_generators(range(seeds)), ensemble=ensemble, activation=activation)
    x, generator = few_rows(seeds, 32), torch.Generator().manual_seed(4)
    recorded, expected = network.record(x), record_graph(network, x)
    assert isinstance(recorded, RecordedOnHost)
    torch.testing.assert_close(recorded.output, expected.output)
    by_output = torch.randn(expected.output.shape, generator=generator)
    torch.testing.assert_close(recorded.gradient(by_output), expected.gradient(by_output))
    by_input = record_graph(network, x).gradient_by_input(by_output, 3)
    torch.testing.assert_close(recorded.gradient_by_input(by_output, 3), by_input)


def test_gradients_of_the_first_members_only() -> None:
    network = MLP(5, 2, (8,), seed_generators([0, 1]), ensemble=2)
    x = few_rows(2, 32)
    recorded, expected = network.record(x, members=1), record_graph(network, x, members=1)
    by_output = torch.ones_like(recorded.output)
    torch.testing.assert_close(recorded.gradient_by_input(by_output), expected.gradient_by_input(by_output))


def test_many_rows_and_large_layers_are_left_to_pytorch() -> None:
    small, large = (MLP(64, 2, (width,), seed_generators([0])) for width in (64, LARGEST_LAYER // 2))
    most = LARGEST_PRODUCT // 64**2
    assert small.on_host(1).takes(few_rows(1, most, 64))
    assert not small.on_host(1).takes(few_rows(1, most + 1, 64))
    assert not large.on_host(1).takes(few_rows(1, 1, 64))


def test_layers_of_a_middle_size_take_single_observations() -> None:
    network = MLP(5, 2, (256, 256), seed_generators([0, 1]))
    one, two = few_rows(2, 1), few_rows(2, 2)
    assert network.on_host(1).takes(one)
    assert not network.on_host(1).takes(two)
    with torch.no_grad():
        expected, _ = plain_layers(one, "relu", network.stacked(1))
        torch.testing.assert_close(network(one), expected)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_records_pytorch() -> None:
    network = MLP(5, 2, (8,), seed_generators([0]))
    one, other = few_rows(1), 2.0 * few_rows(1)
    with torch.no_grad():
        network(one)
        traced = torch.jit.trace(lambda x: network(x), one)
        torch.testing.assert_close(traced(other), network(other))
