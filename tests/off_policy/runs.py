"""Trained runs and logs that value them."""

from __future__ import annotations

from pathlib import Path

from offrl.collection.collect import collect, collect_random
from offrl.config.recipe import recipe_from_dict
from offrl.off_policy.agent_policies import AgentPolicies
from offrl.plugins import algorithms
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.run_training import train
from offrl.types import Density
from tests.training.runs import bc_recipe, make_demonstrations, sac_recipe


def make_logs(root: Path) -> Path:
    """Random actions in CartPole; a stochastic PPO's of two seeds; and Pendulum's."""
    collect_random("CartPole-v1", episodes=30, destination=root / "random")
    ppo = {
        "algo": "ppo",
        "env": "CartPole-v1",
        "steps": 128,
        "seeds": [0, 1],
        "agent": {"rollout_steps": 64, "hidden": [8], "initial_log_std": 0.0},
        "online": {"environments": 1},
        "evaluation": {"every": 0, "final_episodes": 1},
    }
    run = train(recipe_from_dict(ppo), root / "ppo")
    collect(run, episodes=4, destination=root / "own", stochastic=True)
    make_demonstrations(root / "pendulum", episodes=6, length=20)
    train(bc_recipe(root / "pendulum", steps=20, env="none"), root / "bc")
    train(sac_recipe(steps=80, seeds=[0]), root / "sac")
    collect(Run.open(root / "sac"), episodes=2, destination=root / "by-sac", stochastic=True)
    return root


def policies(logs: Path, name: str, **options: float) -> AgentPolicies:
    """The policies of a run's last checkpoint."""
    run = Run.open(logs / name)
    policy, _ = load_policy(run, "last")
    has_density = algorithms[run.recipe.algo].can(Density)
    names = [f"seed {i}" for i in range(policy.seeds)]
    return AgentPolicies(policy, names, has_density=has_density, **options)  # type: ignore[arg-type]
