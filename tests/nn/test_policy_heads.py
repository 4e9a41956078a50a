"""Stochastic actors: densities against `torch.distributions`, slopes by hand, sampling against densities."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from offrl.errors import RecipeError
from offrl.nn import MLP, seed_generators
from offrl.nn.distributions import categorical_sample
from offrl.nn.policy_heads import CategoricalActor, GaussianActor, actor_of, check_adoptable, is_bounded
from offrl.types import Spec

SEEDS, ROWS, ACTIONS, CHOICES = 2, 7, 3, (3, 2)


def gaussian(squashed: bool = False, bounded: bool = False) -> GaussianActor:
    network = MLP(4, ACTIONS, (6,), seed_generators(range(SEEDS)), activation="tanh")
    actor = GaussianActor(network, ACTIONS, 0.0, squashed=squashed, bounded=bounded)
    with torch.no_grad():
        actor.log_std.copy_(normal(SEEDS, 1, ACTIONS).mul(0.5))
    return actor.double()


def categorical(choices: tuple[int, ...] = CHOICES, first: tuple[int, ...] = (0, 0)) -> CategoricalActor:
    network = MLP(4, sum(choices), (6,), seed_generators(range(SEEDS)), activation="tanh")
    return CategoricalActor(network, choices, first, single=len(choices) == 1).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def actors() -> list[Any]:
    return [
        pytest.param(gaussian(), normal(SEEDS, ROWS, ACTIONS, seed=1), id="gaussian"),
        pytest.param(gaussian(squashed=True), normal(SEEDS, ROWS, ACTIONS, seed=1).tanh(), id="squashed"),
        pytest.param(categorical((5,), (0,)), torch.arange(SEEDS * ROWS).view(SEEDS, ROWS) % 5, id="categorical"),
        pytest.param(
            categorical(first=(10, -1)),
            torch.stack([torch.arange(14) % 3 + 10, torch.arange(14) % 2 - 1], dim=-1).view(SEEDS, ROWS, 2),
            id="multi-discrete",
        ),
    ]


Actor = GaussianActor | CategoricalActor


@pytest.mark.parametrize(("actor", "action"), actors())
def test_densities_are_of_actions_as_they_are_logged(actor: Actor, action: Tensor) -> None:
    outputs = sum(CHOICES) if isinstance(actor, CategoricalActor) else ACTIONS
    distribution = actor.distribution(normal(SEEDS, ROWS, outputs, seed=2))
    found, unsquashed = actor.log_density(distribution, action), actor.log_prob(distribution, actor.encode(action))
    squashed = isinstance(actor, GaussianActor) and actor.squashed
    change = (1.0 - action.square()).log().sum(dim=-1) if squashed else torch.zeros(SEEDS, ROWS)
    torch.testing.assert_close(found, unsquashed - change, check_dtype=False)


@pytest.mark.parametrize("what", ["log_prob", "entropy", "estimated entropy", "divergence"])
def test_gaussians_slopes_by_hand(what: str) -> None:
    """Of one action component with mean 0.5 and standard deviation e^0.3, by mean and by log_std."""
    actor = gaussian(squashed=what == "estimated entropy")
    mean, log_std = torch.tensor([[[0.5]]]).requires_grad_(), torch.tensor([[[0.3]]]).requires_grad_()
    old, variance, noise = (torch.tensor([[[1.0]]]), torch.tensor([[[0.1]]])), math.exp(0.6), 0.7
    if what == "log_prob":
        value = actor.log_prob((mean, log_std), torch.tensor([[[2.0]]]))
        expected = 1.5 / variance, 1.5**2 / variance - 1.0
    elif what == "divergence":
        value = actor.divergence(old, (mean, log_std))
        expected = -0.5 / variance, 1.0 - (math.exp(0.2) + 0.5**2) / variance
    elif what == "entropy":
        value, expected = actor.entropy((mean, log_std)), (0.0, 1.0)
    else:
        # log(1 − tanh² u) has the derivative −2 tanh u.
        deviation = math.exp(0.3) * noise
        by_mean = -2.0 * math.tanh(0.5 + deviation)
        value = actor.entropy((mean, log_std), torch.tensor([[[noise]]]))
        expected = by_mean, 1.0 + by_mean * deviation
    slopes = torch.autograd.grad(value.sum(), [mean, log_std], materialize_grads=True)
    assert [slope.item() for slope in slopes] == pytest.approx(expected, rel=1e-5)


def test_gaussians_are_torchs() -> None:
    actor, output = gaussian(), normal(SEEDS, ROWS, ACTIONS, seed=2)
    action, old = (
        normal(SEEDS, ROWS, ACTIONS, seed=1),
        (normal(SEEDS, ROWS, ACTIONS, seed=4), normal(SEEDS, 1, ACTIONS)),
    )
    new = actor.distribution(output)

    def torchs(mean: Tensor, log_std: Tensor) -> Independent:
        return Independent(Normal(mean, log_std.exp().expand_as(mean)), 1)

    torch.testing.assert_close(actor.log_prob(new, actor.encode(action)), torchs(*new).log_prob(action))
    torch.testing.assert_close(actor.entropy(new).expand(SEEDS, ROWS), torchs(*new).entropy())
    torch.testing.assert_close(actor.divergence(old, new), kl_divergence(torchs(*old), torchs(*new)))


def test_categoricals_are_torchs() -> None:
    actor = categorical(first=(10, -1))
    logits, old_logits = normal(SEEDS, ROWS, 5, seed=2), normal(SEEDS, ROWS, 5, seed=4)
    new, old = actor.distribution(logits), actor.distribution(old_logits)
    choice = torch.stack([torch.arange(14) % 3, torch.arange(14) % 2], dim=-1).view(SEEDS, ROWS, 2)

    def torchs(joined: Tensor) -> list[Categorical]:
        return [Categorical(logits=part) for part in joined.split(CHOICES, dim=-1)]

    encoded = actor.encode(choice + torch.tensor([10, -1]))
    assert torch.equal(encoded, choice)
    log_prob = sum(part.log_prob(choice[..., i]) for i, part in enumerate(torchs(logits)))
    torch.testing.assert_close(actor.log_prob(new, encoded), log_prob)
    torch.testing.assert_close(actor.entropy(new), sum(part.entropy() for part in torchs(logits)))
    divergence = sum(kl_divergence(p, q) for p, q in zip(torchs(old_logits), torchs(logits), strict=True))
    torch.testing.assert_close(actor.divergence(old, new), divergence)


def test_a_squashed_policys_ratios_and_divergences_need_no_derivative_of_the_squashing() -> None:
    actor, action = gaussian(squashed=True), normal(SEEDS, ROWS, ACTIONS, seed=1).tanh()
    encoded = actor.encode(action)
    torch.testing.assert_close(encoded.tanh(), action)
    one, other = (actor.distribution(normal(SEEDS, ROWS, ACTIONS, seed=seed)) for seed in (2, 4))
    difference = actor.log_prob(one, encoded) - actor.log_prob(other, encoded)
    correction = torch.log(1.0 - action.square()).sum(dim=-1)
    densities = [
        Normal(mean, log_std.exp()).log_prob(action.atanh()).sum(dim=-1) - correction for mean, log_std in (one, other)
    ]
    torch.testing.assert_close(difference, densities[0] - densities[1])


def act(actor: Actor, output: Tensor, noise: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return actor.act(output, noise)


def test_actions_at_the_bounds_are_finite() -> None:
    encoded = gaussian(squashed=True).encode(torch.tensor([[[1.0, -1.0, 0.0]]]))
    assert encoded.isfinite().all()
    assert encoded[0, 0, 0] == -encoded[0, 0, 1] > 4.0


@pytest.mark.parametrize(("actor", "action"), actors())
def test_samples_follow_the_density(actor: Actor, action: Tensor) -> None:
    """The log-probabilities of samples average to minus the entropy; draws in the middle give the mode."""
    rows, outputs = 40_000, sum(CHOICES) if isinstance(actor, CategoricalActor) else ACTIONS
    output = normal(SEEDS, 1, outputs, seed=2).expand(-1, rows, -1)
    distribution = actor.distribution(output)
    samples = act(actor, output, normal(SEEDS, rows, outputs, seed=9))
    assert samples.dtype == action.dtype
    assert samples.shape[2:] == action.shape[2:]
    mean = actor.log_prob(distribution, actor.encode(samples)).mean(dim=1)
    torch.testing.assert_close(mean, -actor.entropy(distribution)[:, 0], rtol=0.0, atol=0.02)
    mode = act(actor, output)[:, :1]
    best = actor.log_prob(actor.distribution(output[:, :1]), actor.encode(mode))
    assert (best >= actor.log_prob(distribution, actor.encode(samples)) - 1e-12).all()
    if isinstance(actor, GaussianActor):
        torch.testing.assert_close(act(actor, output, torch.zeros(SEEDS, rows, outputs))[:, :1], mode)


def test_greedy_actions_are_clipped_where_there_are_bounds_and_samples_never() -> None:
    output = torch.full((SEEDS, 1, ACTIONS), 3.0, dtype=torch.float64)
    assert act(gaussian(bounded=True), output).eq(1.0).all()
    assert act(gaussian(), output).eq(3.0).all()
    spread = gaussian().log_std.detach().exp()
    torch.testing.assert_close(act(gaussian(bounded=True), output, torch.ones_like(output)), output + spread)


def test_forbidden_actions_have_no_chance() -> None:
    actor = categorical((4,), (0,))
    mask = torch.tensor([True, False, True, False]).expand(SEEDS, 1000, 4)
    distribution = actor.distribution(normal(SEEDS, 1, 4).expand(-1, 1000, -1), mask)
    assert set(categorical_sample(list(distribution), normal(SEEDS, 1000, 4, seed=3)).unique().tolist()) == {0, 2}
    p = distribution[0].exp()
    torch.testing.assert_close(p[..., 0] + p[..., 2], torch.ones_like(p[..., 0]))
    expected = -(p[..., 0] * p[..., 0].log() + p[..., 2] * p[..., 2].log())
    torch.testing.assert_close(actor.entropy(distribution), expected)


def test_the_networks_flat_tensor_is_part_of_the_actors() -> None:
    for actor in (gaussian(), gaussian().clone(), categorical(), gaussian().float()):
        actor.network.flat.fill_(7.0)
        for parameter in actor.network.parameters():
            assert parameter.eq(7.0).all()
        actor.flat.fill_(5.0)
        assert all(parameter.eq(5.0).all() for parameter in actor.parameters())


OBSERVATIONS = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)


@pytest.mark.parametrize(
    ("space", "kind", "choices", "shape"),
    [
        (gym.spaces.Box(-1.0, 1.0, (2,), np.float32), "squashed_gaussian", ((), ()), (1, 5, 2)),
        (gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), "gaussian", ((), ()), (1, 5, 2)),
        (gym.spaces.Discrete(3, start=7), "categorical", ((3,), (7,)), (1, 5)),
        (gym.spaces.MultiDiscrete([3, 2]), "categorical", ((3, 2), (0, 0)), (1, 5, 2)),
    ],
)
def test_policies_fit_the_action_space(
    space: gym.Space[Any], kind: str, choices: tuple[tuple[int, ...], tuple[int, ...]], shape: tuple[int, ...]
) -> None:
    spec = Spec(OBSERVATIONS, space)
    actor = actor_of(kind, MLP(4, spec.action_dim, (6,), seed_generators((0,))), spec, choices, -0.5)
    actions = actor.act(torch.randn(1, 5, spec.action_dim), torch.randn(1, 5, spec.action_dim))
    assert actions.shape == shape
    assert is_bounded(spec) == (kind == "squashed_gaussian")
    if isinstance(actor, GaussianActor):
        assert (actor.squashed, actor.bounded) == (is_bounded(spec), is_bounded(spec))
        assert actor.log_std.eq(-0.5).all()
    else:
        assert all(space.contains(one) for one in actions[0].numpy())


@pytest.mark.parametrize(
    ("kind", "other", "bounded", "hint"),
    [
        ("gaussian", "gaussian", True, None),
        ("gaussian", "deterministic", False, None),
        ("gaussian", "deterministic", True, "squashed_gaussian"),
        ("squashed_gaussian", "deterministic", True, None),
        ("squashed_gaussian", "gaussian", True, "gaussian"),
        ("categorical", "categorical", False, None),
        ("categorical", "gaussian", False, "gaussian"),
    ],
)
def test_networks_are_taken_over_where_greedy_actions_stay(
    kind: str, other: str, bounded: bool, hint: str | None
) -> None:
    if hint is None:
        check_adoptable(kind, other, bounded=bounded)
        return
    with pytest.raises(RecipeError, match=f"agent.policy={hint}"):
        check_adoptable(kind, other, bounded=bounded)
