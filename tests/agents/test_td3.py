"""TD3 against a plain single-seed implementation, hand-computed targets, and itself on the seed axis."""

from __future__ import annotations

import copy
import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offrl.agents.td3 import TD3, TD3Config, TD3State
from offrl.errors import SpaceMismatchError
from offrl.nn import MLP
from offrl.train.checkpoint import state_tensors
from offrl.types import Batch, Spec
from tests.agents.batches import (
    CPU,
    continuous,
    discrete,
    noise_of_seed,
    of_seed,
    random_batches,
    random_noise,
    run_updates,
    unbounded,
)
from tests.nn.plain import assert_member_equals, copy_of_member

UPDATES = 10
SMALL = TD3Config(
    hidden=(16, 12), actor_learning_rate=3e-3, critic_learning_rate=5e-3, target_rate=0.05, policy_delay=2
)


class PlainTD3:
    """The algorithm as the paper's pseudo-code has it, for one seed, in plain PyTorch."""

    def __init__(self, config: TD3Config, state: TD3State, seed: int) -> None:
        self.config = config
        self.actor = nn.Sequential(copy_of_member(state.actor, seed), nn.Tanh())
        self.critics = nn.ModuleList(copy_of_member(state.critic, seed, member=member) for member in range(2))
        self.target_actor, self.target_critics = copy.deepcopy(self.actor), copy.deepcopy(self.critics)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=config.actor_learning_rate)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=config.critic_learning_rate)

    def update(self, batches: list[Batch], noise: Tensor) -> None:
        """One cycle for batches with a seed axis of one, and smoothing draws [C, B, A]."""
        c = self.config
        for batch, draws in zip(batches, noise, strict=True):
            state, action, next_state = batch.observation[0], batch.action[0], batch.next_observation[0]
            not_done = 1.0 - batch.terminated[0]
            with torch.no_grad():
                smoothing = torch.clip(c.target_noise * draws, -c.target_noise_clip, c.target_noise_clip)
                next_action = torch.clip(self.target_actor(next_state) + smoothing, -1.0, 1.0)
                target_input = torch.cat([next_state, next_action], dim=1)
                first, second = (critic(target_input)[:, 0] for critic in self.target_critics)
                target = batch.reward[0] + not_done * 0.9 * torch.min(first, second)
            inputs = torch.cat([state, action], dim=1)
            critic_loss = sum(nn.functional.mse_loss(critic(inputs)[:, 0], target) for critic in self.critics)
            self.critic_optimizer.zero_grad()
            critic_loss.backward()
            self.critic_optimizer.step()
        actor_loss = -self.critics[0](torch.cat([state, self.actor(state)], dim=1)).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        with torch.no_grad():
            for net, target_net in ((self.actor, self.target_actor), (self.critics, self.target_critics)):
                for source, averaged in zip(net.parameters(), target_net.parameters(), strict=True):
                    averaged.mul_(1.0 - c.target_rate).add_(c.target_rate * source)


@pytest.mark.parametrize(
    "config", [SMALL, dataclasses.replace(SMALL, layer_norm=True, policy_delay=3)], ids=["paper", "layer norm"]
)
def test_updates_equal_a_plain_implementation(config: TD3Config) -> None:
    seeds = (3, 8)
    agent = TD3(config, continuous())
    state = agent.init(seeds, CPU)
    batches = random_batches(agent.spec, UPDATES * config.policy_delay, len(seeds))
    noise = random_noise(agent, UPDATES, len(seeds))
    plains = [PlainTD3(config, state, position) for position in range(len(seeds))]
    run_updates(agent, state, batches, noise)
    for position, plain in enumerate(plains):
        for update, draws in enumerate(noise):
            cycle = batches[update * config.policy_delay : (update + 1) * config.policy_delay]
            plain.update([of_seed(batch, position) for batch in cycle], draws["target_policy"][position])
        for network, reference in ((state.actor, plain.actor), (state.target_actor, plain.target_actor)):
            assert_member_equals(network, position, reference[0])
        for network, references in ((state.critic, plain.critics), (state.target_critic, plain.target_critics)):
            for member in range(2):
                assert_member_equals(network, position, references[member], member)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_training_seeds_together_equals_training_each_alone(layer_norm: bool) -> None:
    seeds = (5, 11, 2)
    agent = TD3(dataclasses.replace(SMALL, layer_norm=layer_norm), continuous())
    batches = random_batches(agent.spec, UPDATES * 2, len(seeds))
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


def hand_set_agent(**options: float) -> tuple[TD3, TD3State]:
    """π'(s) = tanh(0.1 s), Q'₁ = s + 10 a, Q'₂ = 3 s + 2 a; the live critics are 0 and 1 everywhere."""
    agent = TD3(TD3Config(hidden=(), policy_delay=1, **options), continuous(1, 1))
    state = agent.init((0,), CPU)
    linear(state.target_actor, ([0.1], 0.0))
    linear(state.target_critic, ([1.0, 10.0], 0.0), ([3.0, 2.0], 0.0))
    linear(state.critic, ([0.0, 0.0], 0.0), ([0.0, 0.0], 1.0))
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
    assert metrics["target_q"].item() == pytest.approx(target, rel=1e-6)
    assert metrics["critic_loss"].item() == pytest.approx(target**2 + (target - 1.0) ** 2, rel=1e-6)
    assert metrics["q"].item() == 0.5


def test_smoothed_actions_stay_within_the_bounds() -> None:
    agent, state = hand_set_agent()
    linear(state.target_actor, ([0.0], 2.0))
    metrics = agent.update(state, [one_transition(0.0, 1.0)], {"target_policy": torch.full((1, 1, 1, 1), 9.0)})
    # tanh(2) + 0.5 is clipped to 1: the lower critic is 6 + 2.
    assert metrics["target_q"].item() == pytest.approx(8.0)


def test_a_terminal_transition_is_worth_its_reward() -> None:
    agent, state = hand_set_agent()
    metrics = agent.update(state, [one_transition(-3.0, 0.0)], {"target_policy": torch.ones(1, 1, 1, 1)})
    assert metrics["target_q"].item() == -3.0
    assert metrics["critic_loss"].item() == pytest.approx(9.0 + 16.0)


def test_noise_options_scale_and_bound_the_smoothing() -> None:
    agent, state = hand_set_agent(target_noise=0.1, target_noise_clip=0.02)
    metrics = agent.update(state, [one_transition(0.0, 1.0)], {"target_policy": torch.full((1, 1, 1, 1), 0.1)})
    assert metrics["target_q"].item() == pytest.approx(2.0 + 10.0 * (math.tanh(0.2) + 0.01), rel=1e-6)


def test_the_actor_climbs_the_first_critic_after_the_critic_steps() -> None:
    agent, state = hand_set_agent(critic_learning_rate=0.5, actor_learning_rate=0.01)
    linear(state.actor, ([0.0], 0.0))
    metrics = agent.update(state, [one_transition(1.0, 0.0)], {"target_policy": torch.zeros(1, 1, 1, 1)})
    # The first critic's error is −1, so Adam's first step moves its parameters by 0.5 against the sign of each
    # gradient: −s, −a, −1 give the weights (0.5, −0.5) and the bias 0.5. The actor's action is 0 at s = 0.5.
    assert metrics["actor_loss"].item() == pytest.approx(-(0.5 * 0.5 + 0.5), rel=1e-5)
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
    greedy = agent.act(state, observation)
    for seed in range(2):
        torch.testing.assert_close(greedy[seed], copy_of_member(state.actor, seed)(observation[seed]).tanh())
    draws = torch.randn(2, 5, 2)
    torch.testing.assert_close(agent.act(state, observation, draws), (greedy + 0.3 * draws).clamp(-1.0, 1.0))
    assert agent.act(state, observation, torch.full((2, 5, 2), 99.0)).eq(1.0).all()
    assert not greedy.requires_grad


def test_targets_start_as_copies_and_critics_apart() -> None:
    state = TD3(SMALL, continuous()).init((0, 1), CPU)
    assert torch.equal(state.target_actor.flat, state.actor.flat)
    assert torch.equal(state.target_critic.flat, state.critic.flat)
    assert state.target_critic.flat.data_ptr() != state.critic.flat.data_ptr()
    weight = state.critic.layers[0].weight
    assert not torch.equal(weight[0, 0], weight[0, 1])


def test_nested_observations_are_flattened() -> None:
    spec = continuous()
    box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    agent = TD3(SMALL, Spec(gym.spaces.Dict({"a": box, "b": gym.spaces.Discrete(2)}), spec.action_space))
    state = agent.init((0,), CPU)
    action = agent.act(state, {"a": torch.randn(1, 4, 2), "b": torch.ones(1, 4)})
    assert action.shape == (1, 4, 2)


@pytest.mark.parametrize("spec", [discrete(), unbounded()], ids=["discrete", "unbounded"])
def test_other_actions_than_bounded_vectors_are_refused(spec: Spec) -> None:
    with pytest.raises(SpaceMismatchError, match="TD3"):
        TD3(TD3Config(), spec)
