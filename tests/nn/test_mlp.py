"""Stacked perceptrons against plain `torch.nn` networks, one for each seed and member."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offrl.nn import MLP, seed_generators
from offrl.nn.flat import joined
from offrl.nn.linear import StackedLinear
from offrl.nn.mlp import ACTIVATIONS
from tests.nn.plain import copy_of_member

HIDDEN = (7, 5)


def inputs(seeds: int, rows: int = 6, width: int = 3) -> Tensor:
    return torch.randn(seeds, rows, width, generator=torch.Generator().manual_seed(99))


def randomize(network: MLP) -> None:
    """Layer normalization starts as the identity: give its gains and offsets values that matter."""
    network.flat.add_(0.3 * torch.randn(network.flat.shape, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("layer_norm", [False, True])
def test_each_seed_is_a_plain_network(activation: str, layer_norm: bool) -> None:
    network = MLP(3, 2, HIDDEN, seed_generators([0, 1]), activation=activation, layer_norm=layer_norm)
    randomize(network)
    x = inputs(2)
    output = network(x)
    assert output.shape == (2, 6, 2)
    for seed in range(2):
        torch.testing.assert_close(output[seed], copy_of_member(network, seed, activation)(x[seed]))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_each_member_of_an_ensemble_is_a_plain_network(layer_norm: bool) -> None:
    network = MLP(3, 1, HIDDEN, seed_generators([0, 1, 2]), ensemble=2, layer_norm=layer_norm)
    randomize(network)
    x = inputs(3)
    output = network(x)
    assert output.shape == (3, 2, 6, 1)
    for seed in range(3):
        for member in range(2):
            expected = copy_of_member(network, seed, "relu", member)(x[seed])
            torch.testing.assert_close(output[seed, member], expected)


def test_no_hidden_layer_is_a_linear_map() -> None:
    network = MLP(3, 2, (), seed_generators([0]))
    weight, bias = network.layers[0].weight, network.layers[0].bias
    x = inputs(1)
    torch.testing.assert_close(network(x)[0], x[0] @ weight[0, 0].T + bias[0, 0])


def test_gradients_are_those_of_the_plain_networks() -> None:
    network = MLP(3, 2, HIDDEN, seed_generators([0, 1]), layer_norm=True)
    x = inputs(2)
    network(x).square().mean(dim=(1, 2)).sum().backward()
    for seed in range(2):
        plain = copy_of_member(network, seed, "relu")
        plain(x[seed]).square().mean().backward()
        linears = [layer for layer in plain if isinstance(layer, nn.Linear)]
        for stacked, linear in zip(network.layers, linears, strict=True):
            torch.testing.assert_close(stacked.weight.grad[seed, 0], linear.weight.grad)
            torch.testing.assert_close(stacked.bias.grad[seed, 0, 0], linear.bias.grad)
        norms = [layer for layer in plain if isinstance(layer, nn.LayerNorm)]
        for norm, reference in zip(network.norms, norms, strict=True):
            torch.testing.assert_close(norm.gain.grad[seed, 0, 0], reference.weight.grad)
            torch.testing.assert_close(norm.offset.grad[seed, 0, 0], reference.bias.grad)


def test_members_can_have_inputs_of_their_own() -> None:
    network = MLP(3, 1, HIDDEN, seed_generators([0, 1]), ensemble=2)
    x = inputs(4).view(2, 2, 6, 3)
    own = network(x)
    for member in range(2):
        torch.testing.assert_close(own[:, member], network(x[:, member])[:, member])


def test_one_member_is_the_first_of_the_ensemble() -> None:
    network = MLP(3, 1, HIDDEN, seed_generators([0, 1]), ensemble=2, layer_norm=True)
    randomize(network)
    x = inputs(2)
    first = network(x, members=1)
    assert first.shape == (2, 1, 6, 1)
    torch.testing.assert_close(first[:, 0], network(x)[:, 0])


def test_one_member_passes_gradients_to_its_input_and_to_no_other_member() -> None:
    network = MLP(3, 1, HIDDEN, seed_generators([0, 1]), ensemble=2)
    x = inputs(2).requires_grad_()
    network(x, members=1).sum().backward()
    together = inputs(2).requires_grad_()
    network_twin = network.clone()
    network_twin(together)[:, 0].sum().backward()
    assert x.grad is not None
    assert together.grad is not None
    torch.testing.assert_close(x.grad, together.grad)
    assert x.grad.abs().sum() > 0
    for layer in network.layers:
        assert (layer.weight.grad[:, 1] == 0).all()


@pytest.mark.parametrize("ensemble", [None, 2])
def test_initial_weights_of_a_seed_depend_on_nothing_but_the_seed(ensemble: int | None) -> None:
    together = MLP(3, 2, HIDDEN, seed_generators([5, 9, 1]), ensemble=ensemble, layer_norm=True)
    for position, seed in enumerate([5, 9, 1]):
        alone = MLP(3, 2, HIDDEN, seed_generators([seed]), ensemble=ensemble, layer_norm=True)
        for ours, theirs in zip(together.parameters(), alone.parameters(), strict=True):
            assert torch.equal(ours[position], theirs[0])


def test_seeds_and_members_start_differently() -> None:
    network = MLP(3, 2, HIDDEN, seed_generators([0, 1]), ensemble=2)
    weights = network.layers[0].weight.flatten(0, 1)
    for i in range(4):
        for j in range(i):
            assert not torch.equal(weights[i], weights[j])


def test_initial_weights_are_spread_as_those_of_torch_linear() -> None:
    layer = MLP(400, 300, (), seed_generators([0])).layers[0]
    reference = nn.Linear(400, 300)
    bound = 400**-0.5
    for ours, theirs in ((layer.weight, reference.weight), (layer.bias, reference.bias)):
        assert ours.abs().max() <= bound
        assert ours.abs().max() > 0.95 * bound
        torch.testing.assert_close(ours.std(), theirs.std(), rtol=0.15, atol=0.0)


def test_dropout_masks_are_the_draws_below_the_quantile() -> None:
    network = MLP(2, 1, (3, 2), seed_generators([0]), dropout=0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    x = torch.ones(1, 1, 2)
    # The median of a standard normal is 0, so negative draws keep their unit, and kept units count double.
    draws = torch.tensor([[[-1.0, 1.0, -0.1, 0.5, -3.0]]])
    # First layer: units of 2 + 1 = 3, two of which are kept, as 6. Second: 12 + 1 = 13, one kept, as 26. Output 27.
    assert network(x, dropout_noise=draws).item() == 27.0
    # Without draws: 3 · 3 + 1 = 10, and 2 · 10 + 1 = 21.
    assert network(x).item() == 21.0


def test_each_member_of_an_ensemble_drops_its_own_units() -> None:
    together = MLP(3, 1, HIDDEN, seed_generators([0, 1]), ensemble=2, dropout=0.4)
    alone = MLP(3, 1, HIDDEN, seed_generators([0, 1]), dropout=0.4)
    x = inputs(2)
    draws = torch.randn(2, 2, 6, sum(HIDDEN), generator=torch.Generator().manual_seed(1))
    output = together(x, dropout_noise=draws)
    torch.testing.assert_close(together(x, members=1, dropout_noise=draws[:, :1]), output[:, :1])
    for member in range(2):
        with torch.no_grad():
            for stacked, single in zip(together.parameters(), alone.parameters(), strict=True):
                single.copy_(stacked[:, member : member + 1])
        torch.testing.assert_close(output[:, member], alone(x, dropout_noise=draws[:, member]))


def test_dropout_zeroes_the_share_it_should_and_keeps_the_mean() -> None:
    rows, units, dropout = 2000, 50, 0.3
    network = MLP(1, 1, (units,), seed_generators([0]), dropout=dropout)
    with torch.no_grad():
        network.layers[0].weight.zero_()
        network.layers[0].bias.fill_(1.0)
        network.layers[1].weight.fill_(1.0 / units)
        network.layers[1].bias.zero_()
    noise = torch.randn(1, rows, units, generator=torch.Generator().manual_seed(0))
    output = network(torch.zeros(1, rows, 1), dropout_noise=noise)
    # Each output is a mean over units of Bernoulli(keep) / keep.
    keep = 1.0 - dropout
    error = (dropout / keep / (rows * units)) ** 0.5
    assert abs(output.mean().item() - 1.0) < 5 * error
    assert abs(output.var().item() - dropout / keep / units) < 0.1 * dropout / keep / units


def test_draws_do_nothing_where_there_is_no_dropout() -> None:
    network = MLP(3, 2, HIDDEN, seed_generators([0]))
    x = inputs(1)
    noise = torch.randn(1, 6, sum(HIDDEN))
    assert torch.equal(network(x, dropout_noise=noise), network(x))


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize(("batch", "width"), [(5, 4), (160, 4), (160, 140), (5, 140)])
def test_wide_layers_and_batches_have_autograds_gradients(members: int | None, batch: int, width: int) -> None:
    network = MLP(3, 2, (width,), seed_generators([0, 1]), ensemble=members)
    x = torch.randn(2, batch, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    first, second = network.layers
    assert isinstance(first, StackedLinear)
    assert isinstance(second, StackedLinear)
    hidden = torch.einsum("sbi,seoi->sebo", x, first.weight) + first.bias
    plain = torch.einsum("sebi,seoi->sebo", hidden.relu(), second.weight) + second.bias
    output = network(x)
    torch.testing.assert_close(output if members else output.unsqueeze(1), plain)
    by_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    wanted = [x, *network.parameters()]
    found = torch.autograd.grad(output, wanted, by_output)
    for mine, theirs in zip(found, torch.autograd.grad(plain, wanted, by_output.view(plain.shape)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "silu", "relu"])
@pytest.mark.parametrize("options", [{}, {"layer_norm": True}, {"ensemble": 2}], ids=str)
def test_hessian_vector_products_are_those_of_plain_networks(activation: str, options: dict[str, Any]) -> None:
    network = MLP(3, 2, HIDDEN, seed_generators([0, 1]), activation=activation, **options)
    randomize(network)
    x, members = inputs(2), options.get("ensemble", 1)
    vector = [torch.randn(part.shape, generator=torch.Generator().manual_seed(8)) for part in network.own_parameters]
    products = hessian_vector_product(network(x).pow(3).mean(dim=(-2, -1)).sum(), network.own_parameters, vector)
    for seed in range(2):
        for member in range(members):
            plain = copy_of_member(network, seed, activation, member)
            parts = list(plain.parameters())
            directions = copy_of_member(with_parameters(network, vector), seed, activation, member).parameters()
            found = copy_of_member(with_parameters(network, products), seed, activation, member).parameters()
            expected = hessian_vector_product(plain(x[seed]).pow(3).mean(), parts, list(directions))
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-4, atol=1e-6)


def hessian_vector_product(loss: Tensor, parameters: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
    """∇(gᵀ v), the gradient g of the loss being differentiated once more."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    product = sum((g * v.detach()).sum() for g, v in zip(gradients, vector, strict=True))
    assert isinstance(product, Tensor)
    return list(torch.autograd.grad(product, parameters))


def with_parameters(network: MLP, values: Sequence[Tensor]) -> MLP:
    """A network of the same form with these numbers as its parameters."""
    twin = network.clone()
    twin.flat.copy_(joined(values))
    return twin


def test_the_gradient_by_the_input_is_differentiated_too() -> None:
    """What a gradient penalty takes: ∂/∂θ of ‖∂f/∂x‖²."""
    network = MLP(3, 1, HIDDEN, seed_generators([0, 1]), activation="tanh")
    x = inputs(2).requires_grad_()
    (slope,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    found = torch.autograd.grad(slope.square().sum(), network.own_parameters, allow_unused=True)
    plain, row = copy_of_member(network, 1, "tanh"), inputs(2)[1].requires_grad_()
    (slope,) = torch.autograd.grad(plain(row).sum(), row, create_graph=True)
    expected = torch.autograd.grad(slope.square().sum(), list(plain.parameters()), allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            # The last bias moves no slope.
            assert ours is None
        else:
            assert ours is not None
            torch.testing.assert_close(ours[1].reshape(theirs.shape), theirs)


def test_features_are_what_the_last_layer_is_given() -> None:
    network = MLP(3, 2, HIDDEN, seed_generators([0, 1]))
    x = inputs(2)
    features = network.features(x)
    assert features.shape == (2, 6, 5)
    torch.testing.assert_close(network.layers[-1](features, 1), network(x))
    assert torch.equal(MLP(3, 2, (), seed_generators([0, 1])).features(x), x)
