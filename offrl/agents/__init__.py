"""The algorithms, one file each, and the table that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from offrl.agents.airl import AIRL, AIRLConfig
from offrl.agents.bc import BC, BCConfig
from offrl.agents.dqn import DQN, DQNConfig
from offrl.agents.gail import GAIL, GAILConfig
from offrl.agents.irl import IRL, IRLConfig
from offrl.agents.ppo import PPO, PPOConfig
from offrl.agents.sac import SAC, SACConfig
from offrl.agents.sqil import SQIL, SQILConfig
from offrl.agents.td3 import TD3, TD3Config
from offrl.types import Agent, Spec

Online = Literal["none", "replay", "rollouts"]


class Entry(NamedTuple):
    """An algorithm's options, its class, and what it learns from.

    Attributes:
        agent: built from options and spaces; one that wraps another, from options, spaces and that agent.
        offline: whether it learns from a dataset.
        online: how it learns from its own steps: from a replay of them, from `rollout_steps` (an option of it)
            consecutive ones that are then thrown away, or not at all. One that wraps another learns as that one does.
        wraps: whether it hands another agent, its option `generator`, what to learn from: its own steps beside
            demonstrations.
        taught: whether an expert's run tells it what to do in the states that it comes to.
        tabular: whether it learns from all demonstrations at once, and from the table of the environment's dynamics.
    """

    config: type[Any]
    agent: Callable[..., Agent[Any]]
    offline: bool
    online: Online
    wraps: bool = False
    taught: bool = False
    tabular: bool = False

    def build(self, config: Any, spec: Spec) -> Agent[Any]:
        """The agent of these options for these spaces."""
        if not self.wraps:
            return self.agent(config, spec)
        return self.agent(config, spec, AGENTS[config.generator].build(config.generator_options, spec))

    def online_by(self, config: Any) -> Online:
        """How it learns from its own steps with these options."""
        return AGENTS[config.generator].online if self.wraps else self.online


AGENTS: dict[str, Entry] = {
    "airl": Entry(AIRLConfig, AIRL, offline=False, online="none", wraps=True),
    "bc": Entry(BCConfig, BC, offline=True, online="none"),
    "dagger": Entry(BCConfig, BC, offline=False, online="replay", taught=True),
    "dqn": Entry(DQNConfig, DQN, offline=True, online="replay"),
    "gail": Entry(GAILConfig, GAIL, offline=False, online="none", wraps=True),
    "irl": Entry(IRLConfig, IRL, offline=True, online="none", tabular=True),
    "ppo": Entry(PPOConfig, PPO, offline=False, online="rollouts"),
    "sac": Entry(SACConfig, SAC, offline=True, online="replay"),
    "sqil": Entry(SQILConfig, SQIL, offline=False, online="none", wraps=True),
    "td3": Entry(TD3Config, TD3, offline=True, online="replay"),
}
"""Name on the command line and in recipes, to algorithm."""
