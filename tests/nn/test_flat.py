"""Flat modules: parameters stay views of one tensor, whatever is done to the module."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from offrl.nn import MLP, seed_generators
from offrl.nn.flat import FlatModule, joined, uniform_per_seed


def make_network(*seeds: int) -> MLP:
    return MLP(3, 2, (5, 4), seed_generators(seeds), layer_norm=True)


def assert_views(network: MLP) -> None:
    """Every parameter lies in `flat`, in order, with nothing between or behind; writes show on both sides."""
    parameters = list(network.parameters())
    assert sum(parameter.numel() for parameter in parameters) == network.flat.numel()
    assert torch.equal(torch.cat([parameter.detach().reshape(-1) for parameter in parameters]), network.flat)
    before = network.flat.clone()
    network.flat.add_(1.0)
    assert torch.equal(torch.cat([parameter.detach().reshape(-1) for parameter in parameters]), before + 1.0)
    with torch.no_grad():
        parameters[-1].zero_()
    assert (network.flat[-parameters[-1].numel() :] == 0.0).all()
    network.flat.copy_(before)


def reload(network: MLP) -> MLP:
    network.load_state_dict(make_network(8, 9).state_dict())
    return network


CHANGES: dict[str, Callable[[MLP], MLP]] = {
    "new": lambda network: network,
    "to float64": lambda network: network.to(torch.float64),
    "to the same device": lambda network: network.to("cpu"),
    "load_state_dict": reload,
    "clone": lambda network: network.clone(),
    "a clone moved": lambda network: network.clone().double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_parameters_stay_views_of_the_flat_tensor(change: Callable[[MLP], MLP]) -> None:
    assert_views(change(make_network(0, 1)))


def test_moving_keeps_the_values() -> None:
    network = make_network(0, 1)
    before = network.flat.clone()
    network.double()
    assert network.flat.dtype == torch.float64
    assert torch.equal(network.flat, before.double())


def test_loading_takes_over_the_values() -> None:
    network, other = make_network(0, 1), make_network(8, 9)
    network.load_state_dict(other.state_dict())
    assert torch.equal(network.flat, other.flat)
    other.flat.zero_()
    assert network.flat.any()


def test_a_clone_is_equal_and_independent() -> None:
    network = make_network(0, 1)
    twin = network.clone()
    assert torch.equal(twin.flat, network.flat)
    kept = twin.flat.clone()
    network.flat.zero_()
    assert torch.equal(twin.flat, kept)
    x = torch.randn(2, 6, 3)
    assert not torch.equal(twin(x), network(x))


class Pair(FlatModule):
    """A module made of two."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = make_network(0, 1), make_network(2, 3)
        self.flatten()


@pytest.mark.parametrize("change", [lambda pair: pair, FlatModule.clone, FlatModule.double], ids=["new", "clone", "to"])
def test_the_flat_tensor_of_a_part_is_a_part_of_the_wholes(change: Callable[[Pair], Pair]) -> None:
    pair = change(Pair())
    half = pair.first.flat.numel()
    pair.flat[half + 1] = 7.0
    pair.second.flat[0] = 5.0
    pair.first.flat[-1] = 3.0
    assert pair.flat[half - 1 : half + 2].tolist() == [3.0, 5.0, 7.0]
    for part in (pair.first, pair.second):
        assert_views(part)
    pair.flat.zero_()
    assert not pair.second(torch.ones(2, 6, 3, dtype=pair.flat.dtype)).any()


def test_gradients_reach_the_parameters_of_a_moved_module() -> None:
    network = make_network(0).double()
    network(torch.ones(1, 2, 3, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_moving_towards_a_source_is_polyak_averaging() -> None:
    target, source = make_network(0, 1), make_network(2, 3)
    expected = [
        0.9 * mine.detach() + 0.1 * theirs.detach()
        for mine, theirs in zip(target.parameters(), source.parameters(), strict=True)
    ]
    unchanged = source.flat.clone()
    target.move_towards(source, 0.1)
    for parameter, value in zip(target.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=0.0, atol=1e-7)
    assert torch.equal(source.flat, unchanged)


def test_a_rate_may_be_a_tensor() -> None:
    target, source = make_network(0), make_network(1)
    before = target.flat.clone()
    target.move_towards(source, torch.tensor(0.0))
    assert torch.equal(target.flat, before)
    target.move_towards(source, torch.tensor(0.25))
    torch.testing.assert_close(target.flat, 0.75 * before + 0.25 * source.flat, rtol=0.0, atol=1e-7)


def test_moving_all_the_way_copies_the_source() -> None:
    target, source = make_network(0), make_network(1)
    target.move_towards(source, 1.0)
    assert torch.equal(target.flat, source.flat)


def test_uniform_draws_of_a_seed_depend_on_nothing_but_the_seed() -> None:
    together = uniform_per_seed((4, 5), 0.3, seed_generators([3, 7, 11]))
    for position, seed in enumerate([3, 7, 11]):
        alone: Tensor = uniform_per_seed((4, 5), 0.3, seed_generators([seed]))
        assert torch.equal(alone[0], together[position])


def test_uniform_draws_fill_the_interval_evenly() -> None:
    bound, count = 0.25, 100_000
    draws = uniform_per_seed((count,), bound, seed_generators([0]))[0].double()
    assert draws.abs().max() <= bound
    # Mean 0 and variance bound²/3, each within five standard errors (the variance of u² is 4 bound⁴/45).
    assert abs(draws.mean().item()) < 5 * (bound**2 / 3 / count) ** 0.5
    assert abs(draws.square().mean().item() - bound**2 / 3) < 5 * (4 * bound**4 / 45 / count) ** 0.5


def test_joined_tensors_are_in_the_order_of_the_flat_one() -> None:
    network = make_network(0, 1)
    assert torch.equal(joined([parameter.detach() for parameter in network.parameters()]), network.flat)
    matrix = torch.arange(6.0).view(2, 3)
    assert joined([matrix.mT, torch.tensor([7.0])]).tolist() == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 7.0]
