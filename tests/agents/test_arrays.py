"""Agents in NumPy, as on this machine, against the same in PyTorch, as elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.agents.bc import BC, BCConfig
from offrl.agents.dqn import DQN, DQNConfig
from offrl.agents.ppo import PPO, PPOConfig
from offrl.agents.sac import SAC, SACConfig
from offrl.agents.td3 import TD3, TD3Config
from offrl.nn import numpy_mlp as host
from offrl.ops import numpy_or_torch as arrays
from offrl.runs.checkpoint import state_tensors
from offrl.types import Agent, Spec
from tests.agents.batches import (
    CPU,
    continuous,
    discrete,
    multi_discrete,
    random_batches,
    random_noise,
    random_rollouts,
    run_updates,
    unbounded,
)

SMALL, LARGE = {"hidden": (8, 8)}, {"hidden": (128, 128)}
UPDATES = 4
CASES: dict[str, Agent[Any]] = {
    "dqn": DQN(DQNConfig(**SMALL), discrete()),
    "dqn, large": DQN(DQNConfig(**LARGE), discrete(start=1)),
    "dqn, all options": DQN(DQNConfig(**SMALL, double=True, dueling=True, noisy=True, conservative=0.5), discrete()),
    "dqn, dropout": DQN(DQNConfig(**SMALL, dropout=0.3, double=True), discrete()),
    "ppo": PPO(PPOConfig(**SMALL), continuous()),
    "ppo, unbounded": PPO(PPOConfig(**SMALL, value_clip=0.1), unbounded()),
    "ppo, squashed": PPO(PPOConfig(**SMALL, policy="squashed_gaussian", entropy_bonus=0.1, dropout=0.1), continuous()),
    "ppo, penalty": PPO(PPOConfig(**SMALL, objective="penalty", entropy_bonus=0.1), continuous()),
    "ppo, stops": PPO(PPOConfig(**SMALL, max_kl=0.001), continuous()),
    "ppo, choices": PPO(PPOConfig(**SMALL, objective="penalty", entropy_bonus=0.1), multi_discrete()),
    "ppo, large": PPO(PPOConfig(**LARGE, normalize_observation=True), continuous()),
    "bc": BC(BCConfig(**SMALL), continuous()),
    "bc, large": BC(BCConfig(**LARGE, l2=0.1), continuous()),
    "bc, unbounded": BC(BCConfig(**SMALL, policy="gaussian"), unbounded()),
    "bc, squashed": BC(BCConfig(**SMALL, policy="squashed_gaussian", entropy_bonus=0.1), continuous()),
    "bc, choices": BC(BCConfig(**SMALL), discrete(start=2)),
    "td3": TD3(TD3Config(**SMALL, bc_alpha=2.5), continuous()),
    "td3, large": TD3(TD3Config(**LARGE), continuous()),
    "sac": SAC(SACConfig(**SMALL), continuous()),
    "sac, choices": SAC(SACConfig(**SMALL), discrete()),
    "sac, sde": SAC(SACConfig(**SMALL, sde=True), continuous()),
}


def of_numbers(agent: Agent[Any]) -> Agent[Any]:
    """The same agent where observations are single numbers from 0 to 4."""
    spec = Spec(gym.spaces.Discrete(5), agent.spec.action_space)
    return type(agent)(agent.config, spec)  # type: ignore[attr-defined, call-arg]


def elsewhere(patch: pytest.MonkeyPatch) -> None:
    """Let no tensor be at hand, as on another device."""
    for module in (arrays, host):
        patch.setattr(module, "is_plain", lambda tensor: False)


def numbers(observation: Any) -> torch.Tensor:
    """Vectors of standard normal draws as whole numbers from 0 to 4."""
    numbers: torch.Tensor = (observation[..., 0] + 2.5).clamp(0.0, 4.0).long()
    return numbers


def trained(agent: Agent[Any]) -> tuple[Any, list[Any]]:
    """The state after a few updates, and their metrics."""
    state = agent.init((3, 4), CPU)
    rows = agent.batches_per_update * UPDATES
    spec, size = Spec(continuous().observation_space, agent.spec.action_space), 8
    if isinstance(agent, PPO):
        batches, size = random_rollouts(spec, rows, 2), 18
    else:
        batches = random_batches(spec, rows, 2)
    if isinstance(agent.spec.observation_space, gym.spaces.Discrete):
        batches = [
            replace(batch, observation=numbers(batch.observation), next_observation=numbers(batch.next_observation))
            for batch in batches
        ]
    return state, run_updates(agent, state, batches, random_noise(agent, UPDATES, 2, size))


@pytest.mark.parametrize("agent", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("vectors", [True, False])
def test_updates_agree(agent: Agent[Any], vectors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent if vectors else of_numbers(agent)
    state, metrics = trained(agent)
    elsewhere(monkeypatch)
    expected, expected_metrics = trained(agent)
    torch.testing.assert_close(state_tensors(state), state_tensors(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics, expected_metrics, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("agent", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("explores", [False, True])
def test_actions_agree(agent: Any, explores: bool) -> None:
    observation = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    draws = torch.randn(2, 5, *agent.exploration_shape, generator=torch.Generator().manual_seed(2))
    expected = agent.act(agent.init((3, 4), CPU), observation, draws if explores else None)
    given = agent.act(agent.init((3, 4), CPU), observation.numpy(), draws.numpy() if explores else None)
    assert agent.acts_on_arrays
    assert isinstance(expected, torch.Tensor)
    np.testing.assert_allclose(np.asarray(given), expected.numpy(), rtol=1e-5, atol=1e-6)
