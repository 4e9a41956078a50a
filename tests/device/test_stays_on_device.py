"""Updates and acting make every tensor where the state is, and ask for no values: what a captured graph needs.

A state on the meta device shows it without a GPU: tensors there have a device and no values.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from offrl import plugins
from offrl.ops.trees import tree_leaves, tree_map
from offrl.testing.trial import Trial
from offrl.types import CriticOnly, Density, Spec
from tests.testing.test_check_agent import CASES

META = torch.device("meta")
ADAM_AT_A_RATE = torch.ops.aten._fused_adamw_.tensor_lr
ON_A_DEVICE = {name: case for name, case in CASES.items() if case[0] != "irl"}
"""All but what learns from a table of the dynamics, on the CPU."""


class StaysOnMeta(TorchDispatchMode):
    """Fails where an operation takes or makes a tensor elsewhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # It has no meta kernel, and gives nothing back.
        result = None if func is ADAM_AT_A_RATE else func(*args, **(kwargs or {}))
        for _, tensor in tree_leaves((args, kwargs, result)):
            assert tensor.device == META, f"{func} on the {tensor.device}"
        return result


def on_meta(tree: Any) -> Any:
    return tree_map(lambda tensor: tensor.to(META), tree)


@pytest.mark.parametrize(("name", "observed", "acted", "options"), ON_A_DEVICE.values(), ids=ON_A_DEVICE)
def test_updates_and_actions_stay_where_the_state_is(
    name: str, observed: gym.Space[Any], acted: gym.Space[Any], options: dict[str, Any]
) -> None:
    trial = Trial.of(plugins.algorithms[name], Spec(observed, acted), options, (0, 1), 2, None)
    agent: Any = trial.agent()
    state = agent.init(trial.seeds, META)
    data, seeds = trial.data(), len(trial.seeds)
    observation = on_meta(data.observation(seeds, 3))
    draws = torch.randn(seeds, 3, *agent.acting_noise_shape, device=META)
    allowed = torch.ones(seeds, 3, trial.spec.action_dim, dtype=torch.bool, device=META)
    mask = allowed if trial.learner.masks and not trial.spec.is_continuous else None
    inputs = [
        ([batch.to(META) for batch in batches], on_meta(noise))
        for batches, noise in zip(trial.inputs, trial.noise, strict=True)
    ]
    with StaysOnMeta():
        for batches, noise in inputs:
            agent.update(state, batches, noise)
            if trial.learner.can(CriticOnly):
                agent.update_critic(state, batches, noise)
        with torch.no_grad():
            carry = agent.initial_carry(state, 3)
            for noise in (None, draws):
                action, carry = agent.act(state, observation, carry, noise, mask)
        if trial.learner.can(Density) and agent.has_density:
            agent.log_prob(state, observation, action, agent.initial_carry(state, 3), mask)


def test_what_is_elsewhere_fails() -> None:
    with StaysOnMeta(), pytest.raises(AssertionError, match="cpu"):
        torch.ones(3, device=META) + torch.zeros(())
