"""SQIL's rewards and mixture, and that the generator learns from nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from offrl.agents.dqn import DQN, DQNConfig
from offrl.agents.sac import SAC, SACConfig
from offrl.agents.sqil import SQIL, SQILConfig, half_and_half
from offrl.nn.state import state_tensors
from offrl.types import Agent, Spec
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
)

UPDATES = 10
CASES: dict[str, tuple[Any, Any, Spec]] = {
    "sac": (SAC, SACConfig(hidden=(8,)), continuous()),
    "sac discrete": (SAC, SACConfig(hidden=(8,)), discrete(start=2)),
    "dqn": (DQN, DQNConfig(hidden=(8,)), discrete()),
}
cases = pytest.mark.parametrize(("kind", "options", "spec"), CASES.values(), ids=CASES)


def agent_of(kind: Any, options: Any, spec: Spec) -> tuple[SQIL, Agent[Any, Any]]:
    generator: Agent[Any, Any] = kind(options, spec)
    name: Any = kind.__name__.lower()
    return SQIL(SQILConfig(generator=name, generator_options=options), spec, generator), generator


@cases
def test_no_value_is_read_in_an_update(kind: Any, options: Any, spec: Spec) -> None:
    agent, _ = agent_of(kind, options, spec)
    state = agent.init((0, 1), CPU)
    with no_values_read():
        agent.update(state, random_batches(spec, 2 * agent.batches_per_update, 2), random_noise(agent, 1, 2)[0])


def test_densities_are_the_generator_s_where_it_has_one() -> None:
    assert agent_of(SAC, SACConfig(hidden=(8,)), continuous())[0].has_density
    assert not agent_of(DQN, DQNConfig(hidden=(8,)), discrete())[0].has_density


@pytest.mark.parametrize("size", [8, 5])
def test_a_batch_is_half_own_and_half_demonstrated(size: int) -> None:
    own, expert = random_batches(continuous(), 2, 2, size)
    mixed = half_and_half(own, expert)
    half = size // 2
    assert mixed.reward.tolist() == [[0.0] * half + [1.0] * (size - half)] * 2
    for name in ("observation", "action", "discount", "next_observation", "terminated"):
        ours, one, other = (getattr(batch, name) for batch in (mixed, own, expert))
        assert torch.equal(ours[:, :half], one[:, :half])
        assert torch.equal(ours[:, half:], other[:, : size - half])


def test_nested_observations_are_mixed_too() -> None:
    own, expert = (
        dataclasses.replace(batch, observation={"a": batch.observation}, next_observation={"a": batch.next_observation})
        for batch in random_batches(continuous(), 2, 1)
    )
    mixed = half_and_half(own, expert)
    assert torch.equal(mixed.observation["a"][:, 4:], expert.observation["a"][:, :4])


@cases
def test_the_generator_learns_as_it_would_alone(kind: Any, options: Any, spec: Spec) -> None:
    agent, generator = agent_of(kind, options, spec)
    state, alone = agent.init((0, 1), CPU), generator.init((0, 1), CPU)
    size = agent.batches_per_update
    batches = random_batches(spec, 2 * UPDATES * size, 2)
    for i, noise in enumerate(random_noise(agent, UPDATES, 2)):
        given = batches[2 * i * size : 2 * (i + 1) * size]
        agent.update(state, given, noise)
        mixed = [half_and_half(*pair) for pair in zip(given[:size], given[size:], strict=True)]
        generator.update(alone, mixed, {name.removeprefix("generator."): part for name, part in noise.items()})
    for name, tensor in state_tensors(alone).items():
        assert torch.equal(state_tensors(state)[f"generator.{name}"], tensor), name
    observation = torch.randn(2, 5, 3)
    assert torch.equal(act(agent, state, observation), act(generator, alone, observation))


@cases
def test_training_seeds_together_equals_training_each_alone(kind: Any, options: Any, spec: Spec) -> None:
    seeds = (5, 11)
    agent, _ = agent_of(kind, options, spec)
    together = agent.init(seeds, CPU)
    size = 2 * agent.batches_per_update
    batches, draws = random_batches(spec, UPDATES * size, 2), random_noise(agent, UPDATES, 2)
    for i, noise in enumerate(draws):
        agent.update(together, batches[i * size : (i + 1) * size], noise)
    for position, seed in enumerate(seeds):
        alone = agent.init((seed,), CPU)
        for i, noise in enumerate(draws):
            own = [of_seed(batch, position) for batch in batches[i * size : (i + 1) * size]]
            agent.update(alone, own, noise_of_seed(noise, position))
        for name, tensor in state_tensors(alone).items():
            ours = state_tensors(together)[name]
            ours = ours[position : position + 1] if ours.dim() else ours
            torch.testing.assert_close(ours, tensor, rtol=1e-3, atol=2e-5, msg=name)
