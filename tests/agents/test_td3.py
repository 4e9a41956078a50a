"""TD3 against a plain single-seed implementation, hand-computed targets, and itself on the seed axis."""

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

from offrl.agents.td3 import ALGORITHM, TD3, TD3Config, TD3State, softmax_value
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.nn import MLP, seed_generators
from offrl.nn.state import state_tensors
from offrl.types import Batch, Noise, Spec
from tests.agents.batches import (
    CPU,
    act,
    continuous,
    discrete,
    no_values_read,
    noise_of_seed,
    of_seed,
    random_batches,
    random_noise,
    run_updates,
    unbounded,
)
from tests.nn.plain import assert_member_equals, copy_of_member, follow

UPDATES = 10
SMALL = TD3Config(
    hidden=(16, 12), actor_learning_rate=3e-3, critic_learning_rate=5e-3, target_rate=0.05, policy_delay=2
)
VARIANTS = {
    "paper": SMALL,
    "layer norm": dataclasses.replace(SMALL, layer_norm=True, policy_delay=3),
    "TD3+BC": dataclasses.replace(SMALL, bc_alpha=2.5, bc_decay=0.9),
    "DDPG": dataclasses.replace(SMALL, critics=1, policy_delay=1, target_noise=0.0),
    "steps that fall": dataclasses.replace(SMALL, constant_steps=8, decay_steps=24),
    "steps that rise and fall by a cosine": dataclasses.replace(
        SMALL, policy_delay=3, warmup_steps=7, constant_steps=5, decay_steps=20, decay_shape="cosine"
    ),
    "SD3": dataclasses.replace(SMALL, softmax_samples=5, softmax_beta=20.0),
    "regularized": dataclasses.replace(
        SMALL, activation="silu", dropout=0.3, weight_decay=0.3, max_gradient_norm=0.05, bc_alpha=1.0, layer_norm=True
    ),
}


class PlainTD3:
    """The algorithm as the papers' pseudo-code has it, for one seed, in plain PyTorch."""

    def __init__(self, config: TD3Config, state: TD3State, seed: int) -> None:
        self.config = c = config
        self.actor = nn.Sequential(copy_of_member(state.actor, seed, c.activation), nn.Tanh())
        self.critics = nn.ModuleList(
            copy_of_member(state.critic, seed, c.activation, member) for member in range(c.critics)
        )
        self.target_actor, self.target_critics = copy.deepcopy(self.actor), copy.deepcopy(self.critics)
        decay = c.weight_decay
        self.actor_optimizer = torch.optim.AdamW(self.actor.parameters(), lr=c.actor_learning_rate, weight_decay=decay)
        self.critic_optimizer = torch.optim.AdamW(
            self.critics.parameters(), lr=c.critic_learning_rate, weight_decay=decay
        )
        self.bc_weight = 1.0
        self.errors: list[Tensor] = []
        follow(self.critic_optimizer, c)
        follow(self.actor_optimizer, c, c.policy_delay)

    def update(self, batches: list[Batch], noise: Noise) -> None:
        """One cycle for batches with a seed axis of one; draws [C, B, A] or [K, C, B, A], and [C, E, B, units]."""
        c = self.config
        for i, batch in enumerate(batches):
            state, action = batch.observation[0], batch.action[0]
            with torch.no_grad():
                target = self.target(batch, noise["target_policy"][..., i, :, :])
            inputs = torch.cat([state, action], dim=1)
            draws = noise["dropout"][i] if c.dropout else [None] * c.critics
            weight = torch.ones_like(target) if batch.weight is None else batch.weight[0]
            errors = [
                with_dropout(critic, inputs, member_draws, c.dropout)[:, 0] - target
                for critic, member_draws in zip(self.critics, draws, strict=True)
            ]
            self.errors.append(torch.stack(errors).detach().abs().mean(dim=0))
            critic_loss = sum((weight * error**2).mean() for error in errors)
            self.step(self.critic_optimizer, self.critics, critic_loss)
        policy_action = self.actor(state)
        q = self.critics[0](torch.cat([state, policy_action], dim=1))
        if c.bc_alpha:
            lmbda = c.bc_alpha / q.abs().mean().detach()
            actor_loss = -lmbda * q.mean() + self.bc_weight * nn.functional.mse_loss(policy_action, action)
            self.bc_weight *= c.bc_decay
        else:
            actor_loss = -q.mean()
        self.step(self.actor_optimizer, self.actor, actor_loss)
        with torch.no_grad():
            for net, target_net in ((self.actor, self.target_actor), (self.critics, self.target_critics)):
                for source, averaged in zip(net.parameters(), target_net.parameters(), strict=True):
                    averaged.mul_(1.0 - c.target_rate).add_(c.target_rate * source)

    def target(self, batch: Batch, draws: Tensor) -> Tensor:
        c = self.config
        not_done = 1.0 - batch.terminated[0]
        if not c.softmax_samples:
            return batch.reward[0] + not_done * 0.9 * self.lower_value(
                batch.next_observation[0], c.target_noise * draws
            )
        values = torch.stack([self.lower_value(batch.next_observation[0], c.target_noise * one) for one in draws])
        density = torch.distributions.Normal(0.0, c.target_noise).log_prob(c.target_noise * draws).sum(dim=-1).exp()
        boltzmann = torch.exp(c.softmax_beta * values) / density
        return batch.reward[0] + not_done * 0.9 * (boltzmann * values).sum(dim=0) / boltzmann.sum(dim=0)

    def lower_value(self, next_state: Tensor, noise: Tensor) -> Tensor:
        smoothing = torch.clip(noise, -self.config.target_noise_clip, self.config.target_noise_clip)
        next_action = torch.clip(self.target_actor(next_state) + smoothing, -1.0, 1.0)
        values = [critic(torch.cat([next_state, next_action], dim=1))[:, 0] for critic in self.target_critics]
        return torch.stack(values).min(dim=0).values

    def step(self, optimizer: torch.optim.Optimizer, network: nn.Module, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        if self.config.max_gradient_norm:
            nn.utils.clip_grad_norm_(network.parameters(), self.config.max_gradient_norm)
        optimizer.step()


def with_dropout(network: nn.Sequential, x: Tensor, draws: Tensor | None, dropout: float) -> Tensor:
    """The network with each hidden unit whose draw is in the normal's upper `dropout` share left out."""
    offset = 0
    for module in network:
        x = module(x)
        if draws is not None and isinstance(module, nn.SiLU):
            kept = torch.special.ndtr(draws[:, offset : offset + x.shape[1]]) < 1.0 - dropout
            offset += x.shape[1]
            x = torch.where(kept, x / (1.0 - dropout), 0.0)
    return x


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_equal_a_plain_implementation(name: str) -> None:
    seeds, config = (3, 8), VARIANTS[name]
    agent = TD3(config, continuous())
    state = agent.init(seeds, CPU)
    batches = random_batches(agent.spec, UPDATES * config.policy_delay, len(seeds))
    noise = random_noise(agent, UPDATES, len(seeds))
    plains = [PlainTD3(config, state, position) for position in range(len(seeds))]
    run_updates(agent, state, batches, noise)
    for position, plain in enumerate(plains):
        for update, draws in enumerate(noise):
            cycle = batches[update * config.policy_delay : (update + 1) * config.policy_delay]
            plain.update(
                [of_seed(batch, position) for batch in cycle], {key: part[position] for key, part in draws.items()}
            )
        for network, reference in ((state.actor, plain.actor), (state.target_actor, plain.target_actor)):
            assert_member_equals(network, position, reference[0])
        for network, references in ((state.critic, plain.critics), (state.target_critic, plain.target_critics)):
            for member in range(config.critics):
                assert_member_equals(network, position, references[member], member)
        assert state.bc_weight[position].item() == pytest.approx(plain.bc_weight, rel=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_training_seeds_together_equals_training_each_alone(name: str) -> None:
    seeds, config = (5, 11, 2), VARIANTS[name]
    agent = TD3(config, continuous())
    batches = random_batches(agent.spec, UPDATES * config.policy_delay, len(seeds))
    noise = random_noise(agent, UPDATES, len(seeds))
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


@pytest.mark.parametrize("name", ["paper", "DDPG", "SD3"])
def test_prioritized_updates_equal_a_plain_implementation(name: str) -> None:
    """Each batch's squares count by its weights, and the errors that are told are those of the batches in order."""
    seeds, config = (3, 8), VARIANTS[name]
    agent = TD3(config, continuous())
    state = agent.init(seeds, CPU)
    plains = [PlainTD3(config, state, position) for position in range(len(seeds))]
    generator = torch.Generator().manual_seed(0)
    batches = [
        dataclasses.replace(batch, weight=torch.rand(batch.reward.shape, generator=generator))
        for batch in random_batches(agent.spec, 4 * config.policy_delay, len(seeds))
    ]
    noise = random_noise(agent, 4, len(seeds))
    metrics = run_updates(agent, state, batches, noise)
    assert all(each["td_error"].shape == (config.policy_delay, *batches[0].reward.shape) for each in metrics)
    told = torch.cat([each["td_error"] for each in metrics])
    for position, plain in enumerate(plains):
        for number, draws in enumerate(noise):
            cycle = batches[number * config.policy_delay : (number + 1) * config.policy_delay]
            plain.update(
                [of_seed(batch, position) for batch in cycle], {key: part[position] for key, part in draws.items()}
            )
        torch.testing.assert_close(told[:, position], torch.stack(plain.errors), rtol=1e-4, atol=1e-5)
        assert_member_equals(state.actor, position, plain.actor[0])
        for member in range(config.critics):
            assert_member_equals(state.critic, position, plain.critics[member], member)


def _same_seed(together: Tensor, alone: Tensor, position: int) -> tuple[Tensor, Tensor]:
    return (together[position], alone[0]) if together.dim() else (together, alone)


def linear(network: MLP, *members: tuple[list[float], float]) -> None:
    """Set one seed's linear networks: for each member its weights and bias."""
    (layer,) = network.layers
    with torch.no_grad():
        for member, (weight, bias) in enumerate(members):
            layer.weight[0, member, 0] = torch.tensor(weight)
            layer.bias[0, member] = bias


def one_transition(reward: float, discount: float) -> Batch:
    return Batch(
        observation=torch.tensor([[[0.5]]]),
        action=torch.tensor([[[-0.25]]]),
        reward=torch.tensor([[reward]]),
        discount=torch.tensor([[discount]]),
        next_observation=torch.tensor([[[2.0]]]),
        terminated=torch.tensor([[float(discount == 0.0)]]),
    )


def hand_set_agent(**options: Any) -> tuple[TD3, TD3State]:
    """π'(s) = tanh(0.1 s), Q'₁ = s + 10 a, Q'₂ = 3 s + 2 a; the live critics are 0 and 1 everywhere."""
    agent = TD3(TD3Config(hidden=(), policy_delay=1, **options), continuous(1, 1))
    state, critics = agent.init((0,), CPU), agent.config.critics
    linear(state.target_actor, ([0.1], 0.0))
    linear(state.target_critic, *[([1.0, 10.0], 0.0), ([3.0, 2.0], 0.0)][:critics])
    linear(state.critic, *[([0.0, 0.0], 0.0), ([0.0, 0.0], 1.0)][:critics])
    return agent, state


@pytest.mark.parametrize(
    ("draw", "lower_value"),
    [
        # At s' = 2 the critics are 2 + 10 a' and 6 + 2 a': the first is lower below a' = 0.5, the second above.
        (0.0, 2.0 + 10.0 * math.tanh(0.2)),
        (0.5, 2.0 + 10.0 * (math.tanh(0.2) + 0.1)),
        # 0.2 · 9 = 1.8 is clipped to 0.5.
        (9.0, 6.0 + 2.0 * (math.tanh(0.2) + 0.5)),
        (-9.0, 2.0 + 10.0 * (math.tanh(0.2) - 0.5)),
    ],
)
def test_the_target_takes_the_lower_critic_at_a_smoothed_action(draw: float, lower_value: float) -> None:
    agent, state = hand_set_agent()
    metrics = agent.update(state, [one_transition(1.5, 0.9)], {"target_policy": torch.full((1, 1, 1, 1), draw)})
    target = 1.5 + 0.9 * lower_value
    assert metrics["target_q"].mean().item() == pytest.approx(target, rel=1e-6)
    assert metrics["critic_loss"].mean().item() == pytest.approx(target**2 + (target - 1.0) ** 2, rel=1e-6)
    assert metrics["q"].mean().item() == 0.5


def test_smoothed_actions_stay_within_the_bounds() -> None:
    agent, state = hand_set_agent()
    linear(state.target_actor, ([0.0], 2.0))
    metrics = agent.update(state, [one_transition(0.0, 1.0)], {"target_policy": torch.full((1, 1, 1, 1), 9.0)})
    # tanh(2) + 0.5 is clipped to 1: the lower critic is 6 + 2.
    assert metrics["target_q"].mean().item() == pytest.approx(8.0)


def test_a_terminal_transition_is_worth_its_reward() -> None:
    agent, state = hand_set_agent()
    metrics = agent.update(state, [one_transition(-3.0, 0.0)], {"target_policy": torch.ones(1, 1, 1, 1)})
    assert metrics["target_q"].mean().item() == -3.0
    assert metrics["critic_loss"].mean().item() == pytest.approx(9.0 + 16.0)


def test_noise_options_scale_and_bound_the_smoothing() -> None:
    agent, state = hand_set_agent(target_noise=0.1, target_noise_clip=0.02)
    metrics = agent.update(state, [one_transition(0.0, 1.0)], {"target_policy": torch.full((1, 1, 1, 1), 0.1)})
    assert metrics["target_q"].mean().item() == pytest.approx(2.0 + 10.0 * (math.tanh(0.2) + 0.01), rel=1e-6)


def test_a_single_critic_without_smoothing_is_its_own_target() -> None:
    agent, state = hand_set_agent(critics=1, target_noise=0.0)
    metrics = agent.update(state, [one_transition(1.5, 0.9)], {"target_policy": torch.full((1, 1, 1, 1), 9.0)})
    target = 1.5 + 0.9 * (2.0 + 10.0 * math.tanh(0.2))
    assert metrics["target_q"].mean().item() == pytest.approx(target, rel=1e-6)
    assert metrics["critic_loss"].mean().item() == pytest.approx(target**2, rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 50.0])
def test_the_softmax_target_weighs_the_lower_values_of_smoothed_actions(beta: float) -> None:
    agent, state = hand_set_agent(softmax_samples=3, softmax_beta=beta)
    draws = torch.tensor([0.5, 9.0, -1.0]).view(1, 3, 1, 1, 1)
    metrics = agent.update(state, [one_transition(1.5, 0.9)], {"target_policy": draws})
    mean = math.tanh(0.2)
    # The noise is 0.2 times the draw, at most 0.5; see the test above for which critic is lower.
    values = [2.0 + 10.0 * (mean + 0.1), 6.0 + 2.0 * (mean + 0.5), 2.0 + 10.0 * (mean - 0.2)]
    weights = [math.exp(beta * q + draw**2 / 2.0) for q, draw in zip(values, (0.5, 9.0, -1.0), strict=True)]
    value = sum(w * q for w, q in zip(weights, values, strict=True)) / sum(weights)
    assert metrics["target_q"].mean().item() == pytest.approx(1.5 + 0.9 * value, rel=1e-5)


def test_the_softmax_lies_between_mean_and_maximum() -> None:
    q, even = torch.tensor([[[1.0], [2.0], [6.0]]]), torch.zeros(1, 3, 1, 1)
    assert softmax_value(q, even, 0.0).item() == pytest.approx(3.0)
    assert softmax_value(q, even, 100.0).item() == pytest.approx(6.0)
    # e^0.5 : e^1 : e^3, and the rarest action, whose draw is 2, counts e² times as much.
    draws = torch.tensor([2.0, 0.0, 0.0]).view(1, 3, 1, 1)
    weights = [math.exp(2.5), math.exp(1.0), math.exp(3.0)]
    expected = (weights[0] * 1.0 + weights[1] * 2.0 + weights[2] * 6.0) / sum(weights)
    assert softmax_value(q, draws, 0.5).item() == pytest.approx(expected, rel=1e-6)


STILL: dict[str, Any] = {"critic_learning_rate": 1e-12, "actor_learning_rate": 1e-12}
"""Rates at which a few updates leave the networks as they are."""


def two_states(**options: Any) -> tuple[TD3, TD3State, Batch]:
    """π = 0.5 and Q₁ = 4 s + 2 a at s = 1 and s = −0.5, where the data has a = 0 and a = 0.25."""
    agent, state = hand_set_agent(**STILL, **options)
    linear(state.actor, ([0.0], math.atanh(0.5)))
    linear(state.critic, ([4.0, 2.0], 0.0), ([0.0, 0.0], 7.0))
    batch = Batch(
        observation=torch.tensor([[[1.0], [-0.5]]]),
        action=torch.tensor([[[0.0], [0.25]]]),
        reward=torch.zeros(1, 2),
        discount=torch.zeros(1, 2),
        next_observation=torch.zeros(1, 2, 1),
        terminated=torch.ones(1, 2),
    )
    return agent, state, batch


def test_behavior_cloning_weighs_the_value_by_its_mean_size() -> None:
    agent, state, batch = two_states(bc_alpha=1.5)
    metrics = agent.update(state, [batch], {"target_policy": torch.zeros(1, 1, 2, 1)})
    # Q₁ is 5 and −1: its mean is 2, its mean size 3, so λ = 0.5. The distances are 0.5 and 0.25.
    assert metrics["bc_loss"].item() == pytest.approx(0.15625)
    assert metrics["actor_loss"].mean().item() == pytest.approx(-0.5 * 2.0 + 0.15625)
    # By the action of each state: (−λ · 2 + 2 · distance) / 2, that is 0 and −0.25; and dπ/d(output) = 1 − 0.5².
    # Adam's first moment is a tenth of the gradient.
    moments = state.actor_optimizer.named_tensors()
    assert moments["first_moment.layers.0.weight"].item() == pytest.approx(0.1 * -0.25 * 0.75 * -0.5, rel=1e-5)
    assert moments["first_moment.layers.0.bias"].item() == pytest.approx(0.1 * -0.25 * 0.75, rel=1e-5)


def test_plain_td3_leaves_the_data_s_actions_out_of_the_actor_s_loss() -> None:
    agent, state, batch = two_states()
    metrics = agent.update(state, [batch], {"target_policy": torch.zeros(1, 1, 2, 1)})
    assert metrics["actor_loss"].mean().item() == pytest.approx(-2.0)
    assert "bc_loss" not in metrics


def test_the_distance_s_weight_decays_with_each_actor_step() -> None:
    agent, state, batch = two_states(bc_alpha=1.5, bc_decay=0.5)
    for weight in (1.0, 0.5, 0.25):
        assert state.bc_weight.tolist() == [weight]
        agent.update_critic(state, [batch], {"target_policy": torch.zeros(1, 1, 2, 1)})
        metrics = agent.update(state, [batch], {"target_policy": torch.zeros(1, 1, 2, 1)})
        assert metrics["actor_loss"].mean().item() == pytest.approx(-1.0 + weight * 0.15625)
        assert metrics["bc_loss"].item() == pytest.approx(0.15625)


def test_weights_decay_where_there_is_no_gradient() -> None:
    agent, state = hand_set_agent(weight_decay=0.5, critic_learning_rate=0.1, actor_learning_rate=0.2)
    linear(state.actor, ([3.0], 0.0))
    linear(state.critic, ([0.0, 0.0], 4.0), ([0.0, 0.0], 4.0))
    agent.update(state, [one_transition(4.0, 0.0)], {"target_policy": torch.zeros(1, 1, 1, 1)})
    assert state.critic.layers[0].bias.flatten().tolist() == pytest.approx([4.0 * (1.0 - 0.1 * 0.5)] * 2)
    assert state.actor.layers[0].weight.item() == pytest.approx(3.0 * (1.0 - 0.2 * 0.5))


def test_gradients_are_clipped_for_actor_and_critics_apart() -> None:
    agent, state, batch = two_states(max_gradient_norm=1e-3)
    agent.update(state, [batch], {"target_policy": torch.zeros(1, 1, 2, 1)})
    for optimizer in (state.actor_optimizer, state.critic_optimizer):
        # Adam's first moment is a tenth of the gradient.
        assert optimizer.first_moment.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_dropout_leaves_units_out_of_the_critics_loss_only() -> None:
    agent = TD3(TD3Config(hidden=(2,), policy_delay=1, dropout=0.5, **STILL), continuous(1, 1))
    assert agent.noise_shapes(1) == {"target_policy": (1, 1, 1), "dropout": (1, 2, 1, 2)}
    state = agent.init((0,), CPU)
    for network in (state.critic, state.target_critic):
        network.flat.zero_()
        with torch.no_grad():
            network.layers[0].bias.copy_(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]))
            network.layers[1].weight.fill_(1.0)
    # The first critic keeps its first unit, the second its second; kept units count double. Whole, they are 3 and 7.
    dropout = torch.tensor([-1.0, 1.0, 1.0, -1.0]).view(1, 1, 2, 1, 2)
    noise = {"target_policy": torch.zeros(1, 1, 1, 1), "dropout": dropout}
    metrics = agent.update(state, [one_transition(1.0, 0.5)], noise)
    assert metrics["target_q"].mean().item() == pytest.approx(1.0 + 0.5 * 3.0)
    assert metrics["q"].mean().item() == pytest.approx((2.0 + 8.0) / 2.0)
    assert metrics["critic_loss"].mean().item() == pytest.approx((2.0 - 2.5) ** 2 + (8.0 - 2.5) ** 2)
    assert metrics["actor_loss"].mean().item() == pytest.approx(-3.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_critics_can_be_updated_alone(name: str) -> None:
    agent = TD3(VARIANTS[name], continuous())
    batches = random_batches(agent.spec, agent.batches_per_update, 2)
    (noise,) = random_noise(agent, 1, 2)
    alone, together = agent.init((0, 1), CPU), agent.init((0, 1), CPU)
    before = {key: tensor.clone() for key, tensor in state_tensors(alone).items()}
    metrics, both = agent.update_critic(alone, batches, noise), agent.update(together, batches, noise)
    after, others = state_tensors(alone), state_tensors(together)
    for key, tensor in after.items():
        policy = key.startswith(("actor", "target_actor", "bc_weight"))
        assert torch.equal(tensor, before[key] if policy else others[key]), key
    assert not torch.equal(alone.critic.flat, alone.target_critic.flat)
    assert metrics.keys() == both.keys() - {"actor_loss", "bc_loss"}


@pytest.mark.parametrize(("kind", "outputs"), [("deterministic", 2), ("squashed_gaussian", 4)])
def test_a_cloned_policy_is_where_the_actor_starts(kind: str, outputs: int) -> None:
    cloned = MLP(3, outputs, SMALL.hidden, seed_generators((4, 5)))
    agent = TD3(SMALL, continuous())
    state = agent.init((0, 1), CPU)
    critics = state.critic.flat.clone()
    agent.adopt_policy(state, cloned, kind)
    observation = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(act(agent, state, observation), cloned(observation)[..., :2].tanh())
    assert torch.equal(state.target_actor.flat, state.actor.flat)
    assert torch.equal(state.critic.flat, critics)


@pytest.mark.parametrize(
    ("kind", "hidden", "words"),
    [
        ("gaussian", SMALL.hidden, "can't start from a gaussian policy"),
        ("deterministic", (16,), r"hidden=\[16\], this one hidden=\[16, 12\]"),
    ],
)
def test_a_policy_that_the_actor_can_t_be_is_refused(kind: str, hidden: tuple[int, ...], words: str) -> None:
    agent, clone = TD3(SMALL, continuous()), MLP(3, 2, hidden, seed_generators((0,)))
    state = agent.init((0,), CPU)
    before = state.actor.flat.clone()
    with pytest.raises(RecipeError, match=words):
        agent.adopt_policy(state, clone, kind)
    assert torch.equal(state.actor.flat, before)


def test_the_actor_climbs_the_first_critic_after_the_critic_steps() -> None:
    agent, state = hand_set_agent(critic_learning_rate=0.5, actor_learning_rate=0.01)
    linear(state.actor, ([0.0], 0.0))
    metrics = agent.update(state, [one_transition(1.0, 0.0)], {"target_policy": torch.zeros(1, 1, 1, 1)})
    # The first critic's error is −1, so Adam's first step moves its parameters by 0.5 against the sign of each
    # gradient: −s, −a, −1 give the weights (0.5, −0.5) and the bias 0.5. The actor's action is 0 at s = 0.5.
    assert metrics["actor_loss"].mean().item() == pytest.approx(-(0.5 * 0.5 + 0.5), rel=1e-5)
    # dQ₁/da = −0.5: the actor's parameters fall by its learning rate.
    torch.testing.assert_close(state.actor.flat, torch.tensor([-0.01, -0.01]), rtol=1e-4, atol=0.0)


def test_the_last_batch_of_a_cycle_moves_the_actor() -> None:
    agent = TD3(SMALL, continuous())
    first, second, other = random_batches(agent.spec, 3, 1)
    (noise,) = random_noise(agent, 1, 1)
    losses = []
    for batches in ([first, second], [dataclasses.replace(first, observation=other.observation), second]):
        state = agent.init((0,), CPU)
        state.critic_optimizer.learning_rate = 0.0
        losses.append(agent.update(state, batches, noise)["actor_loss"])
    assert torch.equal(losses[0], losses[1])
    state = agent.init((0,), CPU)
    state.critic_optimizer.learning_rate = 0.0
    assert not torch.equal(agent.update(state, [second, first], noise)["actor_loss"], losses[0])


def test_the_targets_move_once_a_cycle() -> None:
    agent = TD3(SMALL, continuous())
    state = agent.init((0,), CPU)
    before = state.target_critic.flat.clone()
    agent.update(state, random_batches(agent.spec, 2, 1), random_noise(agent, 1, 1)[0])
    torch.testing.assert_close(state.target_critic.flat, before.lerp(state.critic.flat, 0.05), rtol=0.0, atol=1e-7)
    assert not torch.equal(state.target_critic.flat, before)


def test_actions_are_greedy_without_draws_and_noisy_with_them() -> None:
    agent = TD3(dataclasses.replace(SMALL, exploration_noise=0.3), continuous())
    state = agent.init((0, 1), CPU)
    observation = torch.randn(2, 5, 3)
    greedy = act(agent, state, observation)
    for seed in range(2):
        torch.testing.assert_close(greedy[seed], copy_of_member(state.actor, seed)(observation[seed]).tanh())
    draws = torch.randn(2, 5, 2)
    torch.testing.assert_close(act(agent, state, observation, draws), (greedy + 0.3 * draws).clamp(-1.0, 1.0))
    assert act(agent, state, observation, torch.full((2, 5, 2), 99.0)).eq(1.0).all()
    assert agent.acting_noise_shape == (2,)


def test_targets_start_as_copies_and_critics_apart() -> None:
    state = TD3(SMALL, continuous()).init((0, 1), CPU)
    assert torch.equal(state.target_actor.flat, state.actor.flat)
    assert torch.equal(state.target_critic.flat, state.critic.flat)
    assert state.target_critic.flat.data_ptr() != state.critic.flat.data_ptr()
    weight = state.critic.layers[0].weight
    assert not torch.equal(weight[0, 0], weight[0, 1])


def test_the_critics_alone_are_normalized() -> None:
    state = TD3(VARIANTS["layer norm"], continuous()).init((0,), CPU)
    assert [len(network.norms) for network in (state.critic, state.target_critic)] == [2, 2]
    assert [len(network.norms) for network in (state.actor, state.target_actor)] == [0, 0]


def test_nested_observations_are_flattened() -> None:
    spec = continuous()
    box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    agent = TD3(SMALL, Spec(gym.spaces.Dict({"a": box, "b": gym.spaces.Discrete(2)}), spec.action_space))
    state = agent.init((0,), CPU)
    action = act(agent, state, {"a": torch.randn(1, 4, 2), "b": torch.ones(1, 4)})
    assert action.shape == (1, 4, 2)


@pytest.mark.parametrize("spec", [discrete(), unbounded()], ids=["discrete", "unbounded"])
def test_other_actions_than_bounded_vectors_are_refused(spec: Spec) -> None:
    with pytest.raises(SpaceMismatchError, match="TD3"):
        TD3(TD3Config(), spec)


@pytest.mark.parametrize("name", VARIANTS)
def test_updates_and_actions_read_no_values(name: str) -> None:
    agent = TD3(VARIANTS[name], continuous())
    state = agent.init((0, 1), CPU)
    batches, (noise,) = random_batches(agent.spec, agent.batches_per_update, 2), random_noise(agent, 1, 2)
    places = {name: tensor.data_ptr() for name, tensor in state_tensors(state).items()}
    with no_values_read():
        metrics = agent.update(state, batches, noise)
        agent.update_critic(state, batches, noise)
        act(agent, state, batches[0].observation, torch.randn(2, 8, 2))
    assert places == {name: tensor.data_ptr() for name, tensor in state_tensors(state).items()}
    assert not any(values.requires_grad for values in metrics.values())


def test_a_schedule_that_has_ended_is_told() -> None:
    agent = TD3(dataclasses.replace(SMALL, constant_steps=2, decay_steps=4), continuous())
    state = agent.init((0,), CPU)
    told = []
    for draws in random_noise(agent, 4, 1):
        agent.update(state, random_batches(agent.spec, 2, 1), draws)
        told.append(agent.ended_schedule(state))
    # Critics stop at 6 steps, two an update; the actor at 3.
    assert told == [0, 0, 6, 8]
    assert TD3(SMALL, continuous()).ended_schedule(TD3(SMALL, continuous()).init((0,), CPU)) == 0


def test_the_record_builds_the_agent_from_plain_options() -> None:
    options = ALGORITHM.options({"hidden": [8], "bc_alpha": 2.5, "discount": 0.9})
    agent = ALGORITHM.build(options, continuous())
    assert isinstance(agent, TD3)
    assert agent.config == TD3Config(hidden=(8,), bc_alpha=2.5, discount=0.9)
    assert (agent.discount, agent.batches_per_update) == (0.9, 2)
