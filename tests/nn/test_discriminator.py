"""Discriminators beside autograd, and what of a transition they see."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from offrl.nn import seed_generators
from offrl.nn.discriminator import Discriminator, TransitionFeatures, gradient_penalty
from offrl.types import Batch, Spec
from tests.agents.batches import continuous, discrete, multi_discrete, random_batches
from tests.nn.plain import copy_of_member

X = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("hidden", [(), (6,), (8, 6)])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_slopes_and_penalty_are_those_of_autograd(
    activation: Any, hidden: tuple[int, ...], spectral_norm: bool
) -> None:
    discriminator = Discriminator(
        5, hidden, seed_generators((0, 1)), activation=activation, spectral_norm=spectral_norm
    )
    layers = discriminator.layers()
    ours = torch.autograd.grad(
        gradient_penalty(discriminator, layers, X).sum(), discriminator.own_parameters, allow_unused=True
    )
    for seed in range(2):
        x = X[seed].clone().requires_grad_()
        weights = [(part.weight[seed].detach().clone().requires_grad_(), part.bias[seed].detach()) for part in layers]
        h = x
        for i, (weight, bias) in enumerate(weights):
            h = nn.functional.linear(h, weight, bias[0])
            if i < len(weights) - 1:
                h = getattr(torch, activation)(h)
        torch.testing.assert_close(discriminator(X, layers)[seed], h[:, 0])
        (slope,) = torch.autograd.grad(h.sum(), x, create_graph=True)
        torch.testing.assert_close(discriminator.input_gradient(X, layers)[seed], slope)
        if spectral_norm:
            continue
        penalty = ((slope.norm(dim=1) - 1.0) ** 2).mean()
        expected = torch.autograd.grad(penalty, [weight for weight, _ in weights])
        for gradient, other in zip(ours[::2], expected, strict=True):
            assert gradient is not None
            torch.testing.assert_close(gradient[seed, 0], other)


def test_without_gradients_the_output_is_the_same() -> None:
    discriminator = Discriminator(5, (8,), seed_generators((3,)))
    plain = copy_of_member(discriminator.network, 0)
    with torch.no_grad():
        torch.testing.assert_close(discriminator(X[:1]), plain(X[0])[None, :, 0])
    torch.testing.assert_close(discriminator(X[:1]), plain(X[0])[None, :, 0])


def batch_of(spec: Spec) -> Batch:
    (batch,) = random_batches(spec, 1, 2, 5)
    return batch


@pytest.mark.parametrize(
    ("spec", "inputs", "absorbing", "width"),
    [
        (continuous(), "state_action", False, 5),
        (continuous(), "state_action", True, 6),
        (continuous(), "state", False, 3),
        (continuous(), "state", True, 4),
        (continuous(), "transition", False, 6),
        (continuous(), "transition", True, 8),
        (discrete(actions=4, start=3), "state_action", True, 8),
        (multi_discrete(choices=(3, 2)), "state_action", False, 8),
    ],
)
def test_features_are_what_their_name_says(spec: Spec, inputs: Any, absorbing: bool, width: int) -> None:
    batch, features = batch_of(spec), TransitionFeatures(spec, inputs, absorbing=absorbing, indicator=3.0)
    x = features(batch)
    assert x.shape == (2, 5, features.width) == (2, 5, width)
    assert torch.equal(x[..., :3], batch.observation)
    if inputs == "state_action" and spec.is_continuous:
        assert torch.equal(x[..., 3:5], batch.action)
    if isinstance(spec.action_space, gym.spaces.Discrete):
        assert torch.equal(x[..., 3:7].argmax(-1) + 3, batch.action)
    if isinstance(spec.action_space, gym.spaces.MultiDiscrete):
        chosen = torch.stack([x[..., 3:6].argmax(-1), x[..., 6:8].argmax(-1)], dim=-1)
        assert torch.equal(chosen, batch.action)
        assert (x[..., 3:].sum(-1) == 2.0).all()
    if inputs == "transition":
        assert torch.equal(x[..., 3:6], batch.next_observation)
    if absorbing:
        ends = batch.terminated if inputs == "transition" else torch.zeros(2, 5)
        assert torch.equal(x[..., -1], 3.0 * ends)
        absorbed = [0.0] * (width - features.states) + [3.0] * features.states
        assert torch.equal(features.absorbed(batch)[0, 0], torch.tensor(absorbed))


def test_observations_alone_are_normalized() -> None:
    batch, features = batch_of(continuous()), TransitionFeatures(continuous(), "state_action")
    moments = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [9.0, 9.0, 9.0]]]).expand(2, -1, -1)
    x = features(batch, moments)
    torch.testing.assert_close(x[..., :3], (batch.observation - torch.tensor([1.0, 2.0, 3.0])) / 2.0)
    assert torch.equal(x[..., 3:], batch.action)


def test_nested_observations_are_seen_whole() -> None:
    box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    spec = Spec(gym.spaces.Dict({"a": box, "b": gym.spaces.Discrete(2)}), continuous().action_space)
    nested = {"a": torch.randn(2, 5, 2), "b": torch.ones(2, 5, dtype=torch.int64)}
    batch = dataclasses.replace(batch_of(continuous()), observation=nested, next_observation=nested)
    x = TransitionFeatures(spec, "transition")(batch)
    expected = torch.cat([nested["a"], torch.tensor([0.0, 1.0]).expand(2, 5, 2)] * 2, dim=-1)
    assert torch.equal(x, expected)
