"""What twenty updates from fixed seeds come to, in a few numbers for each network.

The numbers are those of derivatives written by hand. Autograd's sums have other last bits: since it differentiates the
losses, sixteen of the 21 runs still end in the same six decimals, and five are off by 1e-8 of a network's size at most
("td3", "td3 as sd3", "td3 as ddpg, regularized", "ppo with a penalty, stopping early", "gail with ppo").

After a change that means to change them, `python -m tests.golden.learning > tests/golden/learning.json` writes them
anew.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from offrl.agents.airl import AIRL, AIRLConfig
from offrl.agents.bc import BC, BCConfig
from offrl.agents.dqn import DQN, DQNConfig
from offrl.agents.gail import GAIL, GAILConfig
from offrl.agents.ppo import PPO, PPOConfig
from offrl.agents.sac import SAC, SACConfig
from offrl.agents.td3 import TD3, TD3Config
from offrl.ops.noise import NoiseSource
from offrl.types import Agent, Batch, Spec
from tests.agents.batches import CPU, continuous, discrete

SEEDS, BATCH, UPDATES = (0, 7), 16, 20
STORED = Path(__file__).with_name("learning.json")

SMALL_PPO = PPOConfig(hidden=(24, 24), epochs=2)
SMALL_SAC = SACConfig(hidden=(24, 24))

AGENTS: dict[str, Agent[Any, Any]] = {
    "td3": TD3(TD3Config(hidden=(24, 24)), continuous()),
    "td3 with layer norm": TD3(TD3Config(hidden=(24, 24), layer_norm=True, policy_delay=1), continuous()),
    "td3 with behavior cloning": TD3(TD3Config(hidden=(24, 24), bc_alpha=2.5, bc_decay=0.95), continuous()),
    "td3 as sd3": TD3(TD3Config(hidden=(24, 24), softmax_samples=4, softmax_beta=5.0), continuous()),
    "td3 as ddpg, regularized": TD3(
        TD3Config(
            hidden=(24, 24),
            critics=1,
            policy_delay=1,
            target_noise=0.0,
            activation="elu",
            dropout=0.2,
            weight_decay=0.1,
            max_gradient_norm=0.1,
        ),
        continuous(),
    ),
    "ppo": PPO(
        PPOConfig(hidden=(24, 24), epochs=2, normalize_observation=True, scale_reward=True, decay_steps=1_000),
        continuous(),
    ),
    "ppo with a penalty, stopping early": PPO(
        PPOConfig(
            policy="squashed_gaussian", hidden=(24, 24), objective="penalty", max_kl=0.02, value_clip=0.2, dropout=0.1
        ),
        continuous(),
    ),
    "ppo discrete": PPO(PPOConfig(hidden=(24, 24), epochs=2, minibatch_size=6, entropy_bonus=0.01), discrete()),
    "sac": SAC(SACConfig(hidden=(24, 24)), continuous()),
    "sac with a value network": SAC(SACConfig(hidden=(24, 24), value_network=True, layer_norm=True), continuous()),
    "sac with state-dependent exploration": SAC(SACConfig(hidden=(24, 24), sde=True), continuous()),
    "sac discrete": SAC(SACConfig(hidden=(24, 24), activation="tanh", dropout=0.1), discrete()),
    "dqn": DQN(DQNConfig(hidden=(24, 24), double=True), discrete()),
    "dqn with all options": DQN(
        DQNConfig(
            hidden=(24, 24),
            dueling=True,
            double=True,
            noisy=True,
            conservative=0.5,
            dropout=0.1,
            layer_norm=True,
            target_rate=1.0,
            target_every=6,
        ),
        discrete(),
    ),
    "gail with ppo": GAIL(
        GAILConfig(hidden=(24, 24), updates=2, generator_options=SMALL_PPO), discrete(), PPO(SMALL_PPO, discrete())
    ),
    "gail with sac": GAIL(
        GAILConfig("sac", SMALL_SAC, "positive", "transition", hidden=(24,), spectral_norm=True, gradient_penalty=0.0),
        continuous(),
        SAC(SMALL_SAC, continuous()),
    ),
    "airl": AIRL(AIRLConfig(hidden=(24,), generator_options=SMALL_PPO), continuous(), PPO(SMALL_PPO, continuous())),
    "bc deterministic": BC(BCConfig(hidden=(24, 24), ema=0.9, l1=1e-3), continuous()),
    "bc squashed": BC(BCConfig(policy="squashed_gaussian", hidden=(24, 24), entropy_bonus=0.1), continuous()),
    "bc gaussian": BC(BCConfig(policy="gaussian", hidden=(24, 24), dropout=0.2, layer_norm=True), continuous()),
    "bc categorical": BC(BCConfig(hidden=(24, 24), activation="tanh", l2=1e-2), discrete()),
}


def waves(phase: float, *shape: int) -> Tensor:
    """Numbers in [-1, 1] that need no random generator."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) * 0.7390851 + phase).sin().float().reshape(shape)


def make_batches(spec: Spec, count: int) -> list[Batch]:
    shape = (count, len(SEEDS), BATCH)
    terminated = (waves(0.1, *shape) > 0.8).float()
    action = waves(0.2, *shape, spec.action_dim)
    return Batch(
        observation=2.0 * waves(0.3, *shape, 3),
        action=0.9 * action if spec.is_continuous else action.argmax(dim=-1),
        reward=waves(0.4, *shape),
        discount=0.99 * (1.0 - terminated),
        next_observation=2.0 * waves(0.5, *shape, 3),
        terminated=terminated,
    ).unbind()


def as_rollout(batch: Batch) -> Batch:
    """The same transitions as two environments' consecutive steps."""
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    split = {name: part.unflatten(1, (2, BATCH // 2)) for name, part in parts.items() if part is not None}
    truncated = (split["reward"] > 0.9).float() * (1.0 - split["terminated"])
    return Batch(**split, truncated=truncated)


def summarize(agent: Agent[Any, Any]) -> dict[str, list[list[float]]]:
    """For each network and seed: the sum and the absolute sum of its parameters after training."""
    state = agent.init(SEEDS, CPU)
    imitates = isinstance(agent, GAIL | AIRL)
    size = agent.batches_per_update + (agent.demonstration_batches if imitates else 0)
    batches = make_batches(agent.spec, UPDATES * size)
    if isinstance(agent.generator if imitates else agent, PPO):
        own = range(0, len(batches), size)
        batches = [as_rollout(batch) if i in own else batch for i, batch in enumerate(batches)]
    draws = NoiseSource(SEEDS, CPU, 1).draw_updates(agent.noise_shapes(BATCH), UPDATES)
    for i, noise in enumerate(draws):
        agent.update(state, batches[i * size : (i + 1) * size], noise)
    nested = vars(state.generator) if imitates else {}
    parts = vars(state) | {f"generator.{name}": part for name, part in nested.items()}
    networks = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    return {name: [_sums(network, position) for position in range(len(SEEDS))] for name, network in networks.items()}


def _sums(network: nn.Module, position: int) -> list[float]:
    values = torch.cat([parameter.detach()[position].flatten() for parameter in network.parameters()]).double()
    return [round(values.sum().item(), 6), round(values.abs().sum().item(), 6)]


if __name__ == "__main__":
    print(json.dumps({name: summarize(agent) for name, agent in AGENTS.items()}, indent=1))
