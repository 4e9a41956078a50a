"""SAC against plain single-seed implementations, hand-computed values, and itself on the seed axis."""

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
from torch.distributions import Categorical, Normal
from torch.distributions.transforms import TanhTransform

from offrl.agents.sac import ALGORITHM, SAC, SACConfig, SACState
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.nn import MLP, seed_generators
from offrl.nn.distributions import split_gaussian, squashed_gaussian_log_prob
from offrl.nn.sde import StateDependentGaussian
from offrl.nn.state import state_tensors
from offrl.types import Batch, Noise, Spec
from tests.agents.batches import (
    CPU,
    act,
    continuous,
    discrete,
    masked,
    multi_discrete,
    no_values_read,
    noise_of_seed,
    of_seed,
    random_batches,
    random_noise,
    run_updates,
    unbounded,
)
from tests.nn.plain import assert_member_equals, copy_of_member, fall_linearly

UPDATES = 10
SMALL = SACConfig(
    hidden=(16, 12),
    actor_learning_rate=3e-3,
    critic_learning_rate=5e-3,
    temperature_learning_rate=2e-2,
    target_rate=0.05,
    initial_temperature=0.5,
)


def small(**options: Any) -> SACConfig:
    return dataclasses.replace(SMALL, **options)


VALUE, SDE = small(value_network=True), small(sde=True, sde_initial_log_std=-1.0)
FALLING = small(value_network=True, decay_steps=15)
ANCHORED = small(bc_alpha=1.5, bc_decay=0.9)
OPTIONS = small(activation="tanh", layer_norm=True, dropout=0.3, weight_decay=0.1, max_gradient_norm=0.5)


class PlainSAC:
    """The algorithm as the papers' pseudo-codes have it, for one seed and continuous actions, in plain PyTorch."""

    def __init__(self, config: SACConfig, state: SACState, seed: int) -> None:
        self.config = config
        mean = state.actor.mean if isinstance(state.actor, StateDependentGaussian) else state.actor
        self.actor = copy_of_member(mean, seed)
        parameters = list(self.actor.parameters())
        if isinstance(state.actor, StateDependentGaussian):
            self.log_std = nn.Parameter(state.actor.log_std[seed].detach().clone())
            parameters.append(self.log_std)
        self.critics = nn.ModuleList(copy_of_member(state.critic, seed, member=member) for member in range(2))
        self.value = copy_of_member(state.value, seed) if state.value is not None else None
        self.target = copy.deepcopy(self.critics if self.value is None else self.value)
        self.log_alpha = state.temperature.log_alpha[seed, 0].detach().clone().requires_grad_()
        self.bc_weight = 1.0
        self.actor_optimizer = torch.optim.Adam(parameters, lr=config.actor_learning_rate)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=config.critic_learning_rate)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=config.temperature_learning_rate)
        for optimizer in (self.actor_optimizer, self.critic_optimizer, self.alpha_optimizer):
            fall_linearly(optimizer, config.decay_steps)
        if self.value is not None:
            self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=config.critic_learning_rate)
            fall_linearly(self.value_optimizer, config.decay_steps)

    def policy(self, state: Tensor) -> Normal:
        """What is squashed."""
        if not self.config.sde:
            mean, log_std = self.actor(state).chunk(2, dim=1)
            return Normal(mean, log_std.exp())
        features = self.actor[:-1](state)
        variance = (features**2) @ (self.log_std.exp() ** 2)
        return Normal(self.actor[-1](features), torch.sqrt(variance + 1e-6))

    def sample(self, state: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        policy = self.policy(state)
        before = policy.mean + policy.stddev * draws
        action = before.tanh()
        jacobian = TanhTransform().log_abs_det_jacobian(before, action)
        return action, (policy.log_prob(before) - jacobian).sum(dim=1)

    def lower(self, critics: nn.ModuleList, state: Tensor, action: Tensor) -> Tensor:
        first, second = (critic(torch.cat([state, action], dim=1))[:, 0] for critic in critics)
        return torch.min(first, second)

    def update(self, batch: Batch, noise: Noise) -> None:
        """One cycle for a batch and draws with a seed axis of one."""
        state, action, next_state = batch.observation[0], batch.action[0], batch.next_observation[0]
        not_done = 1.0 - batch.terminated[0]
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            if self.value is None:
                next_action, next_log_prob = self.sample(next_state, noise["next_action"][0])
                next_value = self.lower(self.target, next_state, next_action) - alpha * next_log_prob
            else:
                next_value = self.target(next_state)[:, 0]
            target = batch.reward[0] + not_done * 0.9 * next_value
            new_action, log_prob = self.sample(state, noise["action"][0])
            value_target = self.lower(self.critics, state, new_action) - alpha * log_prob
        if self.value is not None:
            step(self.value_optimizer, nn.functional.mse_loss(self.value(state)[:, 0], value_target))
        inputs = torch.cat([state, action], dim=1)
        losses = [nn.functional.mse_loss(critic(inputs)[:, 0], target) for critic in self.critics]
        step(self.critic_optimizer, losses[0] + losses[1])
        new_action, log_prob = self.sample(state, noise["action"][0])
        value = self.lower(self.critics, state, new_action) - alpha * log_prob
        step(self.actor_optimizer, anchored(self, value, nn.functional.mse_loss(new_action, action)))
        target_entropy = -action.shape[1]
        step(self.alpha_optimizer, -(self.log_alpha * (log_prob.detach() + target_entropy)).mean())
        follow(self.target, self.critics if self.value is None else self.value, self.config.target_rate)

    def assert_equals(self, state: SACState, position: int) -> None:
        mean = state.actor.mean if isinstance(state.actor, StateDependentGaussian) else state.actor
        assert_member_equals(mean, position, self.actor)
        if isinstance(state.actor, StateDependentGaussian):
            torch.testing.assert_close(state.actor.log_std[position], self.log_std, rtol=0.0, atol=1e-5)
        assert_rest_equals(self, state, position)
        if self.value is None:
            for member in range(2):
                assert_member_equals(state.target, position, self.target[member], member)
        else:
            assert state.value is not None
            assert_member_equals(state.value, position, self.value)
            assert_member_equals(state.target, position, self.target)


class PlainDiscreteSAC:
    """Christodoulou (2019), for one seed, in plain PyTorch."""

    def __init__(self, config: SACConfig, state: SACState, seed: int) -> None:
        assert isinstance(state.actor, MLP)
        self.config = config
        self.actor = copy_of_member(state.actor, seed)
        self.critics = nn.ModuleList(copy_of_member(state.critic, seed, member=member) for member in range(2))
        self.target = copy.deepcopy(self.critics)
        self.log_alpha = state.temperature.log_alpha[seed, 0].detach().clone().requires_grad_()
        self.bc_weight = 1.0
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=config.actor_learning_rate)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=config.critic_learning_rate)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=config.temperature_learning_rate)

    def update(self, batch: Batch, noise: Noise) -> None:
        """One cycle for a batch with a seed axis of one; actions count from 5."""
        assert not noise
        state, action, next_state = batch.observation[0], batch.action[0] - 5, batch.next_observation[0]
        not_done = 1.0 - batch.terminated[0]
        alpha = self.log_alpha.exp().detach()
        allowed = [torch.ones(len(action), 4, dtype=torch.bool)] * 2
        if batch.action_mask is not None and batch.next_action_mask is not None:
            allowed = [batch.action_mask[0], batch.next_action_mask[0]]
        with torch.no_grad():
            policy = Categorical(logits=self.actor(next_state).masked_fill(~allowed[1], -math.inf))
            q = torch.min(self.target[0](next_state), self.target[1](next_state))
            next_value = (policy.probs * q).sum(dim=1) + alpha * policy.entropy()
            target = batch.reward[0] + not_done * 0.9 * next_value
        rows = torch.arange(len(action))
        losses = [nn.functional.mse_loss(critic(state)[rows, action], target) for critic in self.critics]
        step(self.critic_optimizer, losses[0] + losses[1])
        policy = Categorical(logits=self.actor(state).masked_fill(~allowed[0], -math.inf))
        with torch.no_grad():
            q = torch.min(self.critics[0](state), self.critics[1](state))
        value = (policy.probs * q).sum(dim=1) + alpha * policy.entropy()
        step(self.actor_optimizer, anchored(self, value, nn.functional.cross_entropy(policy.logits, action)))
        entropy = policy.entropy().mean().detach()
        attainable = allowed[0].sum(dim=1).log().mean()
        step(self.alpha_optimizer, self.log_alpha * (entropy - 0.98 * attainable))
        follow(self.target, self.critics, self.config.target_rate)

    def assert_equals(self, state: SACState, position: int) -> None:
        assert isinstance(state.actor, MLP)
        assert_member_equals(state.actor, position, self.actor)
        assert_rest_equals(self, state, position)
        for member in range(2):
            assert_member_equals(state.target, position, self.target[member], member)


def anchored(plain: PlainSAC | PlainDiscreteSAC, value: Tensor, distance: Tensor) -> Tensor:
    """The actor's loss, with TD3+BC's form where that is asked for."""
    c = plain.config
    if not c.bc_alpha:
        return -value.mean()
    loss = -c.bc_alpha / value.abs().mean().detach() * value.mean() + plain.bc_weight * distance
    plain.bc_weight *= c.bc_decay
    return loss


def assert_rest_equals(plain: PlainSAC | PlainDiscreteSAC, state: SACState, position: int) -> None:
    for member in range(2):
        assert_member_equals(state.critic, position, plain.critics[member], member)
    torch.testing.assert_close(state.temperature.log_alpha[position, 0], plain.log_alpha, rtol=0.0, atol=1e-5)
    assert state.bc_weight[position].item() == pytest.approx(plain.bc_weight, rel=1e-5)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    for averaged, parameter in zip(target.parameters(), source.parameters(), strict=True):
        averaged.mul_(1.0 - rate).add_(rate * parameter)


@pytest.mark.parametrize(
    ("config", "spec", "plain", "masks"),
    [
        (SMALL, continuous(), PlainSAC, False),
        (VALUE, continuous(), PlainSAC, False),
        (FALLING, continuous(), PlainSAC, False),
        (SDE, continuous(), PlainSAC, False),
        (ANCHORED, continuous(), PlainSAC, False),
        (SMALL, discrete(start=5), PlainDiscreteSAC, False),
        (SMALL, discrete(start=5), PlainDiscreteSAC, True),
        (ANCHORED, discrete(start=5), PlainDiscreteSAC, True),
    ],
    ids=[
        "continuous",
        "value network",
        "value network, steps that fall",
        "state-dependent exploration",
        "near the data",
        "discrete",
        "masked",
        "masked, near the data",
    ],
)
def test_updates_equal_a_plain_implementation(config: SACConfig, spec: Spec, plain: type[Any], masks: bool) -> None:
    seeds = (3, 8)
    agent = SAC(config, spec)
    state = agent.init(seeds, CPU)
    start = state.temperature.log_alpha.clone()
    batches, noise = random_batches(spec, UPDATES, len(seeds)), random_noise(agent, UPDATES, len(seeds))
    if masks:
        generator = torch.Generator().manual_seed(3)
        batches = [masked(batch, spec, generator) for batch in batches]
    plains = [plain(config, state, position) for position in range(len(seeds))]
    run_updates(agent, state, batches, noise)
    for position, reference in enumerate(plains):
        for batch, draws in zip(batches, noise, strict=True):
            reference.update(of_seed(batch, position), noise_of_seed(draws, position))
        reference.assert_equals(state, position)
    assert (state.temperature.log_alpha - start).abs().min() > 0.01


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        (SMALL, continuous()),
        (dataclasses.replace(OPTIONS, value_network=True), continuous()),
        (dataclasses.replace(SDE, bc_alpha=1.0), continuous()),
        (dataclasses.replace(OPTIONS, bc_alpha=1.0), discrete()),
    ],
    ids=["continuous", "options", "state-dependent exploration", "discrete"],
)
def test_training_seeds_together_equals_training_each_alone(config: SACConfig, spec: Spec) -> None:
    seeds = (5, 11, 2)
    agent = SAC(config, spec)
    batches, noise = random_batches(spec, UPDATES, len(seeds)), random_noise(agent, UPDATES, len(seeds))
    together = agent.init(seeds, CPU)
    initial = {name: tensor.clone() for name, tensor in state_tensors(together).items()}
    metrics = run_updates(agent, together, batches, noise)
    trained = state_tensors(together)
    for position, seed in enumerate(seeds):
        alone = agent.init((seed,), CPU)
        for name, tensor in state_tensors(alone).items():
            assert torch.equal(*_same_seed(initial[name], tensor, position)), name
        alone_metrics = run_updates(
            agent, alone, [of_seed(b, position) for b in batches], [noise_of_seed(n, position) for n in noise]
        )
        for name, tensor in state_tensors(alone).items():
            torch.testing.assert_close(*_same_seed(trained[name], tensor, position), rtol=1e-4, atol=1e-6)
        for ours, theirs in zip(metrics, alone_metrics, strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours:
                torch.testing.assert_close(ours[name][position], theirs[name][0], rtol=1e-4, atol=1e-5)


def _same_seed(together: Tensor, alone: Tensor, position: int) -> tuple[Tensor, Tensor]:
    return (together[position], alone[0]) if together.dim() else (together, alone)


def linear(network: MLP, *members: tuple[list[list[float]], list[float]]) -> None:
    """Set one seed's linear networks: for each member its weights, a row per output, and biases."""
    (layer,) = network.layers
    with torch.no_grad():
        for member, (weight, bias) in enumerate(members):
            layer.weight[0, member] = torch.tensor(weight)
            layer.bias[0, member, 0] = torch.tensor(bias)


def one_transition(reward: float, discount: float, action: Tensor | None = None, **extra: Tensor) -> Batch:
    """From s = 0.5 to s' = 2."""
    return Batch(
        observation=torch.tensor([[[0.5]]]),
        action=torch.tensor([[[-0.25]]]) if action is None else action,
        reward=torch.tensor([[reward]]),
        discount=torch.tensor([[discount]]),
        next_observation=torch.tensor([[[2.0]]]),
        terminated=torch.tensor([[float(discount == 0.0)]]),
        **extra,
    )


def draws(here: float = 0.0, next_: float = 0.0) -> Noise:
    return {"action": torch.full((1, 1, 1), here), "next_action": torch.full((1, 1, 1), next_)}


def hand_set_agent(**options: Any) -> tuple[SAC, SACState]:
    """u ~ N(0.1 s, 0.5²), Q'₁ = s + 10 a, Q'₂ = 3 s + 2 a, α = 0.2; the live critics are 0 and 1 everywhere."""
    agent = SAC(SACConfig(hidden=(), initial_temperature=0.2, **options), continuous(1, 1))
    state = agent.init((0,), CPU)
    assert isinstance(state.actor, MLP)
    linear(state.actor, ([[0.1], [0.0]], [0.0, math.log(0.5)]))
    linear(state.critic, ([[0.0, 0.0]], [0.0]), ([[0.0, 0.0]], [1.0]))
    if state.value is None:
        linear(state.target, ([[1.0, 10.0]], [0.0]), ([[3.0, 2.0]], [0.0]))
    return agent, state


def log_density(mean: float, draw: float) -> float:
    """log π(tanh(mean + 0.5 draw)), by the change of variables."""
    action = math.tanh(mean + 0.5 * draw)
    return -0.5 * draw**2 - math.log(0.5) - 0.5 * math.log(2.0 * math.pi) - math.log(1.0 - action**2)


@pytest.mark.parametrize("draw", [0.0, 1.5, -1.0])
def test_the_target_takes_the_lower_critic_less_the_log_density(draw: float) -> None:
    agent, state = hand_set_agent()
    metrics = agent.update(state, [one_transition(1.5, 0.9)], draws(next_=draw))
    # At s' = 2 the critics are 2 + 10 a' and 6 + 2 a': the first is lower below a' = 0.5, the second above.
    action = math.tanh(0.2 + 0.5 * draw)
    lower = min(2.0 + 10.0 * action, 6.0 + 2.0 * action)
    assert (lower == 6.0 + 2.0 * action) == (draw == 1.5)
    target = 1.5 + 0.9 * (lower - 0.2 * log_density(0.2, draw))
    assert metrics["target_q"].mean().item() == pytest.approx(target, rel=1e-5)
    assert metrics["critic_loss"].mean().item() == pytest.approx(target**2 + (target - 1.0) ** 2, rel=1e-5)
    assert metrics["q"].mean().item() == 0.5
    assert "td_error" not in metrics


def test_a_terminal_transition_is_worth_its_reward() -> None:
    agent, state = hand_set_agent()
    metrics = agent.update(state, [one_transition(-3.0, 0.0)], draws())
    assert metrics["target_q"].mean().item() == -3.0
    assert metrics["critic_loss"].mean().item() == pytest.approx(9.0 + 16.0)


def test_weights_scale_the_critics_loss_and_errors_are_handed_back() -> None:
    agent, state = hand_set_agent()
    metrics = agent.update(state, [one_transition(-3.0, 0.0, weight=torch.tensor([[0.25]]))], draws())
    assert metrics["critic_loss"].mean().item() == pytest.approx(0.25 * (9.0 + 16.0))
    torch.testing.assert_close(metrics["td_error"], torch.tensor([[[3.5]]]))


def test_the_actor_climbs_the_lower_critic_and_its_entropy() -> None:
    agent, state = hand_set_agent(actor_learning_rate=0.01)
    # Both critics are right about the transition, so they stay: 2 a + 1 and −4 a − 0.5 are 0.5 at a = −0.25.
    linear(state.critic, ([[0.0, 2.0]], [1.0]), ([[0.0, -4.0]], [-0.5]))
    before = state.actor.flat.clone()
    draw = 0.3
    metrics = agent.update(state, [one_transition(0.5, 0.0)], draws(here=draw))
    action, log_prob = math.tanh(0.05 + 0.5 * draw), log_density(0.05, draw)
    assert metrics["critic_loss"].mean().item() == pytest.approx(0.0, abs=1e-12)
    assert metrics["actor_loss"].mean().item() == pytest.approx(0.2 * log_prob - (-4.0 * action - 0.5), rel=1e-5)
    assert metrics["entropy"].item() == pytest.approx(-log_prob, rel=1e-5)
    assert metrics["alpha"].item() == pytest.approx(0.2)
    # The mean's gradient, α 2 a + 4 (1 − a²), is positive; log σ's, that times σ ε, less α, is so too.
    by_mean = 0.2 * 2.0 * action + 4.0 * (1.0 - action**2)
    assert by_mean * 0.5 * draw - 0.2 > 0.0
    torch.testing.assert_close(before - state.actor.flat, torch.full((4,), 0.01), rtol=1e-3, atol=0.0)


def test_near_the_data_the_soft_value_is_weighed_by_its_mean_size() -> None:
    agent, state = hand_set_agent(bc_alpha=1.5, bc_decay=0.5)
    linear(state.critic, ([[0.0, 2.0]], [1.0]), ([[0.0, -4.0]], [-0.5]))
    metrics = agent.update(state, [one_transition(0.5, 0.0)], draws(here=0.3))
    action = math.tanh(0.05 + 0.5 * 0.3)
    # One transition's soft value, here negative, over its size is −1: the loss is α and the distance from a = −0.25.
    assert metrics["bc_loss"].item() == pytest.approx((action + 0.25) ** 2, rel=1e-5)
    assert metrics["actor_loss"].item() == pytest.approx(1.5 + (action + 0.25) ** 2, rel=1e-5)
    size = 4.0 * action + 0.5 + 0.2 * log_density(0.05, 0.3)
    by_action = 1.5 / size * (4.0 + 0.2 * 2.0 * action / (1.0 - action**2)) + 2.0 * (action + 0.25)
    # Adam's first moment is a tenth of the gradient.
    moment = state.actor_optimizer.named_tensors()["first_moment.layers.0.bias"].flatten()[0]
    assert moment.item() == pytest.approx(0.1 * by_action * (1.0 - action**2), rel=1e-5)
    assert state.bc_weight.tolist() == [0.5]


def test_near_the_data_discrete_policies_are_held_by_their_cross_entropy() -> None:
    """π = (0.8, 0.2), where the data has the second action, of number 6; both values are 3, and so is their mean."""
    agent = SAC(SACConfig(hidden=(), initial_temperature=1e-8, bc_alpha=2.0), discrete(1, 2, start=5))
    state = agent.init((0,), CPU)
    linear(state.actor, ([[0.0], [0.0]], [math.log(0.8), math.log(0.2)]))
    linear(state.critic, *[([[0.0], [0.0]], [3.0, 3.0])] * 2)
    metrics = agent.update(state, [one_transition(3.0, 0.0, torch.tensor([[6]]))], {})
    assert metrics["bc_loss"].item() == pytest.approx(-math.log(0.2), rel=1e-5)
    assert metrics["actor_loss"].item() == pytest.approx(-2.0 - math.log(0.2), rel=1e-5)
    moment = state.actor_optimizer.named_tensors()["first_moment.layers.0.bias"].flatten()
    torch.testing.assert_close(moment, 0.1 * torch.tensor([0.8, -0.8]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("temperature", "direction"), [(0.2, -1.0), (4.0, 1.0)])
def test_a_high_temperature_widens_the_spread_against_the_critics(temperature: float, direction: float) -> None:
    agent = SAC(SACConfig(hidden=(), initial_temperature=temperature, actor_learning_rate=0.01), continuous(1, 1))
    state = agent.init((0,), CPU)
    assert isinstance(state.actor, MLP)
    linear(state.actor, ([[0.0], [0.0]], [0.0, math.log(0.5)]))
    # Both critics are −2 a − 0.5, which is the reward at a = −0.25.
    linear(state.critic, *[([[0.0, -2.0]], [-0.5])] * 2)
    agent.update(state, [one_transition(0.0, 0.0)], draws(here=1.0))
    # d(α log π − Q)/d log σ = (2 α a + 2 (1 − a²)) · 0.5 − α at a = tanh(0.5): 0.68 for α = 0.2, −1.4 for α = 4.
    log_std = list(state.actor.parameters())[-1][0, 0, 0, 1].item()
    assert log_std == pytest.approx(math.log(0.5) + 0.01 * direction, abs=1e-5)


@pytest.mark.parametrize(("target_entropy", "direction"), [(-5.0, -1.0), (5.0, 1.0)])
def test_the_temperature_rises_where_entropy_is_below_its_target(target_entropy: float, direction: float) -> None:
    agent, state = hand_set_agent(target_entropy=target_entropy, temperature_learning_rate=0.1)
    agent.update(state, [one_transition(0.0, 0.0)], draws())
    expected = math.log(0.2) + 0.1 * direction
    assert state.temperature.log_alpha.item() == pytest.approx(expected, rel=1e-4)


def test_a_temperature_without_a_learning_rate_stays() -> None:
    agent, state = hand_set_agent(temperature_learning_rate=0.0)
    agent.update(state, [one_transition(0.0, 0.0)], draws())
    assert state.temperature.log_alpha.item() == pytest.approx(math.log(0.2), rel=1e-6)


@pytest.mark.parametrize(
    ("config", "spec", "expected"),
    [
        (SACConfig(), continuous(3, 2), -2.0),
        (SACConfig(), discrete(3, 4), 0.98 * math.log(4)),
        (SACConfig(target_entropy_fraction=0.5), discrete(3, 4), 0.5 * math.log(4)),
        (SACConfig(target_entropy=-1.5), continuous(3, 2), -1.5),
        (SACConfig(target_entropy=0.1), discrete(3, 4), 0.1),
    ],
)
def test_the_target_entropy_goes_by_the_action_space(config: SACConfig, spec: Spec, expected: float) -> None:
    assert SAC(config, spec).target_entropy == pytest.approx(expected)


def test_discrete_values_are_expectations_over_the_policy() -> None:
    """π = (0.8, 0.2) in all states, critics of constant values; actions count from 5."""
    agent = SAC(SACConfig(hidden=(), initial_temperature=0.5, critic_learning_rate=1e-9), discrete(1, 2, start=5))
    state = agent.init((0,), CPU)
    linear(state.actor, ([[0.0], [0.0]], [math.log(0.8), math.log(0.2)]))
    linear(state.target, ([[0.0], [0.0]], [1.0, 4.0]), ([[0.0], [0.0]], [2.0, 3.0]))
    linear(state.critic, ([[0.0], [0.0]], [7.0, 9.0]), ([[0.0], [0.0]], [8.0, 6.0]))
    metrics = agent.update(state, [one_transition(1.0, 0.9, torch.tensor([[6]]))], {})
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    target = 1.0 + 0.9 * (0.8 * 1.0 + 0.2 * 3.0 + 0.5 * entropy)
    assert metrics["target_q"].mean().item() == pytest.approx(target, rel=1e-5)
    # Action 6 is the second one, which the critics value at 9 and 6.
    assert metrics["critic_loss"].mean().item() == pytest.approx((9.0 - target) ** 2 + (6.0 - target) ** 2, rel=1e-5)
    assert metrics["actor_loss"].mean().item() == pytest.approx(-(0.8 * 7.0 + 0.2 * 6.0 + 0.5 * entropy), rel=1e-5)
    assert metrics["entropy"].item() == pytest.approx(entropy, rel=1e-5)


@pytest.mark.parametrize("value_network", [False, True])
def test_masks_leave_forbidden_actions_out_of_values_and_policy(value_network: bool) -> None:
    """Of three actions the first is forbidden in s and the last in s'; the others are equally likely."""
    config = SACConfig(hidden=(), initial_temperature=0.5, temperature_learning_rate=0.1, value_network=value_network)
    agent = SAC(config, discrete(1, 3))
    state = agent.init((0,), CPU)
    linear(state.actor, ([[0.0]] * 3, [0.0] * 3))
    linear(state.critic, *[([[0.0]] * 3, [9.0, 1.0, 3.0])] * 2)
    masks = {"action_mask": torch.tensor([[[False, True, True]]])}
    masks["next_action_mask"] = torch.tensor([[[True, True, False]]])
    if state.value is None:
        linear(state.target, *[([[0.0]] * 3, [2.0, 4.0, 99.0])] * 2)
    else:
        linear(state.value, ([[0.0]], [2.0]))
        linear(state.target, ([[0.0]], [3.0 + 0.5 * math.log(2.0)]))
    metrics = agent.update(state, [one_transition(1.0, 0.9, torch.tensor([[1]]), **masks)], {})
    assert metrics["target_q"].item() == pytest.approx(1.0 + 0.9 * (3.0 + 0.5 * math.log(2.0)))
    assert metrics["entropy"].item() == pytest.approx(math.log(2.0))
    # The critics' first steps move the values by 3e-4.
    assert metrics["actor_loss"].item() == pytest.approx(-(2.0 + 0.5 * math.log(2.0)), abs=1e-3)
    if value_network:
        assert metrics["value_loss"].item() == pytest.approx((0.5 * math.log(2.0)) ** 2)
    by_logits = state.actor_optimizer.named_tensors()["first_moment.layers.0.bias"].flatten()
    torch.testing.assert_close(by_logits, 0.1 * torch.tensor([0.0, 0.5, -0.5]), rtol=1e-3, atol=1e-6)
    # log 2 is more than 0.98 log 2, what two actions can have, though less than 0.98 log 3.
    assert state.temperature.log_alpha.item() == pytest.approx(math.log(0.5) - 0.1, abs=1e-3)


def test_a_value_network_learns_the_soft_value_and_its_target_bootstraps() -> None:
    agent, state = hand_set_agent(value_network=True, critic_learning_rate=0.1, target_rate=0.5)
    assert state.value is not None
    linear(state.value, ([[0.0]], [0.25]))
    linear(state.target, ([[3.0]], [1.0]))
    assert "next_action" not in agent.noise_shapes(8)
    metrics = agent.update(state, [one_transition(1.5, 0.9)], draws(here=0.4))
    # The lower of the live critics, 0 and 1, less α log π at s = 0.5.
    soft_value = 0.0 - 0.2 * log_density(0.05, 0.4)
    assert metrics["value_loss"].mean().item() == pytest.approx((0.25 - soft_value) ** 2, rel=1e-5)
    assert metrics["target_q"].mean().item() == pytest.approx(1.5 + 0.9 * 7.0)
    # 0.25 is above the soft value: Adam's first step takes weight and bias down by 0.1; the target goes half the way.
    assert soft_value < 0.25
    torch.testing.assert_close(state.value.flat, torch.tensor([-0.1, 0.15]), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(state.target.flat, torch.tensor([1.45, 0.575]), rtol=1e-4, atol=0.0)


def test_dropout_is_for_the_critics_own_loss() -> None:
    """With every unit dropped the critics give their last biases, while the target is what it is without dropout."""
    batch = random_batches(continuous(), 1, 1)
    results = []
    for config in (small(dropout=0.5), SMALL):
        agent = SAC(config, continuous())
        state = agent.init((4,), CPU)
        (noise,) = random_noise(SAC(SMALL, continuous()), 1, 1)
        biases = state.critic.layers[-1].bias.mean().item()
        noise |= {
            name: torch.full((1, *shape), 9.0) for name, shape in agent.noise_shapes(8).items() if name == "dropout"
        }
        results.append(agent.update(state, batch, noise))
    assert results[0]["q"].mean().item() == pytest.approx(biases, rel=1e-5)
    assert results[1]["q"].mean().item() != pytest.approx(biases, rel=1e-2)
    assert torch.equal(results[0]["target_q"], results[1]["target_q"])


def test_options_reach_the_networks_and_optimizers() -> None:
    state = SAC(dataclasses.replace(OPTIONS, value_network=True), continuous()).init((0,), CPU)
    assert state.value is not None
    assert state.value_optimizer is not None
    assert len(state.critic.norms) == len(state.value.norms) == 2
    assert isinstance(state.actor, MLP)
    assert not state.actor.norms
    for optimizer in (state.actor_optimizer, state.critic_optimizer, state.value_optimizer):
        assert (optimizer.weight_decay, optimizer.max_gradient_norm) == (0.1, 0.5)
    x = torch.randn(1, 3, 3)
    torch.testing.assert_close(state.actor(x)[0], copy_of_member(state.actor, 0, "tanh")(x[0]))


@pytest.mark.parametrize("config", [SMALL, VALUE], ids=["critics", "value network"])
def test_warming_up_critics_leaves_policy_and_temperature_alone(config: SACConfig) -> None:
    agent = SAC(config, continuous())
    batch, (noise,) = random_batches(agent.spec, 1, 2), random_noise(agent, 1, 2)
    warmed, updated, fresh = (agent.init((0, 1), CPU) for _ in range(3))
    metrics = agent.update_critic(warmed, batch, noise)
    whole = agent.update(updated, batch, noise)
    assert {"critic_loss", "q", "target_q"} <= metrics.keys() < whole.keys()
    still = ("actor", "temperature")
    tensors = [state_tensors(state) for state in (warmed, updated, fresh)]
    for name, warm in tensors[0].items():
        assert torch.equal(warm, tensors[2 if name.startswith(still) else 1][name]), name
    assert not torch.equal(updated.actor.flat, fresh.actor.flat)
    assert not torch.equal(updated.target.flat, fresh.target.flat)


def test_actions_are_greedy_without_draws_and_samples_with_them() -> None:
    agent = SAC(SMALL, continuous())
    state = agent.init((0, 1), CPU)
    assert isinstance(state.actor, MLP)
    observation, noise = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    greedy, sampled = act(agent, state, observation), act(agent, state, observation, noise)
    for seed in range(2):
        mean, log_std = copy_of_member(state.actor, seed)(observation[seed]).chunk(2, dim=1)
        torch.testing.assert_close(greedy[seed], mean.tanh())
        torch.testing.assert_close(sampled[seed], (mean + log_std.exp() * noise[seed]).tanh())


def test_discrete_actions_are_the_environments_numbers() -> None:
    agent = SAC(SACConfig(hidden=()), discrete(1, 3, start=-1))
    state = agent.init((0,), CPU)
    linear(state.actor, ([[0.0]] * 3, [math.log(p) for p in (0.2, 0.3, 0.5)]))
    observation = torch.zeros(1, 20_000, 1)
    assert act(agent, state, observation).eq(1).all()
    noise = torch.randn(1, 20_000, 3, generator=torch.Generator().manual_seed(0))
    actions = act(agent, state, observation, noise)
    shares = [(actions == number).float().mean().item() for number in (-1, 0, 1)]
    assert shares == pytest.approx([0.2, 0.3, 0.5], abs=0.015)
    numbers = torch.tensor([[-1, 0, 1]])
    log_probs = agent.log_prob(state, torch.zeros(1, 3, 1), numbers, ())
    torch.testing.assert_close(log_probs.exp(), torch.tensor([[0.2, 0.3, 0.5]]))
    assert agent.has_density


@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(SDE, sde_every=1)], ids=["plain", "sde"])
def test_the_density_is_that_of_the_samples(config: SACConfig) -> None:
    """∫ π(a) a da, by the trapezium rule, is the mean of many samples, and ∫ π(a) da is 1."""
    agent = SAC(config, continuous(3, 1))
    state = agent.init((0,), CPU)
    observation = torch.tensor([[[0.3, -2.0, 1.0]]])
    grid = torch.linspace(-0.9999, 0.9999, 4_001)
    density = agent.log_prob(
        state, observation.expand(1, 4_001, 3), grid.view(1, -1, 1), agent.initial_carry(state, 4_001)
    ).exp()[0]
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=0.01)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4_000, 1, 1, *agent.acting_noise_shape, generator=generator)
    samples = torch.stack([act(agent, state, observation, each) for each in noise])
    mean, square = torch.trapezoid(density * grid, grid), torch.trapezoid(density * grid.square(), grid)
    assert samples.mean().item() == pytest.approx(mean.item(), abs=0.05)
    assert samples.square().mean().item() == pytest.approx(square.item(), abs=0.03)
    assert agent.has_density


def test_state_dependent_exploration_holds_each_episodes_function_and_redraws_it() -> None:
    agent = SAC(dataclasses.replace(SDE, sde_every=3), continuous())
    state = agent.init((0, 1), CPU)
    assert agent.acting_noise_shape == (12, 2)
    assert not agent.has_density
    observation = torch.randn(1, 1, 3).expand(2, 4, 3)
    greedy = act(agent, state, observation)
    carry, actions = agent.initial_carry(state, 4), []
    with torch.no_grad():
        for _ in range(7):
            action, carry = agent.act(state, observation, carry, torch.randn(2, 4, 12, 2))
            actions.append(action)
            # Greedy steps explore nothing, and change nothing.
            assert torch.equal(agent.act(state, observation, carry)[0], greedy)
            assert agent.act(state, observation, carry)[1] is carry
    for held in ((0, 1, 2), (3, 4, 5)):
        assert all(torch.equal(actions[step], actions[held[0]]) for step in held)
    for drawn in (3, 6):
        # Each row has a function of its own, so equal observations are acted upon differently.
        assert (actions[drawn] != actions[drawn - 1]).any(dim=-1).all()
        assert len(actions[drawn][0].unique(dim=0)) == 4


def test_state_dependent_exploration_starts_anew_with_an_episode() -> None:
    agent = SAC(dataclasses.replace(SDE, sde_every=4), continuous())
    state = agent.init((0, 1), CPU)
    observation = torch.randn(2, 2, 3)
    draws, later = torch.randn(2, 2, 2, 12, 2)
    with torch.no_grad():
        first, carry = agent.act(state, observation, agent.initial_carry(state, 2), draws)
        # The first row's episode ends, as whoever steps environments says it.
        ended = torch.tensor([True, False])
        mixed = tuple(
            torch.where(ended.view(1, 2, *[1] * (old.dim() - 2)), new, old)
            for old, new in zip(carry, agent.initial_carry(state, 2), strict=True)
        )
        action, after = agent.act(state, observation, mixed, later)
        fresh = agent.act(state, observation, agent.initial_carry(state, 2), later)[0]
    assert torch.equal(action[:, 0], fresh[:, 0])
    assert torch.equal(action[:, 1], first[:, 1])
    assert after[1].tolist() == [[1, 2], [1, 2]]


def test_state_dependent_exploration_is_linear_in_the_features() -> None:
    agent = SAC(SDE, continuous())
    state = agent.init((7,), CPU)
    assert isinstance(state.actor, StateDependentGaussian)
    observation, noise = torch.randn(1, 4, 3), torch.randn(1, 4, 12, 2)
    action = act(agent, state, observation, noise)[0]
    plain = copy_of_member(state.actor.mean, 0)
    features = plain[:-1](observation[0])
    deviation = torch.stack([row @ (math.exp(-1.0) * draws) for row, draws in zip(features, noise[0], strict=True)])
    torch.testing.assert_close(action, (plain[-1](features) + deviation).tanh())


def test_targets_start_as_copies_and_critics_apart() -> None:
    state = SAC(SMALL, continuous()).init((0, 1), CPU)
    assert torch.equal(state.target.flat, state.critic.flat)
    assert state.target.flat.data_ptr() != state.critic.flat.data_ptr()
    weight = state.critic.layers[0].weight
    assert not torch.equal(weight[0, 0], weight[0, 1])


def clone(outputs: int, **options: Any) -> MLP:
    return MLP(3, outputs, (16, 12), seed_generators((21, 22)), **options)


@pytest.mark.parametrize("kind", ["deterministic", "squashed_gaussian"])
@pytest.mark.parametrize("config", [SMALL, SDE], ids=["plain", "sde"])
def test_a_cloned_policy_acts_as_before(kind: str, config: SACConfig) -> None:
    cloned = clone(2 if kind == "deterministic" else 4)
    agent = SAC(config, continuous())
    state = agent.init((0, 1), CPU)
    agent.adopt_policy(state, cloned, kind)
    observation = torch.randn(2, 6, 3)
    torch.testing.assert_close(act(agent, state, observation), cloned(observation)[..., :2].tanh())
    if config is SDE:
        return
    action = torch.rand(2, 6, 2) * 1.8 - 0.9
    if kind == "squashed_gaussian":
        expected = squashed_gaussian_log_prob(*split_gaussian(cloned(observation)), action)
        torch.testing.assert_close(agent.log_prob(state, observation, action, ()), expected)
    else:
        log_std = state.actor(observation)[..., 2:]
        entropy = Normal(0.0, log_std.exp()).entropy()
        torch.testing.assert_close(entropy, torch.full((2, 6, 2), -1.0))


def test_a_cloned_discrete_policy_acts_as_before() -> None:
    cloned = clone(4)
    agent = SAC(SMALL, discrete(start=5))
    state = agent.init((0, 1), CPU)
    agent.adopt_policy(state, cloned, "categorical")
    observation = torch.randn(2, 6, 3)
    logits = cloned(observation)
    assert torch.equal(act(agent, state, observation), logits.argmax(dim=-1) + 5)
    numbers = torch.randint(5, 9, (2, 6))
    expected = Categorical(logits=logits).log_prob(numbers - 5)
    torch.testing.assert_close(agent.log_prob(state, observation, numbers, ()), expected)


def test_policies_that_are_not_sacs_are_refused() -> None:
    agent = SAC(SMALL, continuous())
    state = agent.init((0, 1), CPU)
    with pytest.raises(RecipeError, match="policy=squashed_gaussian"):
        agent.adopt_policy(state, clone(4), "gaussian")
    with pytest.raises(RecipeError, match="layer_norm"):
        agent.adopt_policy(state, clone(2, layer_norm=True), "deterministic")
    discrete_agent = SAC(SMALL, discrete())
    with pytest.raises(RecipeError, match="policy=categorical"):
        discrete_agent.adopt_policy(discrete_agent.init((0, 1), CPU), clone(4), "deterministic")


def test_nested_observations_are_flattened() -> None:
    spec = continuous()
    box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    agent = SAC(SMALL, Spec(gym.spaces.Dict({"a": box, "b": gym.spaces.Discrete(2)}), spec.action_space))
    state = agent.init((0,), CPU)
    action = act(agent, state, {"a": torch.randn(1, 4, 2), "b": torch.ones(1, 4)})
    assert action.shape == (1, 4, 2)


@pytest.mark.parametrize("spec", [multi_discrete(), unbounded()], ids=["multi-discrete", "unbounded"])
def test_other_actions_are_refused(spec: Spec) -> None:
    with pytest.raises(SpaceMismatchError, match="SAC"):
        SAC(SACConfig(), spec)


@pytest.mark.parametrize(
    ("config", "spec", "word"),
    [
        (SACConfig(sde=True), discrete(), "continuous actions"),
        (SACConfig(sde=True, hidden=()), continuous(), "hidden layers"),
    ],
)
def test_state_dependent_exploration_asks_for_features_and_continuous_actions(
    config: SACConfig, spec: Spec, word: str
) -> None:
    with pytest.raises(RecipeError, match=word):
        SAC(config, spec)


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        (ANCHORED, continuous()),
        (dataclasses.replace(OPTIONS, value_network=True, decay_steps=9), continuous()),
        (SDE, continuous()),
        (ANCHORED, discrete(start=5)),
    ],
    ids=["near the data", "options", "state-dependent exploration", "discrete"],
)
def test_updates_and_actions_read_no_values(config: SACConfig, spec: Spec) -> None:
    agent = SAC(config, spec)
    state = agent.init((0, 1), CPU)
    batches, (noise,) = random_batches(spec, 1, 2), random_noise(agent, 1, 2)
    if agent.discrete:
        batches = [masked(batch, spec, torch.Generator().manual_seed(3)) for batch in batches]
    places = {name: tensor.data_ptr() for name, tensor in state_tensors(state).items()}
    with no_values_read():
        metrics = agent.update(state, batches, noise)
        agent.update_critic(state, batches, noise)
        act(agent, state, batches[0].observation, torch.randn(2, 8, *agent.acting_noise_shape), batches[0].action_mask)
    assert places == {name: tensor.data_ptr() for name, tensor in state_tensors(state).items()}
    assert not any(values.requires_grad for values in metrics.values())


def test_the_state_is_what_earlier_checkpoints_hold_of_networks_and_optimizers() -> None:
    state = SAC(dataclasses.replace(SMALL, hidden=(4,)), continuous()).init((0, 1), CPU)
    networks = {"actor", "critic", "target", "temperature"}
    names = state_tensors(state)
    assert {name.split(".")[0] for name in names} == {
        *networks,
        *(f"{name}_optimizer" for name in networks - {"target"}),
        "bc_weight",
    }
    assert names["critic.layers.0.weight"].shape == (2, 2, 4, 5)
    assert names["temperature.log_alpha"].shape == (2, 1)


def test_a_schedule_that_has_ended_is_told() -> None:
    agent = SAC(dataclasses.replace(SMALL, decay_steps=2), continuous())
    state = agent.init((0,), CPU)
    told = []
    for draws in random_noise(agent, 3, 1):
        agent.update(state, random_batches(agent.spec, 1, 1), draws)
        told.append(agent.ended_schedule(state))
    assert told == [0, 2, 3]


def test_the_record_builds_the_agent_from_plain_options() -> None:
    agent = ALGORITHM.build(ALGORITHM.options({"hidden": [8], "target_entropy": -3.0}), continuous())
    assert isinstance(agent, SAC)
    assert agent.config == SACConfig(hidden=(8,), target_entropy=-3.0)
