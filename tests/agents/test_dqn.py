"""DQN against a plain single-seed implementation, hand-computed targets, and itself on the seed axis."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from offrl.agents.dqn import DQN, DQNConfig, DQNState
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.nn import MLP
from offrl.nn.conv import PlainConvolutions
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
)
from tests.nn.plain import fall_linearly

UPDATES, ACTIONS = 10, 4
SMALL = DQNConfig(hidden=(16, 12), learning_rate=5e-3, target_rate=0.05, max_gradient_norm=0.0)
REGULARISED: dict[str, Any] = {
    "dropout": 0.2,
    "layer_norm": True,
    "activation": "tanh",
    "weight_decay": 0.1,
    "max_gradient_norm": 0.05,
}
EVERYTHING = dataclasses.replace(
    SMALL,
    **REGULARISED,
    double=True,
    dueling=True,
    noisy=True,
    conservative=0.5,
    target_rate=0.7,
    target_every=3,
    decay_steps=16,
    convolutions=((4, 3, 1), (5, 2, 2)),
)
CONFIGS = {
    "plain": SMALL,
    "double": dataclasses.replace(SMALL, double=True),
    "dueling": dataclasses.replace(SMALL, dueling=True),
    "noisy": dataclasses.replace(SMALL, noisy=True),
    "conservative": dataclasses.replace(SMALL, conservative=2.0),
    "steps that fall": dataclasses.replace(SMALL, decay_steps=14),
    "hard copies": dataclasses.replace(SMALL, target_rate=1.0, target_every=4),
    "regularized": dataclasses.replace(SMALL, **REGULARISED),
    "everything": EVERYTHING,
}
IMAGES = Spec(
    gym.spaces.Dict({"camera": gym.spaces.Box(0, 255, (9, 8, 2), np.uint8), "speed": gym.spaces.Box(-9.0, 9.0, (3,))}),
    gym.spaces.Discrete(ACTIONS, start=5),
)


def spec_of(config: DQNConfig) -> Spec:
    return IMAGES if config.convolutions != "auto" else discrete(actions=ACTIONS)


def dqn_batches(spec: Spec, count: int, seeds: int, *, extras: bool = True) -> list[Batch]:
    """Random batches; with importance weights and masks that allow what was done."""
    start = int(spec.action_space.start)  # type: ignore[attr-defined]
    plain, generator = discrete(actions=ACTIONS, start=start), torch.Generator().manual_seed(3)
    batches = []
    for batch in random_batches(plain, count, seeds):
        shape = batch.reward.shape
        changes: dict[str, Any] = {}
        if extras:
            batch = masked(batch, plain, generator)
            changes["weight"] = torch.rand(shape, generator=generator)
        if spec is IMAGES:
            pixels = torch.randint(0, 256, (2, *shape, 9, 8, 2), dtype=torch.uint8, generator=generator)
            changes["observation"] = {"camera": pixels[0], "speed": batch.observation}
            changes["next_observation"] = {"camera": pixels[1], "speed": batch.next_observation}
        batches.append(dataclasses.replace(batch, **changes))
    return batches


def seed_part(batch: Batch, seed: int) -> Batch:
    """One seed's part of a batch, its axis kept, nested observations too."""
    parts = {
        name: {key: part[seed : seed + 1] for key, part in getattr(batch, name).items()}
        for name in ("observation", "next_observation")
        if isinstance(getattr(batch, name), dict)
    }
    return dataclasses.replace(of_seed(batch, seed), **parts)


class PlainDQN:
    """The algorithm as the papers' pseudo-code has it, for one seed, with plain PyTorch functions."""

    def __init__(self, agent: DQN, state: DQNState, seed: int) -> None:
        self.config, self.start = agent.config, agent.first_action
        named = state.network.named_parameters()
        self.weights = {name: nn.Parameter(parameter[seed].detach().clone()) for name, parameter in named}
        self.target = {name: parameter.detach().clone() for name, parameter in self.weights.items()}
        c = self.config
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=c.learning_rate, weight_decay=c.weight_decay)
        fall_linearly(self.optimizer, c.decay_steps)
        self.updates = 0

    def update(self, batch: Batch, noise: Noise) -> None:
        """One step for a batch and draws with a seed axis of one."""
        c = self.config
        samples = list(noise["weights"][0, :, 0]) if c.noisy else [None] * 3
        action, mask, next_mask = batch.action[0] - self.start, batch.action_mask[0], batch.next_action_mask[0]  # type: ignore[index]
        with torch.no_grad():
            next_values = self.values(self.target, batch.next_observation, samples[1])
            choosing = self.values(self.weights, batch.next_observation, samples[2]) if c.double else next_values
            best = torch.where(next_mask, choosing, -1e9).argmax(dim=1)
            bootstrap = next_values[torch.arange(len(best)), best]
            target = batch.reward[0] + 0.9 * (1.0 - batch.terminated[0]) * bootstrap
        dropout = noise["dropout"][0] if c.dropout else None
        values = self.values(self.weights, batch.observation, samples[0], dropout)
        taken = values[torch.arange(len(action)), action]
        loss = functional.smooth_l1_loss(taken, target, reduction="none")
        possible = torch.where(mask, values, -torch.inf)
        loss = loss + c.conservative * (torch.logsumexp(possible, dim=1) - taken)
        loss = (batch.weight[0] * loss).mean()  # type: ignore[index]
        self.optimizer.zero_grad()
        loss.backward()
        if c.max_gradient_norm:
            nn.utils.clip_grad_norm_(self.weights.values(), c.max_gradient_norm)
        self.optimizer.step()
        self.updates += 1
        if self.updates % c.target_every == 0:
            for name, weight in self.weights.items():
                self.target[name] = (1 - c.target_rate) * self.target[name] + c.target_rate * weight.detach()

    def values(
        self, weights: Mapping[str, Tensor], observation: Any, noise: Tensor | None, dropout: Tensor | None = None
    ) -> Tensor:
        """[B, A]."""
        x = observation[0] if isinstance(observation, Tensor) else self.encode(weights, observation)
        if not self.config.dueling:
            return self.stream(0, weights, x, noise, dropout)
        halves = [dropout[:, i * 28 : (i + 1) * 28] if dropout is not None else None for i in range(2)]
        first = x.shape[1] + 16 + 16 + 12 + 12 + 1
        noises = [None, None] if noise is None else [noise[:first], noise[first:]]
        value, advantage = (self.stream(i, weights, x, noises[i], halves[i]) for i in range(2))
        return value + (advantage - advantage.mean(dim=1, keepdim=True))

    def encode(self, weights: Mapping[str, Tensor], observation: Mapping[str, Tensor]) -> Tensor:
        x = observation["camera"][0].permute(0, 3, 1, 2) / 255.0
        for layer, stride in enumerate((1, 2)):
            weight, bias = (weights[f"encoder.images.0.{kind}.{layer}"] for kind in ("weights", "biases"))
            if layer == 1:
                # 7 × 6 rows and columns: one more row, or the kernel of 2 × 2 would leave out the last one.
                x = functional.pad(x, (0, 0, 0, 1))
            x = torch.tanh(functional.conv2d(x, weight, bias, stride=stride))
        return torch.cat([x.flatten(1), observation["speed"][0]], dim=1)

    def stream(
        self, number: int, weights: Mapping[str, Tensor], x: Tensor, noise: Tensor | None, dropout: Tensor | None
    ) -> Tensor:
        c, prefix = self.config, f"streams.{number}"
        activation = torch.tanh if c.activation == "tanh" else torch.relu
        for layer in range(3):
            weight, bias = (weights[f"{prefix}.layers.{layer}.{kind}"] for kind in ("weight", "bias"))
            weight, bias = weight.reshape(-1, x.shape[1]), bias.flatten()
            if noise is not None:
                outputs, inputs = weight.shape
                scaled = torch.sign(noise) * torch.sqrt(torch.abs(noise))
                into, out, noise = scaled[:inputs], scaled[inputs : inputs + outputs], noise[inputs + outputs :]
                spread, bias_spread = (weights[f"{prefix}.layers.{layer}.{kind}_spread"] for kind in ("weight", "bias"))
                weight = weight + spread * torch.outer(out, into)
                bias = bias + bias_spread.flatten() * out
            x = x @ weight.T + bias
            if layer == 2:
                break
            if c.layer_norm:
                gain, offset = (weights[f"{prefix}.norms.{layer}.{kind}"].flatten() for kind in ("gain", "offset"))
                x = functional.layer_norm(x, x.shape[-1:], gain, offset)
            x = activation(x)
            if dropout is not None:
                # 0.841621 is the normal's quantile of 0.8.
                draws = dropout[:, :16] if layer == 0 else dropout[:, 16:]
                x = x * (draws < 0.841621) / 0.8
        return x


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_updates_equal_a_plain_implementation(config: DQNConfig) -> None:
    seeds = (3, 8)
    agent = DQN(config, spec_of(config))
    state = agent.init(seeds, CPU)
    batches, noise = dqn_batches(agent.spec, UPDATES, len(seeds)), random_noise(agent, UPDATES, len(seeds))
    plains = [PlainDQN(agent, state, position) for position in range(len(seeds))]
    run_updates(agent, state, batches, noise)
    for position, plain in enumerate(plains):
        for batch, draws in zip(batches, noise, strict=True):
            plain.update(seed_part(batch, position), noise_of_seed(draws, position))
        for network, reference in ((state.network, plain.weights), (state.target_network, plain.target)):
            for name, parameter in network.named_parameters():
                torch.testing.assert_close(parameter[position], reference[name], rtol=0.0, atol=1e-5, msg=name)


@pytest.mark.parametrize("config", [SMALL, EVERYTHING], ids=["plain", "everything"])
def test_training_seeds_together_equals_training_each_alone(config: DQNConfig) -> None:
    seeds = (5, 11, 2)
    agent = DQN(config, spec_of(config))
    batches, noise = dqn_batches(agent.spec, UPDATES, len(seeds)), random_noise(agent, UPDATES, len(seeds))
    together = agent.init(seeds, CPU)
    initial = {name: tensor.clone() for name, tensor in state_tensors(together).items()}
    metrics = run_updates(agent, together, batches, noise)
    trained = state_tensors(together)
    for position, seed in enumerate(seeds):
        alone = agent.init((seed,), CPU)
        for name, tensor in state_tensors(alone).items():
            assert torch.equal(*_same_seed(initial[name], tensor, position)), name
        parts = [seed_part(batch, position) for batch in batches]
        alone_metrics = run_updates(agent, alone, parts, [noise_of_seed(draws, position) for draws in noise])
        for name, tensor in state_tensors(alone).items():
            torch.testing.assert_close(*_same_seed(trained[name], tensor, position), rtol=1e-4, atol=1e-6)
        for ours, theirs in zip(metrics, alone_metrics, strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                # Errors are [1, S, B], all else is [S, …].
                mine, other = (v[0] if name == "td_error" else v for v in (value, theirs[name]))
                torch.testing.assert_close(mine[position], other[0], rtol=1e-4, atol=1e-5)


def _same_seed(together: Tensor, alone: Tensor, position: int) -> tuple[Tensor, Tensor]:
    return (together[position], alone[0]) if together.dim() else (together, alone)


# Targets and losses by hand


def linear(network: nn.Module, weight: list[float], bias: list[float]) -> None:
    """Set one seed's linear network of a single input."""
    assert isinstance(network, MLP)
    (layer,) = network.layers
    with torch.no_grad():
        layer.weight[0, 0, :, 0] = torch.tensor(weight)
        layer.bias[0, 0, 0] = torch.tensor(bias)


def one_transition(reward: float, discount: float, action: int = 0, **extras: Any) -> Batch:
    """From s = 0.5 to s' = 2."""
    return Batch(
        observation=torch.tensor([[[0.5]]]),
        action=torch.tensor([[action]]),
        reward=torch.tensor([[reward]]),
        discount=torch.tensor([[discount]]),
        next_observation=torch.tensor([[[2.0]]]),
        terminated=torch.tensor([[float(discount == 0.0)]]),
        **extras,
    )


def hand_set_agent(actions: int = 3, **options: Any) -> tuple[DQN, DQNState]:
    """Q(s, ·) = (s, 1, 3 − s), and the target network's (1, 2 s, −s): at s' = 2, (2, 1, 1) and (1, 4, −2)."""
    agent = DQN(DQNConfig(hidden=(), max_gradient_norm=0.0, **options), discrete(1, actions))
    state = agent.init((0,), CPU)
    linear(state.network.streams[0], [1.0, 0.0, -1.0], [0.0, 1.0, 3.0])
    linear(state.target_network.streams[0], [0.0, 2.0, -1.0], [1.0, 0.0, 0.0])
    return agent, state


def test_the_target_is_the_best_value_of_the_target_network() -> None:
    agent, state = hand_set_agent()
    metrics = agent.update(state, [one_transition(1.5, 0.9)], {})
    target = 1.5 + 0.9 * 4.0
    assert metrics["target_q"].mean().item() == pytest.approx(target)
    # Q(0.5, 0) = 0.5: beyond 1 the loss is linear.
    assert metrics["td_loss"].mean().item() == pytest.approx(target - 0.5 - 0.5)
    assert metrics["q"].mean().item() == pytest.approx((0.5 + 1.0 + 2.5) / 3)
    assert "td_error" not in metrics


def test_double_takes_the_target_networks_value_of_the_networks_choice() -> None:
    agent, state = hand_set_agent(double=True)
    metrics = agent.update(state, [one_transition(1.5, 0.9)], {})
    assert metrics["target_q"].mean().item() == pytest.approx(1.5 + 0.9 * 1.0)


@pytest.mark.parametrize(("double", "value"), [(False, 1.0), (True, -2.0)])
def test_forbidden_actions_are_not_bootstrapped_from(double: bool, value: float) -> None:
    agent, state = hand_set_agent(double=double)
    # Without the first action the network prefers 1 (by place, of two equals) to 2; without the second, 0 to 2.
    mask = torch.tensor([[[False, False, True]]] if double else [[[True, False, True]]])
    metrics = agent.update(state, [one_transition(0.0, 1.0, next_action_mask=mask)], {})
    assert metrics["target_q"].mean().item() == value


def test_a_terminal_transition_is_worth_its_reward() -> None:
    agent, state = hand_set_agent()
    metrics = agent.update(state, [one_transition(-0.25, 0.0, action=1)], {})
    assert metrics["target_q"].mean().item() == -0.25
    assert metrics["td_loss"].mean().item() == pytest.approx(1.25 - 0.5)


def test_returns_of_several_steps_are_bootstrapped_by_the_batchs_discount() -> None:
    agent, state = hand_set_agent(discount=0.5)
    # Three rewards of 1 at γ = 0.5 come with a discount of γ³; the agent's own γ doesn't come in again.
    metrics = agent.update(state, [one_transition(1.75, 0.125)], {})
    assert metrics["target_q"].mean().item() == pytest.approx(1.75 + 0.125 * 4.0)


def test_importance_weights_scale_the_loss_and_errors_are_told() -> None:
    agent, state = hand_set_agent()
    first, second = one_transition(0.0, 1.0, 0), one_transition(0.0, 0.0, 2)
    batch = Batch(
        **{
            name: torch.cat([getattr(first, name), getattr(second, name)], dim=1)
            for name in ("observation", "action", "reward", "discount", "next_observation", "terminated")
        },
        weight=torch.tensor([[0.25, 1.0]]),
    )
    metrics = agent.update(state, [batch], {})
    # Errors 0.5 − 4 and 2.5 − 0.
    assert metrics["td_error"].tolist() == [[[3.5, 2.5]]]
    assert metrics["td_loss"].mean().item() == pytest.approx((0.25 * 3.0 + 2.0) / 2)


def test_the_conservative_penalty_lowers_what_was_not_done() -> None:
    agent, state = hand_set_agent(conservative=4.0, learning_rate=1e-3)
    weights = state.network.flat.clone()
    # Q(0.5, 0) is the target already: all that moves is the penalty.
    metrics = agent.update(state, [one_transition(0.5, 0.0, 0)], {})
    assert metrics["td_loss"].mean().item() == 0.0
    gap = math.log(math.exp(0.5) + math.exp(1.0) + math.exp(2.5)) - 0.5
    assert metrics["conservative_gap"].mean().item() == pytest.approx(gap, rel=1e-5)
    # Adam's first step is the learning rate against each gradient's sign.
    expected = torch.tensor([1.0, -1.0, -1.0] * 2) * 1e-3
    torch.testing.assert_close(state.network.flat - weights, expected, rtol=1e-3, atol=0.0)


def test_the_conservative_penalty_is_over_the_allowed_actions() -> None:
    agent, state = hand_set_agent(conservative=1.0)
    mask = torch.tensor([[[True, True, False]]])
    metrics = agent.update(state, [one_transition(0.5, 0.0, 0, action_mask=mask)], {})
    gap = math.log(math.exp(0.5) + math.exp(1.0)) - 0.5
    assert metrics["conservative_gap"].mean().item() == pytest.approx(gap, rel=1e-5)


def test_gradients_of_large_errors_are_clipped() -> None:
    moved = []
    for reward in (3.0, 300.0):
        agent, state = hand_set_agent()
        state.optimizer.second_moment.fill_(1e6)
        before = state.network.flat.clone()
        agent.update(state, [one_transition(reward, 0.0)], {})
        moved.append(state.network.flat - before)
    assert moved[0].any()
    assert torch.equal(*moved)


def test_dueling_values_are_the_states_plus_centered_advantages() -> None:
    agent = DQN(DQNConfig(hidden=(), dueling=True), discrete(1, 3))
    state = agent.init((0,), CPU)
    value, advantage = state.network.streams
    linear(value, [2.0], [1.0])
    linear(advantage, [0.0, 1.0, -1.0], [3.0, 0.0, 0.0])
    # At s = 2: V = 5, and advantages (3, 2, −2) less their mean, 1.
    assert state.network(torch.tensor([[[2.0]]])).tolist() == [[[7.0, 6.0, 2.0]]]


# What a trace can repeat


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_no_tensors_value_is_read(config: DQNConfig) -> None:
    agent = DQN(config, spec_of(config))
    state = agent.init((0, 1), CPU)
    (batch,), (noise,) = dqn_batches(agent.spec, 1, 2), random_noise(agent, 1, 2)
    draws = torch.randn(2, 8, *agent.acting_noise_shape)
    with no_values_read():
        agent.update(state, [batch], noise)
        for explores in (None, draws):
            act(agent, state, batch.observation, explores, batch.action_mask)


class Counting(TorchDispatchMode):
    """Counts ATen operations by name while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_an_update_and_a_step_take_few_operations() -> None:
    """A small network's update is a matter of how many there are: each takes 1 to 3 µs."""
    agent = DQN(DQNConfig(hidden=(64, 64)), discrete())
    state = agent.init((0,), CPU)
    (batch,) = random_batches(agent.spec, 1, 1, 64)
    with Counting() as update:
        agent.update(state, [batch], {})
    with Counting() as step:
        act(agent, state, batch.observation[:, :4], torch.randn(1, 4, 4))  # type: ignore[index]
    views = {"detach", "alias", "transpose", "unsqueeze", "squeeze", "expand", "view", "split", "slice", "_unsafe_view"}
    counts = [sum(n for name, n in calls.names.items() if name not in views) for calls in (update, step)]
    assert counts[0] <= 50, update.names
    assert counts[1] <= 20, step.names


# Target network


def test_the_target_is_copied_after_every_third_update() -> None:
    agent = DQN(dataclasses.replace(SMALL, target_rate=1.0, target_every=3), discrete())
    state = agent.init((0,), CPU)
    initial = state.target_network.flat.clone()
    for update, batch in enumerate(random_batches(agent.spec, 7, 1), 1):
        agent.update(state, [batch], {})
        assert int(state.updates) == update
        if update < 3:
            assert torch.equal(state.target_network.flat, initial)
        assert torch.equal(state.target_network.flat, state.network.flat) == (update % 3 == 0)


def test_the_target_moves_a_little_with_every_update() -> None:
    agent = DQN(SMALL, discrete())
    state = agent.init((0,), CPU)
    assert torch.equal(state.target_network.flat, state.network.flat)
    for batch in random_batches(agent.spec, 3, 1):
        before = state.target_network.flat.clone()
        agent.update(state, [batch], {})
        expected = before.lerp(state.network.flat, 0.05)
        torch.testing.assert_close(state.target_network.flat, expected, rtol=0.0, atol=1e-7)


# Acting


def test_actions_are_greedy_without_draws_and_numbered_as_the_environment_does() -> None:
    for start in (0, -3):
        agent = DQN(SMALL, discrete(start=start))
        state = agent.init((0, 1), CPU)
        observation = torch.randn(2, 5, 3)
        action = act(agent, state, observation)
        assert action.dtype == torch.int64
        assert torch.equal(action, state.network(observation).argmax(dim=-1) + start)
        draws = torch.randn(2, 4000, 4)
        explored = act(agent, state, observation[:, :1].expand(-1, 4000, -1), draws)
        assert set(explored.flatten().tolist()) == set(range(start, start + 4))
        assert int(state.exploration_steps) == 4000


def test_epsilon_falls_linearly_and_counts_each_seeds_exploring_steps() -> None:
    config = dataclasses.replace(SMALL, epsilon_start=0.9, epsilon_end=0.1, epsilon_steps=1000)
    agent = DQN(config, discrete())
    state = agent.init((0, 1), CPU)
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(2, 1, 3, generator=generator).expand(-1, 50_000, -1)
    greedy = act(agent, state, observation)
    for steps, epsilon in ((0, 0.9), (250, 0.7), (1000, 0.1), (10**9, 0.1)):
        state.exploration_steps.fill_(steps)
        action = act(agent, state, observation, torch.randn(2, 50_000, 4, generator=generator))
        assert int(state.exploration_steps) == steps + 50_000
        # A random action is the greedy one once in four times; all others are equally frequent.
        share = (action != greedy).float().mean(dim=1)
        tolerance = 5 * (epsilon / 50_000) ** 0.5
        torch.testing.assert_close(share, torch.full((2,), 0.75 * epsilon), rtol=0.0, atol=tolerance)
        for seed in range(2):
            counts = torch.bincount(action[seed], minlength=4) / 50_000
            others = counts[torch.arange(4) != greedy[seed, 0]]
            torch.testing.assert_close(others, torch.full((3,), epsilon / 4), rtol=0.0, atol=tolerance)
    act(agent, state, observation)
    assert int(state.exploration_steps) == 10**9 + 50_000


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_epsilon_may_be_nothing_or_all(epsilon: float) -> None:
    agent = DQN(dataclasses.replace(SMALL, epsilon_start=epsilon, epsilon_end=epsilon), discrete())
    state, draws = agent.init((0,), CPU), torch.randn(1, 2000, 4)
    observation = torch.randn(1, 2000, 3)
    expected = draws.argmax(dim=-1) if epsilon else act(agent, state, observation)
    assert torch.equal(act(agent, state, observation, draws), expected)


def test_a_single_action_can_be_explored() -> None:
    agent = DQN(dataclasses.replace(SMALL, epsilon_start=0.5, epsilon_end=0.5), discrete(actions=1, start=2))
    state = agent.init((0,), CPU)
    assert act(agent, state, torch.randn(1, 9, 3), torch.randn(1, 9, 1)).eq(2).all()


def test_a_noisy_network_explores_by_its_weights_alone() -> None:
    agent = DQN(dataclasses.replace(SMALL, noisy=True, dueling=True), discrete())
    width = 2 * (3 + 16 + 16 + 12 + 12) + 1 + 4
    assert agent.acting_noise_shape == (width,)
    state = agent.init((0, 1), CPU)
    observation, draws = torch.randn(2, 1, 3).expand(-1, 300, -1), torch.randn(2, 300, width)
    explored = act(agent, state, observation, draws)
    for row in (0, 17):
        one = state.network(observation[:, :1], noise=draws[:, row : row + 1]).argmax(dim=-1)
        assert torch.equal(explored[:, row : row + 1], one)
    assert len(set(explored[0].tolist())) > 1
    assert torch.equal(act(agent, state, observation), state.network(observation).argmax(dim=-1))
    assert act(agent, state, observation, torch.zeros_like(draws)).equal(act(agent, state, observation))
    assert int(state.exploration_steps) == 0


@pytest.mark.parametrize(("double", "passes"), [(False, 2), (True, 3)])
def test_each_pass_through_a_noisy_network_has_noise_of_its_own(double: bool, passes: int) -> None:
    agent = DQN(dataclasses.replace(SMALL, noisy=True, double=double), discrete())
    assert agent.noise_shapes(8) == {"weights": (passes, 1, agent.noise_width)}
    (batch,), (noise,) = random_batches(agent.spec, 1, 1), random_noise(agent, 1, 1)
    results = []
    for changed in (None, *range(passes)):
        state = agent.init((0,), CPU)
        draws = noise["weights"].clone()
        if changed is not None:
            draws[:, changed] = 0.0
        agent.update(state, [batch], {"weights": draws})
        results.append(state.network.flat)
    for one, other in itertools.combinations(results, 2):
        assert not torch.equal(one, other)


# Observations and bad input


def test_images_go_through_convolutions_unasked() -> None:
    agent = DQN(DQNConfig(hidden=(8,)), IMAGES)
    state = agent.init((0, 1), CPU)
    assert isinstance(state.network.encoder.images[0], PlainConvolutions)
    (batch,) = dqn_batches(IMAGES, 1, 2)
    before = state.network.flat.clone()
    agent.update(state, [batch], {})
    assert torch.isfinite(state.network.flat).all()
    assert not torch.equal(state.network.flat, before)
    assert act(agent, state, batch.observation).shape == (2, 8)
    flat = DQN(DQNConfig(hidden=(8,), convolutions=()), IMAGES).init((0,), CPU)
    assert len(flat.network.encoder.images) == 0


@pytest.mark.parametrize("spec", [continuous(), multi_discrete()], ids=["continuous", "multi-discrete"])
def test_other_actions_than_choices_are_refused(spec: Spec) -> None:
    with pytest.raises(SpaceMismatchError, match=r"(?s)DQN chooses among discrete actions.*hint"):
        DQN(DQNConfig(), spec)


def test_convolutions_without_an_image_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"agent\.convolutions are given, but there is no image"):
        DQN(DQNConfig(convolutions=((8, 3, 1),)), discrete())
