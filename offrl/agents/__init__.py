"""The algorithms, one file each, and the table that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from offrl.agents.bc import BC, BCConfig
from offrl.agents.dqn import DQN, DQNConfig
from offrl.agents.ppo import PPO, PPOConfig
from offrl.agents.sac import SAC, SACConfig
from offrl.agents.td3 import TD3, TD3Config
from offrl.types import Agent, Spec


class Entry(NamedTuple):
    """An algorithm's options, how to build it from options and spaces, and what it learns from.

    Attributes:
        offline: whether it learns from a dataset.
        online: how it learns from its own steps: from a replay of them, from `rollout_steps` (an option of it)
            consecutive ones that are then thrown away, or not at all.
    """

    config: type[Any]
    build: Callable[[Any, Spec], Agent[Any]]
    offline: bool
    online: Literal["none", "replay", "rollouts"]


AGENTS: dict[str, Entry] = {
    "bc": Entry(BCConfig, BC, offline=True, online="none"),
    "dqn": Entry(DQNConfig, DQN, offline=True, online="replay"),
    "ppo": Entry(PPOConfig, PPO, offline=False, online="rollouts"),
    "sac": Entry(SACConfig, SAC, offline=True, online="replay"),
    "td3": Entry(TD3Config, TD3, offline=True, online="replay"),
}
"""Name on the command line and in recipes, to algorithm."""
