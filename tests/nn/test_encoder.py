"""Networks that own the encoder of what they read."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

from offrl.errors import RecipeError
from offrl.nn import MLP, Adam, seed_generators
from offrl.nn.encoder import EncodedMLP, Encoder, encoder_maker
from tests.nn.test_conv import image_space, images

SPACE = image_space(7, 6, 3)


def network(seeds: list[int], space: gym.Space[object] = SPACE) -> EncodedMLP:
    generators = seed_generators(seeds)
    return EncodedMLP(Encoder(space, "auto", "relu", generators), 1, (5,), generators, beside=2, ensemble=2)


def test_network_and_encoder_are_one_set_of_parameters() -> None:
    made = network([0, 1])
    assert made.flat.numel() == sum(parameter.numel() for parameter in made.parameters())
    target = made.clone()
    x, action = images(2, 4, 7, 6, 3), torch.randn(2, 4, 2)

    def value(of: EncodedMLP) -> torch.Tensor:
        output: torch.Tensor = of(torch.cat([of.encoder(x), action], dim=-1))
        return output

    before = value(target)
    Adam(made, 1e-2).minimize(value(made).sum())
    assert not torch.allclose(made.encoder(x), target.encoder(x))
    assert torch.equal(value(target), before)
    target.move_towards(made, 1.0)
    assert torch.equal(value(target), value(made))


def test_features_are_the_encoder_s_without_its_gradient() -> None:
    made, x = network([0]), images(1, 4, 7, 6, 3)
    features = made.features_of(x)
    assert torch.equal(features, made.encoder(x))
    assert not features.requires_grad


def test_what_is_trained_meanwhile_is_the_rest() -> None:
    made, x, action = network([0, 1]), images(2, 4, 7, 6, 3), torch.randn(2, 4, 2)
    optimizer, encoded, layers = Adam(made, 1e-2), made.features_of(x), made.layers[0].weight.clone()
    with made.encoder_kept():
        optimizer.minimize(made(torch.cat([made.encoder(x), action], dim=-1)).sum())
    assert torch.equal(made.features_of(x), encoded)
    assert not torch.allclose(made.layers[0].weight, layers)


def test_of_vectors_it_is_the_network_alone() -> None:
    space, generators = gym.spaces.Box(-1.0, 1.0, (3,)), seed_generators([4])
    made = network([4], space)
    plain = MLP(5, 1, (5,), generators, ensemble=2)
    assert made.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(made.flat, plain.flat)
    x = torch.randn(1, 4, 3)
    assert made.encoder(x) is x or torch.equal(made.encoder(x), x)
    before = made.flat.clone()
    with made.encoder_kept():
        made.flat.add_(1.0)
    assert torch.equal(made.flat, before + 1.0)


def test_a_maker_refuses_at_once_what_does_not_fit() -> None:
    with pytest.raises(RecipeError, match="don't fit"):
        encoder_maker(SPACE, ((8, 8, 4),), "relu")
    with pytest.raises(RecipeError, match="no image"):
        encoder_maker(gym.spaces.Box(-1.0, 1.0, (3,)), "impala", "relu")
