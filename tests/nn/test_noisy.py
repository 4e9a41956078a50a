"""Noisy networks against weights with the noise added to them, as the paper writes it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from offrl.nn import seed_generators
from offrl.nn.noisy import NoisyLinear, NoisyMLP

HIDDEN = (7, 5)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(seeds: list[int], *, shuffled: bool = True, **options: object) -> NoisyMLP:
    network = NoisyMLP(3, 2, HIDDEN, seed_generators(seeds), **options)  # type: ignore[arg-type]
    if shuffled:
        network.flat.add_(0.3 * draws(len(network.flat), seed=5))
    return network


def scaled(noise: Tensor) -> Tensor:
    return torch.sign(noise) * torch.sqrt(torch.abs(noise))


def noisy_weights(layer: NoisyLinear, seed: int, noise: Tensor) -> tuple[Tensor, Tensor]:
    """One seed's weight and bias for one sample of noise [inputs + outputs]."""
    on_inputs, on_outputs = scaled(noise[: layer.inputs]), scaled(noise[layer.inputs :])
    weight = layer.weight[seed] + layer.weight_spread[seed] * torch.outer(on_outputs, on_inputs)
    return weight, layer.bias[seed, 0] + layer.bias_spread[seed, 0] * on_outputs


def plain(network: NoisyMLP, seed: int, x: Tensor, noise: Tensor | None) -> Tensor:
    """One seed's outputs [B, 2] for one sample of the noise."""
    parts = [None] * 3 if noise is None else noise.split([3 + 7, 7 + 5, 5 + 2])
    for depth, layer in enumerate(network.layers):
        assert isinstance(layer, NoisyLinear)
        part = parts[depth]
        weight, bias = (layer.weight[seed], layer.bias[seed, 0]) if part is None else noisy_weights(layer, seed, part)
        x = x @ weight.T + bias
        if depth < 2:
            if len(network.norms):
                norm = network.norms[depth]
                x = nn.functional.layer_norm(x, x.shape[-1:], norm.gain[seed, 0, 0], norm.offset[seed, 0, 0])  # type: ignore[index]
            x = network.activation(x)
    return x


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_one_sample_serves_a_whole_batch(layer_norm: bool, activation: str) -> None:
    network = make([0, 1], layer_norm=layer_norm, activation=activation)
    assert network.noise_width == 3 + 7 + 7 + 5 + 5 + 2
    x, noise = draws(2, 6, 3), draws(2, 1, network.noise_width, seed=1)
    output = network(x, noise=noise)
    for seed in range(2):
        torch.testing.assert_close(output[seed], plain(network, seed, x[seed], noise[seed, 0]))


def test_each_row_may_have_a_sample_of_its_own() -> None:
    network = make([0, 1])
    x, noise = draws(2, 6, 3), draws(2, 6, network.noise_width, seed=1)
    output = network(x, noise=noise)
    for seed in range(2):
        for row in range(6):
            expected = plain(network, seed, x[seed, row : row + 1], noise[seed, row])
            torch.testing.assert_close(output[seed, row : row + 1], expected)


def test_without_noise_the_means_are_the_weights() -> None:
    network = make([0, 1])
    x = draws(2, 6, 3)
    for seed in range(2):
        torch.testing.assert_close(network(x)[seed], plain(network, seed, x[seed], None))
    torch.testing.assert_close(network(x, noise=torch.zeros(2, 1, network.noise_width)), network(x))


def test_gradients_are_those_of_the_noisy_weights() -> None:
    network = make([0, 1])
    x, noise = draws(2, 6, 3), draws(2, 1, network.noise_width, seed=1)
    parameters = list(network.parameters())
    ours = torch.autograd.grad(network(x, noise=noise).square().sum(), parameters)
    expected = torch.stack([plain(network, seed, x[seed], noise[seed, 0]) for seed in range(2)])
    for one, other in zip(ours, torch.autograd.grad(expected.square().sum(), parameters), strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_masks_are_the_draws_below_the_quantile() -> None:
    network = make([0], dropout=0.25)
    x, noise = draws(1, 6, 3), draws(1, 6, 12, seed=2)
    # 0.67449 is the upper quartile of the standard normal.
    mask = (noise < 0.67449).float() / 0.75
    first, second, last = network.layers
    hidden = torch.relu(first(x, None)) * mask[..., :7]
    hidden = torch.relu(second(hidden, None)) * mask[..., 7:]
    torch.testing.assert_close(network(x, dropout_noise=noise), last(hidden, None))
    torch.testing.assert_close(network(x), make([0])(x))


def test_initial_weights_depend_on_the_seed_alone_and_spreads_on_the_inputs() -> None:
    together = make([5, 9, 1], shuffled=False)
    for position, seed in enumerate([5, 9, 1]):
        for ours, theirs in zip(together.parameters(), make([seed], shuffled=False).parameters(), strict=True):
            assert torch.equal(ours[position], theirs[0])
    for layer, inputs in zip(together.layers, (3, 7, 5), strict=True):
        assert layer.weight.abs().max() <= inputs**-0.5
        assert layer.weight_spread.eq(0.5 * inputs**-0.5).all()
        assert layer.bias_spread.eq(0.5 * inputs**-0.5).all()
