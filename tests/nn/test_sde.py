"""State-dependent exploration against plain networks and simulation."""

from __future__ import annotations

import pytest
import torch

from offrl.nn import MLP, Adam, seed_generators
from offrl.nn.distributions import LOG_STD_MAX, LOG_STD_MIN, split_gaussian
from offrl.nn.sde import StateDependentGaussian
from tests.nn.plain import copy_of_member


def make(activation: str = "tanh") -> StateDependentGaussian:
    """Two seeds, three inputs, two actions, and spreads that all differ."""
    network = MLP(3, 2, (8, 5), seed_generators((1, 2)), activation=activation)
    actor = StateDependentGaussian(network, -0.5)
    with torch.no_grad():
        actor.log_std += 0.3 * torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    return actor


def test_the_spread_follows_from_the_features() -> None:
    actor, observation = make(), torch.randn(2, 7, 3)
    mean, log_std = actor(observation).chunk(2, dim=-1)
    for seed in range(2):
        plain = copy_of_member(actor.mean, seed, "tanh")
        features = plain[:-1](observation[seed])
        torch.testing.assert_close(mean[seed], plain(observation[seed]))
        std = torch.sqrt((features**2) @ (actor.log_std[seed].exp() ** 2) + 1e-6)
        torch.testing.assert_close(log_std[seed].exp(), std)


def test_exploration_has_that_mean_and_spread_over_many_draws() -> None:
    actor, observation = make("relu"), torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(3))
    count = 20_000
    noise = torch.randn(2, count * 4, 5, 2, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        repeated = observation.repeat(1, count, 1)
        explored, _ = actor.explore(repeated, actor.initial_carry(count * 4), noise, 1)
        mean, log_std = actor(observation).chunk(2, dim=-1)
    explored = explored.unflatten(1, (count, 4))
    torch.testing.assert_close(explored.mean(dim=1), mean, rtol=0.0, atol=0.05)
    torch.testing.assert_close(explored.std(dim=1), log_std.exp(), rtol=0.03, atol=0.0)


def test_each_row_holds_its_matrix_until_its_own_turn() -> None:
    actor, every = make(), 3
    # The first row's episode has gone on for two steps, the second's begins.
    held, steps = torch.randn(2, 2, 5, 2), torch.tensor([[2, 0], [2, 0]])
    drawn = torch.randn(4, 2, 2, 5, 2)
    carry, seen = (held, steps), []
    for noise in drawn:
        _, carry = actor.explore(torch.randn(2, 2, 3), carry, noise, every)
        seen.append(carry[0])
    assert carry[1].tolist() == [[6, 4], [6, 4]]
    # Matrices are drawn at the steps 3, and 0 and 3.
    for row, expected in ((0, [held, drawn[1], drawn[1], drawn[1]]), (1, [drawn[0], drawn[0], drawn[0], drawn[3]])):
        for found, matrix in zip(seen, expected, strict=True):
            assert torch.equal(found[:, row], matrix[:, row])


def test_a_state_without_active_features_is_finite() -> None:
    actor = make("relu")
    with torch.no_grad():
        list(actor.mean.parameters())[3].fill_(-100.0)
    output = actor(torch.zeros(2, 1, 3))
    output.sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in actor.parameters())


def test_it_is_one_flat_module() -> None:
    actor, observation = make(), torch.randn(2, 7, 3)
    before, twin = actor(observation), actor.clone()
    Adam(actor, 0.1).minimize(actor(observation).square().sum())
    assert not torch.equal(actor(observation), before)
    assert torch.equal(twin(observation), before)
    twin.move_towards(actor, 1.0)
    torch.testing.assert_close(twin(observation), actor(observation))
    assert set(actor.state_dict()) == {
        "log_std",
        *(f"mean.layers.{i}.{part}" for i in range(3) for part in ("weight", "bias")),
    }


@pytest.mark.parametrize(("shift", "bound"), [(6.0, LOG_STD_MAX), (-7.0, LOG_STD_MIN)])
def test_exploration_has_the_spread_that_densities_are_clamped_to(shift: float, bound: float) -> None:
    actor, observation = make(), torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        actor.log_std += shift
        count = 20_000
        noise = torch.randn(2, count * 4, 5, 2, generator=torch.Generator().manual_seed(4))
        explored, _ = actor.explore(observation.repeat(1, count, 1), actor.initial_carry(count * 4), noise, 1)
        mean, log_std = split_gaussian(actor(observation))
    assert (log_std == bound).all()
    explored = explored.unflatten(1, (count, 4))
    std = log_std.exp()
    torch.testing.assert_close(explored.std(dim=1), std, rtol=0.03, atol=0.0)
    assert ((explored.mean(dim=1) - mean).abs() < 0.05 * std).all()
