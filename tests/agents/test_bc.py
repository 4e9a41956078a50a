"""Behavior cloning against a plain single-seed implementation, hand-computed losses, and itself on the seed axis."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from offrl.agents.bc import BC, BCConfig, BCState
from offrl.agents.space_checks import policy_kind
from offrl.errors import OffrlError, RecipeError, SpaceMismatchError
from offrl.nn.distributions import SQUASH_MARGIN
from offrl.nn.state import state_tensors
from offrl.types import Batch, Spec
from tests.agents.batches import (
    CPU,
    act,
    bounded_below,
    continuous,
    discrete,
    multi_discrete,
    no_values_read,
    noise_of_seed,
    of_seed,
    random_batches,
    random_noise,
    run_updates,
    unbounded,
)
from tests.nn.plain import assert_member_equals, copy_of_member

UPDATES = 10
HIDDEN = (16, 12)

KINDS: dict[str, tuple[BCConfig, Spec]] = {
    "deterministic": (BCConfig(policy="deterministic"), continuous()),
    "deterministic, unbounded": (BCConfig(policy="deterministic"), unbounded()),
    "gaussian": (BCConfig(policy="gaussian", entropy_bonus=0.1), continuous()),
    "squashed": (BCConfig(policy="squashed_gaussian", entropy_bonus=0.1), continuous()),
    "categorical": (BCConfig(policy="categorical", entropy_bonus=0.1), discrete(start=3)),
    "multi-discrete": (BCConfig(policy="auto", entropy_bonus=0.1), multi_discrete()),
}
kinds = pytest.mark.parametrize(("config", "spec"), KINDS.values(), ids=KINDS.keys())


class PlainBC:
    """One seed's policy as a plain network, trained by `torch.optim.Adam` on losses from `torch.distributions`."""

    def __init__(self, agent: BC, state: BCState, seed: int) -> None:
        self.agent, self.config, self.seed = agent, agent.config, seed
        self.l1, self.l2 = state.l1[seed].item(), state.l2[seed].item()
        self.policy = copy_of_member(state.policy, seed, agent.config.activation)
        self.average = copy.deepcopy(self.policy)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=agent.config.learning_rate)

    def update(self, batch: Batch, noise: dict[str, Tensor]) -> None:
        c = self.config
        output = self.forward(batch.observation[0], noise.get("dropout"))
        loss, entropy = self.losses(output, batch.action[0], noise.get("entropy"))
        weights = [module.weight for module in self.policy if isinstance(module, nn.Linear)]
        loss = loss - (c.entropy_bonus * entropy if c.entropy_bonus else 0.0)
        loss = loss + self.l1 * sum(w.abs().sum() for w in weights) + self.l2 * sum((w**2).sum() for w in weights)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for averaged, source in zip(self.average.parameters(), self.policy.parameters(), strict=True):
                averaged.mul_(c.ema).add_((1.0 - c.ema) * source)

    def forward(self, x: Tensor, dropout_noise: Tensor | None) -> Tensor:
        """Dropout behind each activation; a unit is kept where the normal's distribution function is below `keep`."""
        if dropout_noise is None:
            output: Tensor = self.policy(x)
            return output
        keep = 1.0 - self.config.dropout
        masks = iter((Normal(0.0, 1.0).cdf(dropout_noise[0]) < keep).float().split(list(self.config.hidden), dim=1))
        for module in self.policy:
            x = module(x)
            if not isinstance(module, nn.Linear | nn.LayerNorm):
                x = x * next(masks) / keep
        return x

    def losses(self, output: Tensor, action: Tensor, entropy_noise: Tensor | None) -> tuple[Tensor, Any]:
        """The imitation loss and the entropy."""
        space, kind = self.agent.spec.action_space, self.agent.kind
        if kind == "deterministic":
            prediction = torch.tanh(output) if space.is_bounded("both") else output
            return ((prediction - action) ** 2).sum(dim=1).mean(), None
        if kind == "categorical":
            sizes = [space.n] if isinstance(space, gym.spaces.Discrete) else list(space.nvec)
            columns = action[:, None] - space.start if isinstance(space, gym.spaces.Discrete) else action
            parts = [Categorical(logits=part) for part in output.split([int(n) for n in sizes], dim=1)]
            log_prob = sum(part.log_prob(columns[:, i]) for i, part in enumerate(parts))
            return -log_prob.mean(), sum(part.entropy() for part in parts).mean()
        half = output.shape[1] // 2
        gaussian = Normal(output[:, :half], output[:, half:].clip(-5.0, 2.0).exp())
        if kind == "gaussian":
            joint = Independent(gaussian, 1)
            return -joint.log_prob(action).mean(), joint.entropy().mean()
        squashed = TransformedDistribution(gaussian, [TanhTransform()])
        inside = action.clip(-1.0 + SQUASH_MARGIN, 1.0 - SQUASH_MARGIN)
        entropy = None
        if entropy_noise is not None:
            before = gaussian.loc + gaussian.scale * entropy_noise[0]
            entropy = (gaussian.entropy() + torch.log(1.0 - torch.tanh(before) ** 2)).sum(dim=1).mean()
        return -squashed.log_prob(inside).sum(dim=1).mean(), entropy


@kinds
def test_updates_equal_a_plain_implementation(config: BCConfig, spec: Spec) -> None:
    check_parity(dataclasses.replace(config, hidden=HIDDEN, learning_rate=5e-3), spec)


@pytest.mark.parametrize(
    "options",
    [
        {"l1": 1e-2},
        {"l2": 3e-2},
        {"dropout": 0.25},
        {"layer_norm": True},
        {"ema": 0.9},
        {"activation": "gelu", "l1": 1e-3, "l2": 1e-3, "dropout": 0.1, "layer_norm": True, "ema": 0.5},
    ],
    ids=lambda options: "+".join(options),
)
def test_options_equal_a_plain_implementation(options: dict[str, Any]) -> None:
    check_parity(BCConfig(policy="gaussian", hidden=HIDDEN, learning_rate=5e-3, **options), continuous())


def check_parity(config: BCConfig, spec: Spec) -> None:
    seeds = (3, 8)
    agent = BC(config, spec)
    state = agent.init(seeds, CPU)
    state.l1 *= torch.tensor([1.0, 3.0])
    state.l2 *= torch.tensor([1.0, 0.1])
    batches, noise = random_batches(spec, UPDATES, len(seeds)), random_noise(agent, UPDATES, len(seeds))
    plains = [PlainBC(agent, state, position) for position in range(len(seeds))]
    metrics = run_updates(agent, state, batches, noise)
    for position, plain in enumerate(plains):
        for batch, draws, measured in zip(batches, noise, metrics, strict=True):
            single = of_seed(batch, position)
            with torch.no_grad():
                of_draws = noise_of_seed(draws, position)
                output = plain.forward(single.observation[0], of_draws.get("dropout"))
                loss, entropy = plain.losses(output, single.action[0], of_draws.get("entropy"))
            torch.testing.assert_close(measured["imitation_loss"][position].mean(), loss, rtol=1e-4, atol=1e-5)
            if config.entropy_bonus:
                torch.testing.assert_close(measured["entropy"][position], entropy, rtol=1e-4, atol=1e-5)
            plain.update(single, of_draws)
        assert_member_equals(state.policy, position, plain.policy)
        if config.ema:
            assert_member_equals(state.average, position, plain.average)


@kinds
@pytest.mark.parametrize(
    "options",
    [{}, {"l1": 1e-2, "l2": 1e-2, "dropout": 0.2, "layer_norm": True, "ema": 0.9}],
    ids=["plain", "everything on"],
)
def test_training_seeds_together_equals_training_each_alone(
    config: BCConfig, spec: Spec, options: dict[str, Any]
) -> None:
    seeds = (5, 11, 2)
    l1, l2 = torch.tensor([0.0, 1e-2, 1e-1]), torch.tensor([1e-1, 0.0, 1e-3])
    agent = BC(dataclasses.replace(config, hidden=HIDDEN, learning_rate=5e-3, **options), spec)
    batches, noise = random_batches(spec, UPDATES, len(seeds)), random_noise(agent, UPDATES, len(seeds))
    together = agent.init(seeds, CPU)
    initial = {name: tensor.clone() for name, tensor in state_tensors(together).items()}
    together.l1.copy_(l1)
    together.l2.copy_(l2)
    run_updates(agent, together, batches, noise)
    trained = state_tensors(together)
    observation = torch.randn(len(seeds), 4, 3)
    for position, seed in enumerate(seeds):
        alone = agent.init((seed,), CPU)
        for name, tensor in state_tensors(alone).items():
            assert torch.equal(tensor, initial[name][position : position + 1] if tensor.dim() else initial[name]), name
        alone.l1.copy_(l1[position : position + 1])
        alone.l2.copy_(l2[position : position + 1])
        run_updates(agent, alone, [of_seed(b, position) for b in batches], [noise_of_seed(n, position) for n in noise])
        for name, tensor in state_tensors(alone).items():
            expected = trained[name][position] if tensor.dim() else trained[name]
            torch.testing.assert_close(tensor[0] if tensor.dim() else tensor, expected, rtol=1e-4, atol=1e-6)
        acted = act(agent, alone, observation[position : position + 1])
        torch.testing.assert_close(acted[0], act(agent, together, observation)[position], rtol=1e-4, atol=1e-5)


@kinds
@pytest.mark.parametrize("options", [{}, {"l1": 1e-2, "dropout": 0.2, "ema": 0.9}], ids=["plain", "everything on"])
def test_no_tensors_value_is_read(config: BCConfig, spec: Spec, options: dict[str, Any]) -> None:
    agent = BC(dataclasses.replace(config, hidden=HIDDEN, **options), spec)
    state = agent.init((0, 1), CPU)
    (batch,), (noise,) = random_batches(spec, 1, 2), random_noise(agent, 1, 2)
    with no_values_read():
        agent.update(state, [batch], noise)
        for draws in (None, torch.randn(2, 8, spec.action_dim)):
            act(agent, state, batch.observation, draws)


def hand_set(policy: str, spec: Spec, weight: list[list[float]], bias: list[float], **options: Any) -> tuple[BC, Any]:
    """A linear policy of known weights, [inputs][outputs]."""
    agent = BC(BCConfig(policy=policy, hidden=(), **options), spec)  # type: ignore[arg-type]
    state = agent.init((0,), CPU)
    with torch.no_grad():
        state.policy.layers[0].weight[0, 0] = torch.tensor(weight).T
        state.policy.layers[0].bias[0, 0, 0] = torch.tensor(bias)
    state.average = state.policy.clone()
    return agent, state


def batch_of(observation: list[list[float]], action: Any) -> Batch:
    zeros = torch.zeros(1, len(observation))
    states = torch.tensor([observation])
    return Batch(states, torch.tensor([action]), zeros, zeros, states, zeros)


def test_deterministic_loss_by_hand() -> None:
    # Outputs 2 s and 0: (tanh 1 − 0.5)² + 0.3² at s = 0.5, and (tanh(−2) − 1)² + 0 at s = −1.
    agent, state = hand_set("deterministic", continuous(1, 2), [[2.0, 0.0]], [0.0, 0.0])
    batch = batch_of([[0.5], [-1.0]], [[0.5, -0.3], [1.0, 0.0]])
    expected = ((math.tanh(1) - 0.5) ** 2 + 0.09 + (math.tanh(-2) - 1) ** 2) / 2
    assert agent.update(state, [batch], {})["imitation_loss"].mean().item() == pytest.approx(expected, rel=1e-6)


def test_gaussian_loss_by_hand() -> None:
    # Mean s and spread e⁰ = 1 in the first component, mean 0 and spread 2 in the second.
    weight, bias = [[1.0, 0.0, 0.0, 0.0]], [0.0, 0.0, 0.0, math.log(2.0)]
    agent, state = hand_set("gaussian", continuous(1, 2), weight, bias, entropy_bonus=0.5)
    metrics = agent.update(state, [batch_of([[0.5]], [[-0.5, 1.0]])], {})
    expected = 0.5 * 1.0**2 + 0.5 * 0.5**2 + math.log(2.0) + math.log(2 * math.pi)
    assert metrics["imitation_loss"].mean().item() == pytest.approx(expected, rel=1e-6)
    assert metrics["entropy"].item() == pytest.approx(math.log(2.0) + 1.0 + math.log(2 * math.pi), rel=1e-6)


def test_squashed_loss_by_hand() -> None:
    # a = tanh(1) comes from u = 1, whose density under N(0.5, 1) is divided by 1 − a².
    agent, state = hand_set("squashed_gaussian", continuous(1, 1), [[1.0, 0.0]], [0.0, 0.0])
    metrics = agent.update(state, [batch_of([[0.5]], [[math.tanh(1.0)]])], {})
    expected = 0.125 + 0.5 * math.log(2 * math.pi) + math.log(1 - math.tanh(1.0) ** 2)
    assert metrics["imitation_loss"].mean().item() == pytest.approx(expected, rel=1e-5)


def test_categorical_loss_by_hand() -> None:
    # Odds 1 : 3 between the actions 5 and 6.
    agent, state = hand_set("categorical", discrete(1, 2, start=5), [[0.0, 0.0]], [0.0, math.log(3.0)])
    metrics = agent.update(state, [batch_of([[1.0], [1.0]], [5, 6])], {})
    assert metrics["imitation_loss"].mean().item() == pytest.approx(-(math.log(0.25) + math.log(0.75)) / 2, rel=1e-6)


def test_multi_discrete_loss_by_hand() -> None:
    bias = [0.0, math.log(3.0), 0.0, 0.0, 0.0]
    agent, state = hand_set("categorical", multi_discrete(1, (2, 3)), [[0.0] * 5], bias, entropy_bonus=1.0)
    metrics = agent.update(state, [batch_of([[1.0]], [[1, 2]])], {})
    assert metrics["imitation_loss"].mean().item() == pytest.approx(-math.log(0.75) - math.log(1 / 3), rel=1e-6)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) + math.log(3.0)
    assert metrics["entropy"].item() == pytest.approx(entropy, rel=1e-6)


def test_the_penalty_is_on_weights_and_not_on_biases_gains_or_offsets() -> None:
    """With an imitation loss of gradient zero, only penalized parameters move."""
    config = BCConfig(policy="deterministic", hidden=(4,), layer_norm=True, l1=0.5, l2=0.25)
    agent = BC(config, unbounded(2, 1))
    state = agent.init((0,), CPU)
    observation = torch.randn(1, 6, 2)
    with torch.no_grad():
        action = state.policy(observation)
    before = {name: tensor.clone() for name, tensor in state.policy.named_parameters()}
    batch = dataclasses.replace(batch_of([[0.0, 0.0]], [[0.0]]), observation=observation, action=action)
    agent.update(state, [batch], {})
    for name, parameter in state.policy.named_parameters():
        moved = parameter - before[name]
        if name.endswith("weight"):
            # Adam's first step is its learning rate against the sign of the gradient, that of the weight itself.
            torch.testing.assert_close(moved, -1e-3 * before[name].sign(), rtol=1e-3, atol=0.0)
        else:
            assert moved.abs().max() < 1e-6, name


def test_each_seed_may_have_a_coefficient_of_its_own() -> None:
    agent = BC(BCConfig(hidden=(4,), l1=0.5), unbounded(2, 1))
    state = agent.init((0, 1), CPU)
    assert agent.penalties == ("l1", "l2")
    agent.set_penalty(state, "l1", torch.tensor([0.0, 2.0]))
    agent.set_penalty(state, "l2", torch.tensor([3.0, 0.0]))
    weights = [layer.weight for layer in state.policy.layers]
    squares = sum((weight[0] ** 2).sum() for weight in weights)
    sizes = sum(weight[1].abs().sum() for weight in weights)
    torch.testing.assert_close(agent.penalty(state), torch.stack([3.0 * squares, 2.0 * sizes]))


def test_choices_that_count_from_elsewhere_are_numbered_as_the_environment_does() -> None:
    space = gym.spaces.MultiDiscrete([2, 3], start=[5, -1])
    agent = BC(BCConfig(hidden=()), Spec(continuous(1).observation_space, space))
    state = agent.init((0,), CPU)
    with torch.no_grad():
        state.policy.layers[0].weight.zero_()
        state.policy.layers[0].bias[0, 0, 0] = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0])
    observation = torch.zeros(1, 1, 1)
    assert act(agent, state, observation).tolist() == [[[6, 0]]]
    log_prob = agent.log_prob(state, observation, torch.tensor([[[5, 1]]]), ())
    expected = -math.log(1.0 + math.e) - math.log(2.0 + math.e**2)
    assert log_prob.item() == pytest.approx(expected, rel=1e-5)


def test_the_average_acts_where_there_is_one() -> None:
    spec, observation = continuous(), torch.randn(1, 4, 3)
    for ema in (0.0, 0.5):
        agent = BC(BCConfig(hidden=HIDDEN, ema=ema, learning_rate=0.05), spec)
        state = agent.init((0,), CPU)
        start = state.policy.flat.clone()
        run_updates(agent, state, random_batches(spec, 1, 1), random_noise(agent, 1, 1))
        acting = state.average if ema else state.policy
        torch.testing.assert_close(acting.flat, start.lerp(state.policy.flat, 1.0 - ema))
        plain = copy_of_member(acting, 0)
        torch.testing.assert_close(act(agent, state, observation)[0], plain(observation[0]).tanh())


def test_validation_is_the_imitation_loss_alone() -> None:
    spec = continuous()
    config = BCConfig(policy="gaussian", hidden=HIDDEN, dropout=0.5, entropy_bonus=1.0, l1=1.0, l2=1.0)
    agent = BC(config, spec)
    state = agent.init((0, 1), CPU)
    (batch,) = random_batches(spec, 1, 2)
    loss = agent.validation_loss(state, batch)
    expected = -agent.log_prob(state, batch.observation, batch.action, ()).mean(dim=1)
    torch.testing.assert_close(loss, expected)
    assert not loss.requires_grad
    assert torch.equal(loss, agent.validation_loss(state, batch))


def test_greedy_actions_are_modes() -> None:
    agent, state = hand_set("gaussian", continuous(1, 1), [[4.0, 0.0]], [0.0, 0.0])
    # A mean beyond the bound is clipped; the mean of a squashed policy goes through tanh.
    assert act(agent, state, torch.tensor([[[0.1], [1.0]]])).squeeze().tolist() == pytest.approx([0.4, 1.0])
    agent, state = hand_set("squashed_gaussian", continuous(1, 1), [[4.0, 0.0]], [0.0, 0.0])
    assert act(agent, state, torch.tensor([[[0.1]]])).item() == pytest.approx(math.tanh(0.4))
    agent, state = hand_set("categorical", discrete(1, 3, start=2), [[0.0] * 3], [0.0, 2.0, 1.0])
    action = act(agent, state, torch.zeros(1, 4, 1))
    assert action.dtype == torch.int64
    assert action.tolist() == [[3, 3, 3, 3]]
    agent, state = hand_set("categorical", multi_discrete(1, (2, 3)), [[0.0] * 5], [1.0, 0.0, 0.0, 0.0, 1.0])
    assert act(agent, state, torch.zeros(1, 2, 1)).tolist() == [[[0, 2], [0, 2]]]


def test_actions_sampled_with_draws_follow_the_policy() -> None:
    draws = torch.tensor([[[0.5], [-2.0]]])
    observation = torch.zeros(1, 2, 1)
    agent, state = hand_set("gaussian", unbounded(1, 1), [[0.0, 0.0]], [0.3, math.log(2.0)])
    assert act(agent, state, observation, draws).flatten().tolist() == pytest.approx([1.3, -3.7])
    agent, state = hand_set("squashed_gaussian", continuous(1, 1), [[0.0, 0.0]], [0.3, math.log(2.0)])
    expected = [math.tanh(1.3), math.tanh(-3.7)]
    assert act(agent, state, observation, draws).flatten().tolist() == pytest.approx(expected, rel=1e-5)
    agent, state = hand_set("gaussian", continuous(1, 1), [[0.0, 0.0]], [0.3, math.log(2.0)])
    assert act(agent, state, observation, draws).flatten().tolist() == [1.0, -1.0]
    agent, state = hand_set("deterministic", continuous(1, 1), [[0.0]], [0.3])
    assert torch.equal(act(agent, state, observation, draws), act(agent, state, observation))


def test_sampled_discrete_actions_come_as_often_as_they_are_likely() -> None:
    agent, state = hand_set("categorical", discrete(1, 3, start=4), [[0.0] * 3], [math.log(p) for p in (0.2, 0.3, 0.5)])
    count = 20_000
    noise = torch.randn(1, count, 3, generator=torch.Generator().manual_seed(0))
    action = act(agent, state, torch.zeros(1, count, 1), noise)[0]
    for choice, probability in zip((4, 5, 6), (0.2, 0.3, 0.5), strict=True):
        frequency = (action == choice).float().mean().item()
        assert abs(frequency - probability) < 4 * (probability * (1 - probability) / count) ** 0.5


def test_sampling_and_density_agree() -> None:
    """The mean negative log-density of samples is the entropy, for a policy that `has_density`."""
    agent, state = hand_set("squashed_gaussian", continuous(1, 1), [[0.0, 0.0]], [0.3, -0.5])
    assert agent.has_density
    count = 20_000
    noise = torch.randn(1, count, 1, generator=torch.Generator().manual_seed(0))
    observation = torch.zeros(1, count, 1)
    log_prob = agent.log_prob(state, observation, act(agent, state, observation, noise), ())[0]
    u = torch.linspace(-6.0, 7.0, 100_001, dtype=torch.float64)
    gaussian = Normal(torch.tensor(0.3).double(), torch.tensor(math.exp(-0.5)).double()).log_prob(u)
    entropy = -torch.trapezoid(gaussian.exp() * (gaussian - torch.log(1.0 - u.tanh() ** 2)), u).item()
    assert abs(-log_prob.mean().item() - entropy) < 4 * log_prob.std().item() / count**0.5


@pytest.mark.parametrize(
    ("policy", "spec", "has_density"),
    [
        ("deterministic", continuous(), False),
        ("gaussian", continuous(), False),
        ("gaussian", bounded_below(), False),
        ("gaussian", unbounded(), True),
        ("squashed_gaussian", continuous(), True),
        ("categorical", discrete(), True),
    ],
)
def test_which_policies_have_a_density(policy: Any, spec: Spec, has_density: bool) -> None:
    assert BC(BCConfig(policy=policy), spec).has_density is has_density


def test_a_deterministic_policy_has_no_log_prob() -> None:
    agent, state = hand_set("deterministic", continuous(1, 1), [[1.0]], [0.0])
    with pytest.raises(SpaceMismatchError, match="no density"):
        agent.log_prob(state, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), ())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [(continuous(), "deterministic"), (discrete(), "categorical"), (multi_discrete(), "categorical")],
)
def test_the_kind_follows_the_action_space(spec: Spec, expected: str) -> None:
    assert policy_kind("auto", spec) == expected


MULTI_BINARY = Spec(continuous().observation_space, gym.spaces.MultiBinary(2))
HALF_BOUNDED = Spec(continuous().observation_space, gym.spaces.Box(np.float32([-1, -np.inf]), np.float32([1, 1])))


@pytest.mark.parametrize(
    ("options", "spec", "error", "words"),
    [
        ({"policy": "categorical"}, continuous(), SpaceMismatchError, "deterministic, gaussian"),
        ({"policy": "gaussian"}, discrete(), SpaceMismatchError, "categorical"),
        ({"policy": "auto"}, MULTI_BINARY, SpaceMismatchError, "MultiBinary"),
        ({"policy": "squashed_gaussian"}, unbounded(), SpaceMismatchError, "finite action bounds"),
        ({"policy": "squashed_gaussian"}, HALF_BOUNDED, SpaceMismatchError, "finite action bounds"),
        ({"entropy_bonus": 0.1}, continuous(), RecipeError, "entropy"),
    ],
)
def test_options_that_do_not_fit_the_task_are_refused(
    options: dict[str, Any], spec: Spec, error: type[OffrlError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        BC(BCConfig(**options), spec)
    assert caught.value.hint
