"""PPO against plain single-seed implementations, hand-computed values, and itself on the seed axis."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
    kl_divergence,
)
from torch.utils._python_dispatch import TorchDispatchMode

from offrl.agents.bc import BC, BCConfig
from offrl.agents.ppo import PPO, PPOConfig, PPOState
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.nn.policy_heads import GaussianActor
from offrl.nn.state import restore_state, state_tensors
from offrl.ops.minibatches import Rows, shuffled_minibatches
from offrl.types import Batch, Noise, Spec
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
    random_noise,
    random_rollouts,
    run_updates,
    unbounded,
)
from tests.nn.plain import assert_member_equals, copy_of_member, share_of_rate

UPDATES, ENVIRONMENTS, STEPS = 10, 2, 9
ROWS = ENVIRONMENTS * STEPS
SMALL = PPOConfig(
    hidden=(12, 8), actor_learning_rate=1e-2, critic_learning_rate=3e-2, epochs=3, minibatch_size=7, rollout_steps=STEPS
)


def small(**options: Any) -> PPOConfig:
    return dataclasses.replace(SMALL, **options)


CASES = {
    "clip": (small(), continuous()),
    "clip, every option": (
        small(
            clip=0.1,
            value_clip=0.05,
            entropy_bonus=0.02,
            normalize_observation=True,
            scale_reward=True,
            decay_steps=15 * ROWS,
            weight_decay=0.1,
            initial_log_std=-0.5,
        ),
        continuous(),
    ),
    "penalty": (small(objective="penalty", kl_target=0.02, kl_coefficient=0.5, max_gradient_norm=0.0), continuous()),
    "rates that rise and fall by a cosine": (
        small(warmup_steps=2 * ROWS + 1, decay_steps=4 * ROWS, decay_shape="cosine"),
        continuous(),
    ),
    "early stop": (small(max_kl=0.01, decay_steps=12 * ROWS, scale_reward=True, weight_decay=0.1), continuous()),
    "squashed": (small(policy="squashed_gaussian", entropy_bonus=0.1, normalize_advantage=False), continuous()),
    "layer norm": (small(layer_norm=True, activation="elu"), continuous()),
    "categorical": (small(entropy_bonus=0.05), discrete(start=3)),
    "categorical, penalty, early stop": (small(objective="penalty", max_kl=0.02), discrete()),
    "multi-discrete": (small(entropy_bonus=0.05, normalize_observation=True), multi_discrete()),
}
cases = pytest.mark.parametrize(("config", "spec"), CASES.values(), ids=CASES)


class PlainPPO:
    """The algorithm step by step, for one seed, in plain PyTorch.

    Running statistics are those of all the data so far, computed anew each time.
    """

    def __init__(self, config: PPOConfig, spec: Spec, state: PPOState, seed: int) -> None:
        self.config, self.spec = config, spec
        self.actor, self.critic = (
            copy_of_member(network, seed, config.activation) for network in (state.actor.network, state.critic)
        )
        own = list(self.actor.parameters())
        if spec.is_continuous:
            self.log_std = nn.Parameter(state.actor.log_std[seed, 0].detach().clone())
            own.append(self.log_std)
        self.actor_optimizer = torch.optim.AdamW(own, config.actor_learning_rate, weight_decay=config.weight_decay)
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), config.critic_learning_rate, weight_decay=config.weight_decay
        )
        self.beta, self.transitions, self.carry = config.kl_coefficient, 0, [0.0] * ENVIRONMENTS
        self.seen: list[Tensor] = []
        self.returns: list[float] = []
        self.happened = dict.fromkeys(("clipped", "values clipped", "stopped", "β up", "β down"), 0)

    def observe(self, observation: Tensor) -> Tensor:
        if not (self.config.normalize_observation and self.seen):
            return observation
        data = torch.cat(self.seen).double()
        mean, std = data.mean(dim=0), data.std(dim=0, correction=0)
        return ((observation - mean) / std).clamp(-10.0, 10.0).float()

    def policy(self, observation: Tensor, mask: Tensor | None) -> list[Distribution]:
        """Independent factors."""
        output = self.actor(observation)
        if self.spec.is_continuous:
            return [Independent(Normal(output, self.log_std.exp().expand_as(output)), 1)]
        space = self.spec.action_space
        sizes = [int(space.n)] if isinstance(space, gym.spaces.Discrete) else [int(n) for n in space.nvec]
        if mask is not None:
            output = torch.where(mask, output, -torch.inf)
        return [Categorical(logits=part) for part in output.split(sizes, dim=-1)]

    def log_prob(self, policy: list[Distribution], action: Tensor) -> Tensor:
        if self.config.policy == "squashed_gaussian":
            return policy[0].log_prob(action.atanh()) - (1.0 - action.square()).log().sum(dim=-1)
        if self.spec.is_continuous:
            return policy[0].log_prob(action)
        space = self.spec.action_space
        columns = [action - space.start] if isinstance(space, gym.spaces.Discrete) else action.unbind(dim=-1)
        return sum(part.log_prob(column) for part, column in zip(policy, columns, strict=True))

    def entropy(self, policy: list[Distribution], draws: Tensor | None) -> Tensor:
        entropy = sum(part.entropy() for part in policy)
        if self.config.policy == "squashed_gaussian":
            before = policy[0].base_dist.loc + policy[0].base_dist.scale * draws
            entropy = entropy + (1.0 - before.tanh().square()).log().sum(dim=-1)
        return entropy

    def scaled_reward(self, batch: Batch) -> Tensor:
        for env in range(ENVIRONMENTS):
            running = self.carry[env]
            for t in range(STEPS):
                running = self.config.discount * running + batch.reward[0, env, t].item()
                self.returns.append(running)
                if batch.terminated[0, env, t] or batch.truncated[0, env, t]:
                    running = 0.0
            self.carry[env] = running
        return batch.reward[0] / float(np.std(self.returns))

    def advantages(self, batch: Batch, reward: Tensor, value: Tensor, next_value: Tensor) -> Tensor:
        advantage = torch.zeros(ENVIRONMENTS, STEPS)
        for env in range(ENVIRONMENTS):
            following = 0.0
            for t in reversed(range(STEPS)):
                bootstrap = 0.0 if batch.terminated[0, env, t] else self.config.discount * next_value[env, t]
                if batch.terminated[0, env, t] or batch.truncated[0, env, t]:
                    following = 0.0
                error = reward[env, t] + bootstrap - value[env, t]
                following = error + self.config.discount * self.config.trace_decay * following
                advantage[env, t] = following
        return advantage

    def update(self, batch: Batch, noise: Noise) -> None:
        c = self.config
        raw = batch.observation[0].flatten(0, 1)
        observation, next_observation = self.observe(raw), self.observe(batch.next_observation[0].flatten(0, 1))
        action = batch.action[0].flatten(0, 1)
        mask = None if batch.action_mask is None else batch.action_mask[0].flatten(0, 1)
        with torch.no_grad():
            old = self.policy(observation, mask)
            old_log_prob = self.log_prob(old, action)
            old_value, next_value = self.critic(observation)[:, 0], self.critic(next_observation)[:, 0]
            reward = self.scaled_reward(batch) if c.scale_reward else batch.reward[0]
            shape = (ENVIRONMENTS, STEPS)
            advantage = self.advantages(batch, reward, old_value.view(shape), next_value.view(shape)).flatten()
            target = advantage + old_value
        self.set_rates()
        for part, draws in self.minibatches(noise):
            policy = self.policy(observation[part], None if mask is None else mask[part])
            log_ratio = self.log_prob(policy, action[part]) - old_log_prob[part]
            ratio = log_ratio.exp()
            if c.max_kl and (ratio - 1.0 - log_ratio).mean() > c.max_kl:
                self.happened["stopped"] += 1
                break
            gain = advantage[part]
            if c.normalize_advantage:
                gain = (gain - gain.mean()) / gain.std(correction=0)
            if c.objective == "clip":
                surrogate = torch.minimum(ratio * gain, ratio.clip(1 - c.clip, 1 + c.clip) * gain)
                self.happened["clipped"] += int((surrogate < ratio * gain).sum())
                policy_loss = -surrogate.mean()
            else:
                before = self.policy_at(old, part)
                divergence = sum(kl_divergence(p, q) for p, q in zip(before, policy, strict=True))
                policy_loss = (self.beta * divergence - ratio * gain).mean()
            policy_loss = policy_loss - c.entropy_bonus * self.entropy(policy, draws).mean()
            self.step(self.actor_optimizer, policy_loss)
            value = self.critic(observation[part])[:, 0]
            errors = (value - target[part]) ** 2
            if c.value_clip:
                near = old_value[part] + (value - old_value[part]).clip(-c.value_clip, c.value_clip)
                self.happened["values clipped"] += int(((near - target[part]) ** 2 > errors).sum())
                errors = torch.maximum(errors, (near - target[part]) ** 2)
            self.step(self.critic_optimizer, errors.mean())
        if c.objective == "penalty":
            self.adapt(old, self.policy(observation, mask))
        self.seen.append(raw)
        self.transitions += ROWS

    def set_rates(self) -> None:
        c = self.config
        share = share_of_rate(c, self.transitions, ROWS)
        self.actor_optimizer.param_groups[0]["lr"] = c.actor_learning_rate * share
        self.critic_optimizer.param_groups[0]["lr"] = c.critic_learning_rate * share

    def minibatches(self, noise: Noise) -> Any:
        """Rows and draws of 18 rows in three parts of six, for each of the epochs."""
        for epoch in range(self.config.epochs):
            for part in noise["order"][0, epoch].argsort().split(6):
                yield part, noise["entropy"][0, epoch, part] if "entropy" in noise else None

    def policy_at(self, policy: list[Distribution], part: Tensor) -> list[Distribution]:
        if self.spec.is_continuous:
            return [Independent(Normal(policy[0].base_dist.loc[part], policy[0].base_dist.scale[part]), 1)]
        return [Categorical(logits=choice.logits[part]) for choice in policy]

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        if self.config.max_gradient_norm:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.config.max_gradient_norm)
        optimizer.step()

    def adapt(self, old: list[Distribution], new: list[Distribution]) -> None:
        divergence = sum(kl_divergence(p, q) for p, q in zip(old, new, strict=True)).mean().item()
        if divergence < self.config.kl_target / 1.5:
            self.beta /= 2.0
            self.happened["β down"] += 1
        elif divergence > self.config.kl_target * 1.5:
            self.beta *= 2.0
            self.happened["β up"] += 1


@cases
def test_updates_equal_a_plain_implementation(config: PPOConfig, spec: Spec) -> None:
    seeds = (3, 8)
    agent = PPO(config, spec)
    state = agent.init(seeds, CPU)
    rollouts = random_rollouts(spec, UPDATES, len(seeds), with_masks=spec == discrete())
    noise = random_noise(agent, UPDATES, len(seeds), ROWS)
    plains = [PlainPPO(config, spec, state, position) for position in range(len(seeds))]
    run_updates(agent, state, rollouts, noise)
    for position, plain in enumerate(plains):
        for batch, draws in zip(rollouts, noise, strict=True):
            plain.update(of_seed(batch, position), noise_of_seed(draws, position))
        assert_member_equals(state.actor.network, position, plain.actor, what="actor")
        assert_member_equals(state.critic, position, plain.critic, what="critic")
        if spec.is_continuous:
            torch.testing.assert_close(state.actor.log_std[position, 0], plain.log_std, rtol=0.0, atol=1e-5)
        assert state.kl_coefficient[position].item() == pytest.approx(plain.beta)
    happened = {name: sum(plain.happened[name] for plain in plains) for name in plains[0].happened}
    assert bool(happened["clipped"]) == (config.objective == "clip")
    assert bool(happened["values clipped"]) == bool(config.value_clip)
    assert (0 < happened["stopped"] <= 2 * UPDATES) == bool(config.max_kl)
    assert bool(happened["β up"] + happened["β down"]) == (config.objective == "penalty")


@cases
def test_training_seeds_together_equals_training_each_alone(config: PPOConfig, spec: Spec) -> None:
    seeds = (5, 11, 2)
    agent = PPO(config, spec)
    rollouts = random_rollouts(spec, UPDATES, len(seeds))
    noise = random_noise(agent, UPDATES, len(seeds), ROWS)
    together = agent.init(seeds, CPU)
    initial = {name: tensor.clone() for name, tensor in state_tensors(together).items()}
    metrics = run_updates(agent, together, rollouts, noise)
    trained = state_tensors(together)
    for position, seed in enumerate(seeds):
        alone = agent.init((seed,), CPU)
        for name, tensor in state_tensors(alone).items():
            assert torch.equal(*same_seed(initial[name], tensor, position)), name
        alone_metrics = run_updates(
            agent, alone, [of_seed(b, position) for b in rollouts], [noise_of_seed(n, position) for n in noise]
        )
        for name, tensor in state_tensors(alone).items():
            ours, theirs = same_seed(trained[name], tensor, position)
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5, msg=name)
        for ours, theirs in zip(metrics, alone_metrics, strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours:
                assert ours[name].shape == (len(seeds),)
                torch.testing.assert_close(ours[name][position], theirs[name][0], rtol=1e-3, atol=1e-4, msg=name)


def same_seed(together: Tensor, alone: Tensor, position: int) -> tuple[Tensor, Tensor]:
    return (together[position], alone[0]) if together.dim() else (together, alone)


@cases
def test_a_restored_state_goes_on_bit_for_bit(config: PPOConfig, spec: Spec) -> None:
    agent = PPO(config, spec)
    rollouts, noise = random_rollouts(spec, 4, 2), random_noise(agent, 4, 2, ROWS)
    state, resumed = agent.init((0, 1), CPU), agent.init((7, 8), CPU)
    run_updates(agent, state, rollouts[:2], noise[:2])
    saved = {name: tensor.detach().clone() for name, tensor in state_tensors(state).items()}
    restore_state(resumed, saved, "")
    # As training does behind each checkpoint, whether it goes on from there now or later.
    agent.episodes_cut(state)
    for one in (state, resumed):
        run_updates(agent, one, rollouts[2:], noise[2:])
    for name, tensor in state_tensors(resumed).items():
        assert torch.equal(tensor, state_tensors(state)[name]), name


def rollout(
    observation: list[float],
    action: list[float],
    reward: list[float],
    *,
    next_observation: list[float] | None = None,
    terminated: list[float] | None = None,
    truncated: list[float] | None = None,
) -> Batch:
    """One seed, one environment; every step terminates unless something else is said."""
    ends = [float(terminated is None and truncated is None)] * len(reward)
    following = next_observation or [0.0] * len(reward)
    return Batch(
        observation=torch.tensor([[[[s] for s in observation]]]),
        action=torch.tensor([[[[a] for a in action]]]),
        reward=torch.tensor([[reward]]),
        discount=torch.zeros(1, 1, len(reward)),
        next_observation=torch.tensor([[[[s] for s in following]]]),
        terminated=torch.tensor([[terminated or ends]]),
        truncated=torch.tensor([[truncated or [0.0] * len(reward)]]),
    )


def linear_agent(weight: float = 0.0, value_weight: float = 0.0, **options: Any) -> tuple[PPO, PPOState]:
    """Mean = weight · s, V = value_weight · s, standard deviation 1; one step on the whole rollout."""
    plain = {"hidden": (), "epochs": 1, "minibatch_size": 100, "max_gradient_norm": 0.0, "discount": 0.5}
    agent = PPO(PPOConfig(**{**plain, "trace_decay": 0.8, **options}), continuous(1, 1))
    state = agent.init((0,), CPU)
    with torch.no_grad():
        state.actor.network.layers[0].weight.fill_(weight)
        state.critic.layers[0].weight.fill_(value_weight)
    return agent, state


def update(agent: PPO, state: PPOState, batch: Batch) -> dict[str, float]:
    (noise,) = random_noise(agent, 1, 1, batch.reward.numel())
    return {name: value.item() for name, value in agent.update(state, [batch], noise).items()}


def actor_gradient(state: PPOState) -> list[float]:
    """Of the first step: by log_std, weight and bias."""
    gradient: list[float] = (state.actor_optimizer.first_moment / 0.1).tolist()
    return gradient


TWO = rollout([1.0, 2.0], [0.5, -0.25], [1.0, -1.0])


def test_the_first_step_by_hand() -> None:
    agent, state = linear_agent(actor_learning_rate=0.01, critic_learning_rate=0.02)
    metrics = update(agent, state, TWO)
    # The advantages are 1 and −1; ∂ log π is a by the mean and a² − 1 by log_std; the loss is minus the mean.
    by_bias, by_weight = -0.5 * (0.5 + 0.25), -0.5 * (0.5 * 1.0 + 0.25 * 2.0)
    by_log_std = -0.5 * ((0.25 - 1.0) - (0.0625 - 1.0))
    assert actor_gradient(state) == pytest.approx([by_log_std, by_weight, by_bias])
    torch.testing.assert_close(state.actor.flat, torch.full((3,), 0.01), rtol=1e-4, atol=0.0)
    # V = 0 should be 1 and −1 at the states 1 and 2: ∂ of the mean square is Σ −(target) s = 1 by weight, 0 by bias.
    gradient = state.critic_optimizer.first_moment / 0.1
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0.0]))
    assert state.critic.layers[0].weight.item() == pytest.approx(-0.02, rel=1e-4)
    # What is reported is the loss after the step.
    assert metrics["value_loss"] == pytest.approx((1.02**2 + 0.96**2) / 2, rel=1e-5)
    assert metrics["policy_loss"] < 0.0


def test_advantages_are_standardized_on_request() -> None:
    scaled = rollout([1.0, 2.0], [0.5, -0.25], [13.0, 9.0])
    agent, state = linear_agent()
    update(agent, state, scaled)
    assert actor_gradient(state) == pytest.approx([-0.09375, -0.5, -0.375], rel=1e-5)
    agent, state = linear_agent(normalize_advantage=False)
    update(agent, state, scaled)
    assert actor_gradient(state)[2] == pytest.approx(-0.5 * (13.0 * 0.5 - 9.0 * 0.25), rel=1e-5)


def test_the_entropy_bonus_widens_the_policy() -> None:
    agent, state = linear_agent(entropy_bonus=0.25)
    update(agent, state, TWO)
    assert actor_gradient(state) == pytest.approx([-0.09375 - 0.25, -0.5, -0.375], rel=1e-5)


def test_values_bootstrap_through_truncations_and_not_through_terminations() -> None:
    # V = s. Cut off behind the first step, whose true next state is 6; terminated behind the third.
    batch = rollout(
        [1.0, 2.0, 3.0, 4.0],
        [0.0, 0.0, 0.0, 0.0],
        [10.0, 20.0, 30.0, 40.0],
        next_observation=[6.0, 3.0, 7.0, 8.0],
        terminated=[0.0, 0.0, 1.0, 0.0],
        truncated=[1.0, 0.0, 0.0, 0.0],
    )
    agent, state = linear_agent(value_weight=1.0, critic_learning_rate=1e-9, actor_learning_rate=1e-9)
    metrics = update(agent, state, batch)
    third = 30.0 - 3.0
    second = 20.0 + 0.5 * 3.0 - 2.0 + 0.5 * 0.8 * third
    advantages = [10.0 + 0.5 * 6.0 - 1.0, second, third, 40.0 + 0.5 * 8.0 - 4.0]
    assert metrics["value_loss"] == pytest.approx(sum(a * a for a in advantages) / 4, rel=1e-5)
    assert metrics["value"] == pytest.approx(2.5)


def test_rewards_are_divided_by_the_spread_of_the_discounted_return() -> None:
    agent, state = linear_agent(scale_reward=True, critic_learning_rate=1e-9)
    metrics = update(agent, state, rollout([0.0] * 3, [0.0] * 3, [1.0, 2.0, 3.0]))
    # Every step terminates, so the returns are 1, 2 and 3, of variance 2/3.
    assert metrics["value_loss"] == pytest.approx((14.0 / 3.0) / (2.0 / 3.0), rel=1e-4)
    # Now none ends: 4, 4 + 4/2, 4 + 6/2; with 1, 2, 3 before them the variance of six is that of all the data.
    batch = rollout([0.0] * 3, [0.0] * 3, [4.0, 4.0, 4.0], terminated=[0.0] * 3, truncated=[0.0] * 3)
    update(agent, state, batch)
    returns = [1.0, 2.0, 3.0, 4.0, 6.0, 7.0]
    assert state.return_moments.flatten().tolist() == pytest.approx([np.mean(returns), np.var(returns), 6.0])
    assert state.return_carry is not None
    assert state.return_carry.item() == 7.0
    # The episode goes on in the next rollout: 2 + 7/2, and ends.
    update(agent, state, rollout([0.0], [0.0], [2.0], terminated=[0.0], truncated=[1.0]))
    returns.append(5.5)
    assert state.return_moments.flatten().tolist() == pytest.approx([np.mean(returns), np.var(returns), 7.0])
    assert state.return_carry.item() == 0.0


def test_each_environment_s_return_goes_on_in_its_next_rollout() -> None:
    agent, state = linear_agent(scale_reward=True, critic_learning_rate=1e-9, discount=0.9)
    whole = random_rollouts(agent.spec, 1, 1, environments=3, steps=40)[0]
    parts = {f.name: getattr(whole, f.name) for f in dataclasses.fields(Batch) if getattr(whole, f.name) is not None}
    for start in range(0, 40, 4):
        update(agent, state, Batch(**{name: part[:, :, start : start + 4] for name, part in parts.items()}))
    returns = []
    for env in range(3):
        running = 0.0
        for t in range(40):
            running = whole.reward[0, env, t].item() + 0.9 * running
            returns.append(running)
            if whole.terminated[0, env, t] or whole.truncated[0, env, t]:
                running = 0.0
    mean, variance, _ = state.return_moments.flatten().tolist()
    assert (mean, variance) == pytest.approx((np.mean(returns), np.var(returns)), rel=1e-4)


def test_observations_are_normalized_by_what_was_seen_before_the_rollout() -> None:
    agent, state = linear_agent(
        1.0, 1.0, normalize_observation=True, critic_learning_rate=1e-9, actor_learning_rate=1e-9
    )
    seen = torch.tensor([[[5.0], [400.0]]])
    # Nothing was seen: only the limit of 10 acts.
    metrics = update(agent, state, rollout([5.0, 400.0], [0.0, 0.0], [0.0, 0.0]))
    assert metrics["value"] == pytest.approx(7.5)
    # Mean 202.5, standard deviation 197.5; greedy actions are clipped to the bounds.
    torch.testing.assert_close(act(agent, state, seen), torch.tensor([[[-1.0], [1.0]]]))
    torch.testing.assert_close(act(agent, state, torch.tensor([[[202.5 + 50.0]]])), torch.tensor([[[50.0 / 197.5]]]))
    drawn = act(agent, state, torch.tensor([[[1e6]]]), torch.zeros(1, 1, 1))
    torch.testing.assert_close(drawn, torch.tensor([[[10.0]]]))
    metrics = update(agent, state, rollout([400.0], [0.0], [0.0]))
    assert metrics["value"] == pytest.approx(1.0, rel=1e-5)
    assert state.observation_moments[0, 0].item() == pytest.approx(805.0 / 3.0)


def test_learning_rates_fall_linearly_to_nothing() -> None:
    agent, state = linear_agent(actor_learning_rate=0.01, decay_steps=8)
    sizes = []
    for _ in range(6):
        before = state.actor.log_std.item()
        state.actor_optimizer.first_moment.zero_()
        state.actor_optimizer.second_moment.zero_()
        state.actor_optimizer.steps.zero_()
        update(agent, state, TWO)
        sizes.append(abs(state.actor.log_std.item() - before))
    # Two transitions an update: 1, 3/4, 1/2, 1/4 of the rate, then none.
    assert sizes == pytest.approx([0.01, 0.0075, 0.005, 0.0025, 0.0, 0.0], rel=1e-3)
    assert state.transitions.item() == 12


@pytest.mark.parametrize(("ratio", "factor"), [(1.6, 2.0), (1.4, 1.0), (1 / 1.4, 1.0), (1 / 1.6, 0.5)])
def test_the_penalty_follows_the_divergence(ratio: float, factor: float) -> None:
    def coefficient(target: float) -> tuple[float, float]:
        agent, state = linear_agent(objective="penalty", kl_target=target, kl_coefficient=3.0, epochs=4)
        return update(agent, state, TWO)["kl"], state.kl_coefficient.item()

    divergence, _ = coefficient(0.01)
    assert divergence > 0.0
    assert coefficient(divergence / ratio) == (divergence, pytest.approx(3.0 * factor))


def test_the_divergence_by_hand() -> None:
    agent, state = linear_agent(actor_learning_rate=0.01)
    # All three parameters become 0.01: the means are 0.02 and 0.03, log_std is 0.01.
    expected = [0.01 + (1.0 + mean**2) / (2.0 * math.exp(0.02)) - 0.5 for mean in (0.02, 0.03)]
    assert update(agent, state, TWO)["kl"] == pytest.approx(sum(expected) / 2, rel=1e-3)


def test_the_penalty_holds_the_policy_back() -> None:
    divergences = []
    for beta in (1e-3, 10.0):
        agent, state = linear_agent(objective="penalty", kl_coefficient=beta, epochs=50, actor_learning_rate=0.05)
        divergences.append(update(agent, state, TWO)["kl"])
    assert divergences[1] < 0.1 * divergences[0]


def test_the_clip_holds_the_policy_back() -> None:
    divergences = []
    for clip in (10.0, 0.1):
        agent, state = linear_agent(clip=clip, epochs=50, actor_learning_rate=0.02)
        divergences.append(update(agent, state, TWO)["kl"])
    assert divergences[1] < 0.5 * divergences[0]


def test_a_seed_that_went_too_far_stops_and_the_others_go_on() -> None:
    options = {"actor_learning_rate": 0.1, "critic_learning_rate": 0.1, "epochs": 6}
    agent, state = linear_agent(**options, max_kl=1e-4)
    update(agent, state, TWO)
    # The first step starts at no divergence; behind it, it is too large.
    once, after_one = linear_agent(**{**options, "epochs": 1})
    update(once, after_one, TWO)
    torch.testing.assert_close(state.actor.flat, after_one.actor.flat)
    torch.testing.assert_close(state.critic.flat, after_one.critic.flat)
    assert state.actor_optimizer.steps.tolist() == [1.0]
    update(agent, state, TWO)
    assert state.actor_optimizer.steps.tolist() == [2.0], "the next update starts anew"
    # A second seed whose advantages are all zero has nothing to gain, and never stops.
    both = agent.init((0, 1), CPU)
    lazy = dataclasses.replace(TWO, reward=torch.zeros(1, 1, 2), observation=torch.zeros(1, 1, 2, 1))
    pair = {
        f.name: torch.cat([getattr(TWO, f.name), getattr(lazy, f.name)])
        for f in dataclasses.fields(Batch)
        if getattr(TWO, f.name) is not None
    }
    agent.update(both, [Batch(**pair)], random_noise(agent, 1, 2, 2)[0])
    assert both.critic_optimizer.steps.tolist() == [1.0, 6.0]


def test_warming_up_the_critic_leaves_the_policy_alone() -> None:
    agent = PPO(small(normalize_observation=True, scale_reward=True, objective="penalty"), continuous())
    (batch,), (noise,) = random_rollouts(agent.spec, 1, 2), random_noise(agent, 1, 2, ROWS)
    state, whole = agent.init((0, 1), CPU), agent.init((0, 1), CPU)
    before = {name: tensor.clone() for name, tensor in state_tensors(state).items()}
    metrics = agent.update_critic(state, [batch], noise)
    agent.update(whole, [batch], noise)
    for name, tensor in state_tensors(state).items():
        moved = not torch.equal(tensor, before[name])
        assert moved == name.startswith(("critic", "return")), name
        if moved:
            assert torch.equal(tensor, state_tensors(whole)[name]), name
    assert metrics["value_loss"].shape == (2,)
    assert metrics["kl"].eq(0.0).all()


def test_every_pass_goes_over_every_row_in_an_order_of_its_own() -> None:
    config = small(epochs=2, actor_learning_rate=1e-9, critic_learning_rate=1e-9, minibatch_size=1)
    agent = PPO(config, continuous())
    (batch,), (noise,) = random_rollouts(agent.spec, 1, 1, environments=1, steps=5), random_noise(agent, 1, 1, 5)
    state = agent.init((0,), CPU)
    order: list[float] = []
    step = agent.minibatch_step

    def listening(state: PPOState, rows: Rows, *progress: Any) -> Any:
        order.append(rows.observation[0, 0, 0].item())
        return step(state, rows, *progress)

    agent.minibatch_step = listening  # type: ignore[method-assign]
    agent.update(state, [batch], noise)
    first, second = order[:5], order[5:]
    assert sorted(first) == sorted(second) == sorted(batch.observation[0, 0, :, 0].tolist())
    assert first != second


def test_dropout_acts_in_gradient_steps_only() -> None:
    config = small(dropout=0.5)
    agent, plain = PPO(config, continuous()), PPO(small(), continuous())
    assert agent.noise_shapes(ROWS)["actor_dropout"] == (3, ROWS, 20)
    state, other = agent.init((0,), CPU), plain.init((0,), CPU)
    observation = torch.randn(1, 5, 3)
    assert torch.equal(act(agent, state, observation), act(plain, other, observation))
    (batch,), (noise,) = random_rollouts(agent.spec, 1, 1), random_noise(agent, 1, 1, ROWS)
    agent.update(state, [batch], noise)
    plain.update(other, [batch], {"order": noise["order"]})
    assert not torch.equal(state.actor.flat, other.actor.flat)
    assert not torch.equal(state.critic.flat, other.critic.flat)
    # Draws above the quantile drop their unit: without any, nothing reaches the layers below.
    dropping = {name: draws if name == "order" else torch.full_like(draws, 9.0) for name, draws in noise.items()}
    state = agent.init((0,), CPU)
    before = state.actor.network.clone()
    agent.update(state, [batch], dropping)
    for layer, old in zip(state.actor.network.layers[:2], before.layers[:2], strict=True):
        assert torch.equal(layer.weight, old.weight)
    assert not torch.equal(state.actor.network.layers[2].bias, before.layers[2].bias)


def test_networks_start_orthogonal_and_the_policy_almost_the_same_everywhere() -> None:
    agent = PPO(PPOConfig(initial_log_std=-0.7), continuous())
    state = agent.init((0, 1), CPU)
    for network, gains in ((state.actor.network, (2.0, 2.0, 1e-4)), (state.critic, (2.0, 2.0, 1.0))):
        for layer, square in zip(network.layers, gains, strict=True):
            weight = layer.weight[0, 0]
            product = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
            torch.testing.assert_close(product, square * torch.eye(len(product)), rtol=0.0, atol=1e-5)
    assert state.actor.log_std.eq(-0.7).all()
    assert act(agent, state, torch.randn(2, 9, 3)).abs().max() < 0.1
    assert not torch.equal(state.actor.network.flat[: len(state.critic.flat)], state.critic.flat)


def test_actions_are_greedy_without_draws_and_samples_with_them() -> None:
    agent = PPO(small(initial_log_std=0.5), continuous())
    state = agent.init((0, 1), CPU)
    state.actor.network.flat.mul_(30.0)
    observation, draws = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    for seed in range(2):
        mean = copy_of_member(state.actor.network, seed, "tanh")(observation[seed])
        torch.testing.assert_close(act(agent, state, observation)[seed], mean.clamp(-1.0, 1.0))
        sampled = act(agent, state, observation, draws)[seed]
        torch.testing.assert_close(sampled, mean + math.exp(0.5) * draws[seed])


@pytest.mark.parametrize(("spec", "shape"), [(discrete(start=5), (1, 400)), (multi_discrete(), (1, 400, 2))])
def test_discrete_actions_are_the_environments_numbers(spec: Spec, shape: tuple[int, ...]) -> None:
    agent = PPO(small(), spec)
    state = agent.init((0,), CPU)
    observation, draws = torch.randn(1, 400, 3), torch.randn(1, 400, spec.action_dim)
    for action in (act(agent, state, observation), act(agent, state, observation, draws)):
        assert action.shape == shape
        assert action.dtype == torch.int64
        assert all(spec.action_space.contains(one) for one in action[0].numpy())
    sampled = act(agent, state, observation, draws)
    assert len(sampled.flatten(0, 1).unique(dim=0)) == (4 if len(shape) == 2 else 6)


def test_nested_observations_are_flattened() -> None:
    box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    spec = Spec(gym.spaces.Dict({"a": box, "b": gym.spaces.Discrete(2)}), continuous().action_space)
    agent = PPO(small(normalize_observation=True), spec)
    state = agent.init((0,), CPU)
    (flat,) = random_rollouts(continuous(), 1, 1)
    nested = {"a": torch.randn(1, ENVIRONMENTS, STEPS, 2), "b": torch.ones(1, ENVIRONMENTS, STEPS, dtype=torch.int64)}
    batch = dataclasses.replace(flat, observation=nested, next_observation=nested)
    agent.update(state, [batch], random_noise(agent, 1, 1, ROWS)[0])
    assert state.observation_moments.shape == (1, 3, 4)
    assert act(agent, state, {"a": torch.randn(1, 4, 2), "b": torch.ones(1, 4)}).shape == (1, 4, 2)


@pytest.mark.parametrize(
    ("kind", "policy", "spec"),
    [
        ("deterministic", "squashed_gaussian", continuous()),
        ("squashed_gaussian", "squashed_gaussian", continuous()),
        ("gaussian", "gaussian", continuous()),
        ("gaussian", "gaussian", unbounded()),
        ("deterministic", "gaussian", unbounded()),
        ("categorical", "categorical", discrete(start=2)),
        ("categorical", "categorical", multi_discrete()),
    ],
)
def test_a_cloned_policy_is_where_training_starts(kind: Any, policy: Any, spec: Spec) -> None:
    cloner = BC(BCConfig(policy=kind, hidden=(12, 8)), spec)
    cloned = cloner.init((4, 5), CPU)
    cloned.policy.flat.mul_(2.0)
    agent = PPO(small(policy=policy, activation="relu", initial_log_std=-2.0), spec)
    state = agent.init((0, 1), CPU)
    agent.adopt_policy(state, cloned.policy, cloner.kind)
    observation = torch.randn(2, 50, 3)
    expected = act(cloner, dataclasses.replace(cloned, average=cloned.policy), observation)
    torch.testing.assert_close(act(agent, state, observation), expected)
    if spec.is_continuous:
        assert state.actor.log_std.eq(-2.0).all()


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("deterministic", {"policy": "gaussian"}, "agent.policy=squashed_gaussian"),
        ("squashed_gaussian", {"policy": "gaussian"}, "agent.policy=squashed_gaussian"),
        ("gaussian", {"policy": "squashed_gaussian"}, "agent.policy=gaussian"),
        ("gaussian", {"policy": "gaussian", "normalize_observation": True}, "agent.normalize_observation=false"),
        ("gaussian", {"policy": "gaussian", "activation": "tanh"}, "agent.activation"),
        ("gaussian", {"policy": "gaussian", "hidden": (12, 9)}, "agent.hidden"),
    ],
)
def test_a_cloned_policy_that_does_not_fit_is_refused(kind: Any, options: dict[str, Any], words: str) -> None:
    cloner = BC(BCConfig(policy=kind, hidden=(12, 8)), continuous())
    agent = PPO(small(**{"activation": "relu", **options}), continuous())
    state = agent.init((0,), CPU)
    before = state.actor.flat.clone()
    with pytest.raises(RecipeError, match=words):
        agent.adopt_policy(state, cloner.init((0,), CPU).policy, cloner.kind)
    assert torch.equal(state.actor.flat, before)


@pytest.mark.parametrize(
    ("policy", "spec", "words"),
    [
        ("gaussian", discrete(), "categorical"),
        ("categorical", continuous(), "gaussian, squashed_gaussian"),
        ("squashed_gaussian", unbounded(), "finite action bounds"),
        ("auto", Spec(continuous().observation_space, gym.spaces.MultiBinary(3)), "Box, Discrete or MultiDiscrete"),
    ],
)
def test_policies_that_do_not_fit_the_actions_are_refused(policy: Any, spec: Spec, words: str) -> None:
    with pytest.raises(SpaceMismatchError, match=words):
        PPO(PPOConfig(policy=policy), spec)


@pytest.mark.parametrize(
    ("policy", "spec"), [("squashed_gaussian", continuous()), ("gaussian", unbounded()), ("categorical", discrete())]
)
def test_log_prob_is_the_density_of_what_is_sampled(policy: Any, spec: Spec) -> None:
    agent = PPO(small(policy=policy, normalize_observation=True), spec)
    state = agent.init([0, 1], CPU)
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(2, 5, agent.flat_observation.width, generator=generator)
    action = act(agent, state, observation, 0.5 * torch.randn(2, 5, *agent.acting_noise_shape, generator=generator))
    assert agent.has_density
    found = agent.log_prob(state, observation, action, ())
    output = state.actor.network(agent._observe(state, observation))
    if policy == "categorical":
        wanted = Categorical(logits=output).log_prob(action - int(spec.action_space.start))  # type: ignore[attr-defined]
    else:
        assert isinstance(state.actor, GaussianActor)
        base = Normal(output, state.actor.log_std.exp().expand_as(output))
        squash = [TanhTransform()] if policy == "squashed_gaussian" else []
        wanted = Independent(TransformedDistribution(base, squash), 1).log_prob(action)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [continuous(), bounded_below()])
def test_clipped_actions_have_no_density(spec: Spec) -> None:
    assert not PPO(small(policy="gaussian"), spec).has_density


@cases
def test_no_value_is_read_where_calls_are_repeated(config: PPOConfig, spec: Spec) -> None:
    agent = PPO(config, spec)
    state = agent.init((0, 1), CPU)
    (batch,), (noise,) = random_rollouts(spec, 1, 2, with_masks=spec == discrete()), random_noise(agent, 1, 2, ROWS)
    rows = agent._rows(state, batch)
    rate, moving = torch.tensor(0.5), torch.ones(2, dtype=torch.bool) if config.max_kl else None
    before = state_tensors(state)
    for minibatch in shuffled_minibatches(rows, noise, 7, standardized=True):
        with no_values_read():
            agent.minibatch_step(state, minibatch, rate, moving, True)
            act(agent, state, torch.randn(2, 4, 3))
            act(agent, state, torch.randn(2, 4, 3), torch.randn(2, 4, *agent.acting_noise_shape))
    after = state_tensors(state)
    assert all(after[name].data_ptr() == before[name].data_ptr() for name in before)


class Counter(TorchDispatchMode):
    """Counts the operations that compute something."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = ("view", "detach", "expand", "transpose", "unsqueeze", "squeeze", "_unsafe_view")
        self.count += func.overloadpacket.__name__ not in views
        return func(*args, **(kwargs or {}))


def test_a_minibatch_step_is_few_operations() -> None:
    """Each of them costs microseconds, hundreds of times in an update."""
    agent = PPO(PPOConfig(), continuous())
    state = agent.init((0,), CPU)
    (batch,), (noise,) = random_rollouts(agent.spec, 1, 1), random_noise(agent, 1, 1, ROWS)
    minibatch = next(shuffled_minibatches(agent._rows(state, batch), noise, 9, standardized=True))
    with Counter() as counter:
        agent.minibatch_step(state, minibatch, 1.0, None, True)
    assert 50 < counter.count <= 100


def test_schedules_end_where_rates_have_fallen_to_nothing() -> None:
    agent, state = linear_agent(decay_steps=4)
    assert agent.ended_schedule(state) == 0
    update(agent, state, TWO)
    assert agent.ended_schedule(state) == 0
    update(agent, state, TWO)
    assert agent.ended_schedule(state) == 4
    agent, state = linear_agent()
    update(agent, state, TWO)
    assert agent.ended_schedule(state) == 0
