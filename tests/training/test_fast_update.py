"""Updates as the loop makes them: on the CPU, what the agent itself would do, call after call."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import gymnasium as gym
import pytest
import torch

from offrl.agents.dqn import DQN, DQNConfig
from offrl.agents.ppo import PPO, PPOConfig
from offrl.agents.td3 import TD3, TD3Config
from offrl.nn.state import state_tensors
from offrl.testing.random_data import RandomData
from offrl.tracing import Traced
from offrl.training.fast_update import fast_update
from offrl.types import Spec
from tests.agents.batches import CPU, continuous, random_batches, random_noise, random_rollouts

UPDATES = 5
AGENTS = {
    "td3": TD3(TD3Config(hidden=(8,)), continuous()),
    "ppo": PPO(PPOConfig(hidden=(8,), minibatch_size=6, epochs=2), continuous()),
}
ROWS = {"td3": 8, "ppo": 18}


@pytest.mark.parametrize("method", ["update", "update_critic"])
@pytest.mark.parametrize("kind", ["td3", "ppo"])
def test_on_the_cpu_an_update_is_the_agents_own(kind: str, method: str) -> None:
    agent: Any = AGENTS[kind]
    size = agent.batches_per_update
    make = random_rollouts if kind == "ppo" else random_batches
    batches, noise = make(agent.spec, UPDATES * size, 1), random_noise(agent, UPDATES, 1, ROWS[kind])
    one, other = agent.init((0,), CPU), agent.init((0,), CPU)
    function = getattr(agent, method)
    update = fast_update(agent, one, CPU, function)
    before = {path: tensor.clone() for path, tensor in state_tensors(one).items()}
    for i, draws in enumerate(noise):
        cycle = batches[i * size : (i + 1) * size]
        ours, theirs = update(cycle, draws), function(other, cycle, draws)
        assert ours.keys() == theirs.keys()
        for name, values in theirs.items():
            torch.testing.assert_close(ours[name], values, rtol=1e-5, atol=1e-6)
        for name, tensor in state_tensors(other).items():
            torch.testing.assert_close(state_tensors(one)[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    moved = {path for path, tensor in state_tensors(one).items() if not torch.equal(tensor, before[path])}
    assert any(path.startswith("critic.") for path in moved)
    assert any(path.startswith("actor.") for path in moved) == (method == "update")
    # Nothing runs as it is.
    assert isinstance(update, Traced)
    assert "runs as it is" not in update.explain()


def test_observations_that_are_numbers_are_replayed_too() -> None:
    numbers = gym.spaces.Discrete(5, start=2)
    agent = DQN(DQNConfig(hidden=(8,)), Spec(numbers, gym.spaces.Discrete(3)))
    data, state = RandomData(agent.spec, 0), agent.init((0, 1), CPU)
    update = fast_update(agent, state, CPU)
    for _ in range(2):
        update([data.transitions(2, 8, 0.9)], {})
    assert isinstance(update, Traced)
    assert "runs as it is" not in update.explain()


def test_recording_an_update_does_not_import_the_compiler() -> None:
    """Which takes a second, in each process that trains or acts."""
    code = """
import sys
from tests.training.test_fast_update import AGENTS, CPU, fast_update, random_batches, random_noise
agent = AGENTS["td3"]
update = fast_update(agent, agent.init((0,), CPU), CPU)
update(random_batches(agent.spec, 2, 1), random_noise(agent, 1, 1)[0])
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
