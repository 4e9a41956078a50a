"""Updates as the loop makes them: on the CPU, what the agent itself would do, call after call."""

from __future__ import annotations

import torch

from offrl.agents.td3 import TD3, TD3Config
from offrl.nn.state import state_tensors
from offrl.training.fast_update import fast_update
from tests.agents.batches import CPU, continuous, random_batches, random_noise

UPDATES = 5


def test_on_the_cpu_an_update_is_the_agents_own() -> None:
    agent = TD3(TD3Config(hidden=(8,)), continuous())
    size = agent.batches_per_update
    batches, noise = random_batches(agent.spec, UPDATES * size, 1), random_noise(agent, UPDATES, 1)
    one, other = agent.init((0,), CPU), agent.init((0,), CPU)
    update = fast_update(agent, one, CPU)
    for i, draws in enumerate(noise):
        cycle = batches[i * size : (i + 1) * size]
        ours, theirs = update(cycle, draws), agent.update(other, cycle, draws)
        assert ours.keys() == theirs.keys()
        for name, values in theirs.items():
            torch.testing.assert_close(ours[name], values, rtol=1e-5, atol=1e-6)
        for name, tensor in state_tensors(other).items():
            torch.testing.assert_close(state_tensors(one)[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
