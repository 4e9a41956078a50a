"""AIRL's discriminator against a plain single-seed implementation and hand-computed values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offrl.agents.airl import AIRL, AIRLConfig, AIRLState
from offrl.agents.ppo import PPO, PPOConfig
from offrl.nn.state import state_tensors
from offrl.types import Batch, Noise, Spec
from tests.agents.batches import (
    CPU,
    continuous,
    discrete,
    no_values_read,
    noise_of_seed,
    of_seed,
    random_batches,
    random_noise,
    random_rollouts,
)
from tests.nn.plain import assert_member_equals, copy_of_member

UPDATES, EXPERTS = 10, 6
OPTIONS = PPOConfig(hidden=(8,), epochs=2, discount=0.9)
SMALL = AIRLConfig(hidden=(8,), shaping_hidden=(12, 6), learning_rate=1e-2, updates=2, generator_options=OPTIONS)


def small(**options: Any) -> AIRLConfig:
    return dataclasses.replace(SMALL, **options)


VARIANTS = {
    "states": (SMALL, continuous()),
    "states and actions": (small(inputs="state_action", normalize_input=False, activation="tanh"), continuous()),
    "discrete actions, decay": (small(inputs="state_action", weight_decay=0.1), discrete(start=2)),
}
variants = pytest.mark.parametrize(("config", "spec"), VARIANTS.values(), ids=VARIANTS)


class PlainAIRL:
    """One seed's reward and shaping in plain PyTorch."""

    def __init__(self, config: AIRLConfig, spec: Spec, state: AIRLState, seed: int) -> None:
        self.config, self.spec = config, spec
        self.g = copy_of_member(state.shaped.reward, seed, config.activation)
        self.h = copy_of_member(state.shaped.potential, seed, config.activation)
        parameters = [*self.g.parameters(), *self.h.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.seen: list[Tensor] = []

    def observe(self, observation: Tensor) -> Tensor:
        if not self.config.normalize_input:
            return observation
        data = torch.cat(self.seen).double()
        return ((observation - data.mean(0)) / data.std(0, correction=0)).float()

    def reward(self, observation: Tensor, action: Tensor) -> Tensor:
        parts = [self.observe(observation)]
        if self.config.inputs == "state_action":
            discrete_actions = not self.spec.is_continuous
            parts.append(nn.functional.one_hot(action - 2, 4).float() if discrete_actions else action)
        return self.g(torch.cat(parts, dim=1))[:, 0]

    def logit(self, batch: tuple[Tensor, ...], log_prob: Tensor) -> Tensor:
        observation, action, following, terminated = batch
        here, there = (self.h(self.observe(part))[:, 0] for part in (observation, following))
        return self.reward(observation, action) + 0.9 * (1.0 - terminated) * there - here - log_prob

    def step(self, expert: Batch, own: Batch, expert_log_prob: Tensor, own_log_prob: Tensor) -> None:
        theirs = self.logit(as_rows(expert), expert_log_prob)
        mine = self.logit(as_rows(own), own_log_prob)
        bce = nn.functional.binary_cross_entropy_with_logits
        loss = bce(theirs, torch.ones_like(theirs)) + bce(mine, torch.zeros_like(mine))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def as_rows(batch: Batch) -> tuple[Tensor, ...]:
    return tuple(p[0] for p in (batch.observation, batch.action, batch.next_observation, batch.terminated))


def rows_of(batch: Batch) -> Batch:
    """A rollout's transitions without the time axis."""
    parts = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name != "truncated"}
    return Batch(**{name: part.flatten(1, 2) for name, part in parts.items() if part is not None})


def taken(batch: Batch, rows: Tensor) -> Batch:
    parts = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return Batch(**{name: part[:, rows] for name, part in parts.items() if part is not None})


def cycles(agent: AIRL, spec: Spec, seeds: int) -> list[tuple[list[Batch], Noise]]:
    shown = agent.demonstration_batches
    own = random_rollouts(spec, UPDATES, seeds)
    experts = random_batches(spec, UPDATES * (shown + 3), seeds, EXPERTS)[3 * UPDATES :]
    noise = random_noise(agent, UPDATES, seeds, 18)
    return [([own[i], *experts[i * shown : (i + 1) * shown]], draws) for i, draws in enumerate(noise)]


@variants
def test_updates_equal_a_plain_implementation(config: AIRLConfig, spec: Spec) -> None:
    seeds = (3, 8)
    generator = PPO(OPTIONS, spec)
    agent = AIRL(config, spec, generator)
    state, alone = agent.init(seeds, CPU), generator.init(seeds, CPU)
    plains = [PlainAIRL(config, spec, state, position) for position in range(len(seeds))]
    for batches, noise in cycles(agent, spec, len(seeds)):
        flat = rows_of(batches[0])
        rewards = torch.zeros_like(flat.reward)
        for position, plain in enumerate(plains):
            own, *experts = (of_seed(batch, position) for batch in (flat, *batches[1:]))
            plain.seen += [batch.observation[0] for batch in (own, *experts)]

            def log_prob(batch: Batch, position: int = position) -> Tensor:
                both = [part.expand(2, *part.shape[1:]) for part in (batch.observation, batch.action)]
                return generator.log_prob(alone, *both, ())[position]

            for i, expert in enumerate(experts):
                chosen = taken(own, noise["rows"][position, i].argsort()[:EXPERTS])
                plain.step(expert, chosen, log_prob(expert), log_prob(chosen))
            with torch.no_grad():
                rewards[position] = plain.logit(as_rows(own), log_prob(own))
        agent.update(state, batches, noise)
        rewarded = dataclasses.replace(batches[0], reward=rewards.view(batches[0].reward.shape))
        draws = {name.removeprefix("generator."): part for name, part in noise.items() if name.startswith("generator.")}
        generator.update(alone, [rewarded], draws)
    for position, plain in enumerate(plains):
        assert_member_equals(state.shaped.reward, position, plain.g, what="g")
        assert_member_equals(state.shaped.potential, position, plain.h, what="h")
    for name, tensor in state_tensors(alone).items():
        ours = state_tensors(state)[f"generator.{name}"]
        torch.testing.assert_close(ours, tensor, rtol=1e-3, atol=1e-4, msg=name)


@variants
def test_training_seeds_together_equals_training_each_alone(config: AIRLConfig, spec: Spec) -> None:
    seeds = (5, 11, 2)
    agent = AIRL(config, spec, PPO(OPTIONS, spec))
    together = agent.init(seeds, CPU)
    given = cycles(agent, spec, len(seeds))
    for batches, noise in given:
        agent.update(together, batches, noise)
    trained = state_tensors(together)
    for position, seed in enumerate(seeds):
        alone = agent.init((seed,), CPU)
        for batches, noise in given:
            agent.update(alone, [of_seed(b, position) for b in batches], noise_of_seed(noise, position))
        for name, tensor in state_tensors(alone).items():
            ours = trained[name][position : position + 1] if tensor.dim() else trained[name]
            torch.testing.assert_close(ours, tensor, rtol=1e-3, atol=2e-5, msg=name)


def test_the_logit_by_hand() -> None:
    """Constant networks g = 3 and h = 2: f = 3 + 0.9 · 2 − 2, or 3 − 2 at the end; π = 1/4 for each of four actions."""
    spec = discrete()
    agent = AIRL(SMALL, spec, PPO(OPTIONS, spec))
    state = agent.init((0,), CPU)
    with torch.no_grad():
        for network, value in ((state.shaped.reward, 3.0), (state.shaped.potential, 2.0)):
            network.layers[-1].weight.zero_()
            network.layers[-1].bias.fill_(value)
        state.generator.actor.flat.zero_()
    own, expert = random_rollouts(spec, 1, 1)[0], random_batches(spec, 1, 1)[0]
    own = dataclasses.replace(own, terminated=torch.zeros(1, 2, 9), truncated=torch.zeros(1, 2, 9))
    own.terminated[0, 0, 3] = 1.0
    given: list[Batch] = []
    agent.generator.update = lambda state, batches, noise: given.extend(batches) or {}  # type: ignore[method-assign]
    state.optimizer.learning_rate = 0.0
    metrics = agent.update(state, [own, expert, expert], random_noise(agent, 1, 1, 18)[0])
    expected = torch.full((1, 2, 9), 3.0 + 0.9 * 2.0 - 2.0 + math.log(4.0))
    expected[0, 0, 3] = 3.0 - 2.0 + math.log(4.0)
    torch.testing.assert_close(given[0].reward, expected)
    torch.testing.assert_close(agent.reward(state, rows_of(own)), torch.full((1, 18), 3.0))
    assert metrics["learned_reward"].item() == pytest.approx(3.0)


def test_critics_alone_leave_the_policy_as_it_is() -> None:
    agent = AIRL(SMALL, continuous(), PPO(OPTIONS, continuous()))
    state = agent.init((0,), CPU)
    before = {name: tensor.clone() for name, tensor in state_tensors(state).items()}
    ((batches, noise), *_) = cycles(agent, continuous(), 1)
    agent.update_critic(state, batches, noise)
    changed = {name for name, tensor in state_tensors(state).items() if not torch.equal(tensor, before[name])}
    assert not [name for name in changed if name.startswith("generator.actor.")]
    assert {"shaped.reward.layers.0.weight", "generator.critic.layers.0.weight"} <= changed


@variants
def test_no_value_is_read_where_calls_are_repeated(config: AIRLConfig, spec: Spec) -> None:
    agent = AIRL(config, spec, PPO(OPTIONS, spec))
    state = agent.init((0, 1), CPU)
    before = state_tensors(state)
    (rollout, *experts), noise = cycles(agent, spec, 2)[0]
    with no_values_read():
        agent.learn_reward(state, [rows_of(rollout)], experts, {"rows": noise["rows"]})
    assert all(tensor.data_ptr() == before[name].data_ptr() for name, tensor in state_tensors(state).items())


def test_the_reward_s_form_favors_either_length() -> None:
    assert AIRL(SMALL, continuous(), PPO(OPTIONS, continuous())).length_bias == "logit"


def test_an_executed_action_is_judged_and_a_sampled_one_was_likely() -> None:
    """g(s, a) = a₁, h = 0: the action 3 earns 1 − log π(3), with π the standard normal around 0 of both components."""
    spec, config = continuous(), small(inputs="state_action", normalize_input=False, hidden=())
    agent = AIRL(config, spec, PPO(OPTIONS, spec))
    state = agent.init((0,), CPU)
    with torch.no_grad():
        for network in (state.shaped.reward, state.shaped.potential, state.generator.actor.network):
            network.flat.zero_()
        state.shaped.reward.layers[-1].weight[..., 0, 3] = 1.0
    own = rows_of(random_rollouts(spec, 1, 1)[0])
    own = dataclasses.replace(own, action=torch.tensor([3.0, 0.0]).expand_as(own.action))
    _, (rewards,) = agent.learn_reward(state, [own], [], {})
    expected = 1.0 + 0.5 * 3.0**2 + math.log(2.0 * math.pi)
    torch.testing.assert_close(rewards, torch.full((1, 18), expected))
    torch.testing.assert_close(agent.reward(state, own), torch.ones(1, 18))
