"""A state-only reward, learned in one room, leads the way in another whose door is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.config.recipe import recipe_from_dict
from offrl.runs.evaluate_run import evaluate_run
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.run_training import train
from offrl.types import Batch
from tests.envs.walls import DOOR_ABOVE, DOOR_BELOW, SIZE, Walls, best_return, write_demonstrations

LEARNED = "offrl-test/LearnedDoorBelow{seed}-v0"
PPO: dict[str, Any] = {
    "hidden": [32],
    "rollout_steps": 40,
    "minibatch_size": 80,
    "epochs": 5,
    "actor_learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
    "discount": 0.95,
}
STEADY_STEPS = 64_000
STEADY: dict[str, Any] = {**PPO, "entropy_bonus": 0.01, "decay_steps": STEADY_STEPS}
"""Without these, a third of the policies stop exploring too soon, or are cut off while they change."""
COMMON: dict[str, Any] = {
    "device": "cpu",
    "steps": 32_000,
    "online": {"environments": 8},
    "data": {"normalize_observation": False},
    "evaluation": {"every": 0, "final_episodes": 100},
}


def imitator(algo: str, demonstrations: Path, run: Path) -> Run:
    """Three seeds of an algorithm where the door is above."""
    steps: dict[str, Any] = {"bc": {"steps": 2_000}, "gail": {"steps": STEADY_STEPS}}.get(algo, {})
    agent = {
        "airl": {"hidden": [], "shaping_hidden": [], "learning_rate": 1e-2, "normalize_input": False},
        "gail": {
            "hidden": [64, 64],
            "learning_rate": 3e-3,
            "updates": 8,
            "gradient_penalty": 1.0,
            "normalize_input": False,
        },
        "bc": {"hidden": [32]},
    }[algo]
    options = {} if algo == "bc" else {"generator_options": STEADY if algo == "gail" else PPO}
    values = {"algo": algo, "dataset": str(demonstrations), "seeds": [0, 1, 2], "batch_size": 160}
    return train(recipe_from_dict({**COMMON, **values, **steps, "agent": {**agent, **options}}), run)


def returns(run: Run, env: str) -> list[float]:
    """Of each seed."""
    means: list[float] = evaluate_run(run, episodes=100, env=env)["mean_return_per_seed"]
    return means


@pytest.mark.learning
def test_a_learned_reward_leads_where_imitation_is_lost(tmp_path: Path) -> None:
    demonstrations = write_demonstrations(tmp_path / "demonstrations", 100)
    runs = {algo: imitator(algo, demonstrations, tmp_path / algo) for algo in ("airl", "gail", "bc")}
    for algo, run in runs.items():
        assert min(returns(run, DOOR_ABOVE)) >= 0.8 * best_return(door=0), algo
        # Every imitator goes to where the door was.
        assert max(returns(run, DOOR_BELOW)) <= 0.5 * best_return(door=4), algo
    policy, _ = load_policy(runs["airl"], "last")
    cells = torch.arange(SIZE * SIZE).expand(3, -1)
    nothing = torch.zeros(cells.shape)
    agent: Any = policy.agent
    rewards = agent.reward(policy.state, Batch(cells, torch.zeros_like(cells), nothing, nothing, cells, nothing))
    for seed in range(3):
        name = LEARNED.format(seed=seed)
        gym.register(name, entry_point=Walls, disable_env_checker=True, kwargs={"door": 4, "rewards": rewards[seed]})
        seeds = [seed, seed + 10, seed + 20]
        values = {"algo": "ppo", "env": name, "seeds": seeds, "agent": STEADY, "steps": STEADY_STEPS}
        recipe = recipe_from_dict({**COMMON, **values})
        run = train(recipe, tmp_path / f"ppo-{seed}")
        # One policy in ten settles where the learned reward is but a little; which one does, that reward tells as well.
        chosen = int(np.argmax(returns(run, name)))
        assert returns(run, DOOR_BELOW)[chosen] >= 0.9 * best_return(door=4)
