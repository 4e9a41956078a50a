"""Small demonstrations and recipes that train in a second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from offrl.config.recipe import Recipe, recipe_from_dict
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.runs.checkpoint import read_part
from offrl.runs.run import Run
from offrl.types import Spec

PENDULUM = Spec(
    gym.spaces.Box(np.array([-1, -1, -8], np.float32), np.array([1, 1, 8], np.float32)),
    gym.spaces.Box(-2.0, 2.0, (1,), np.float32),
)


def make_demonstrations(path: Path, episodes: int = 8, length: int = 50, *, shuffled: bool = False) -> TrajectoryStore:
    """Pendulum-shaped episodes whose actions are a smooth function of the observation, or the same in random order."""
    rng = np.random.default_rng(0)
    rows = episodes * (length + 1)
    angle, speed = rng.uniform(-np.pi, np.pi, rows), rng.uniform(-8, 8, rows)
    observation = np.stack([np.cos(angle), np.sin(angle), speed], axis=1).astype(np.float32)
    action = 2.0 * np.tanh(observation @ np.array([[0.5], [-1.0], [0.1]], np.float32))
    if shuffled:
        rng.shuffle(action)
    final = np.arange(1, episodes + 1) * (length + 1) - 1
    truncated = np.zeros(rows, np.bool_)
    truncated[final - 1] = True
    action[final] = 0.0
    reward = np.repeat(np.arange(episodes, dtype=np.float64), length + 1)
    reward[final] = 0.0
    columns: dict[str, Any] = {
        "observation": observation,
        "action": action.astype(np.float32),
        "reward": reward,
        "terminated": np.zeros(rows, np.bool_),
        "truncated": truncated,
    }
    with StoreWriter(path, PENDULUM, environment="Pendulum-v1") as writer:
        writer.append(EpisodeBlock(columns, np.full(episodes, length)))
    return TrajectoryStore.open(path)


def bc_recipe(dataset: Path, **changes: Any) -> Recipe:
    """Behavior cloning without an environment: 120 steps, a checkpoint every 40."""
    values: dict[str, Any] = {
        "algo": "bc",
        "dataset": str(dataset),
        "steps": 120,
        "batch_size": 32,
        "seeds": [0, 1],
        "device": "cpu",
        "checkpoint_every": 40,
        "log_every": 20,
        "agent": {"hidden": [16, 16], "dropout": 0.1, "ema": 0.9},
        "evaluation": {"every": 0, "episodes": 2, "final_episodes": 2},
        "early_stopping": {"every": 20},
    }
    return recipe_from_dict({**values, **changes})


def td3_recipe(**changes: Any) -> Recipe:
    """TD3 on Pendulum: 240 steps of two environments, a checkpoint every 80."""
    values: dict[str, Any] = {
        "algo": "td3",
        "env": "Pendulum-v1",
        "steps": 240,
        "batch_size": 16,
        "seeds": [0, 1],
        "device": "cpu",
        "checkpoint_every": 80,
        "log_every": 40,
        "agent": {"hidden": [16, 16]},
        "online": {"warmup_steps": 40, "capacity": 150, "environments": 2},
        "evaluation": {"every": 120, "episodes": 1, "final_episodes": 1},
    }
    return recipe_from_dict({**values, **changes})


def sac_recipe(**changes: Any) -> Recipe:
    """SAC like `td3_recipe`."""
    return td3_recipe(**{"algo": "sac", **changes})


def last_tensors(run: Run) -> dict[str, torch.Tensor]:
    """Every tensor of a run's last checkpoint, by part and name."""
    directory = run.checkpoint("last")
    return {
        f"{file.stem}/{name}": tensor
        for file in sorted(directory.glob("*.safetensors"))
        for name, tensor in read_part(directory, file.stem).items()
    }


def assert_same_tensors(one: Run, other: Run) -> None:
    """Every tensor of both last checkpoints, bit for bit."""
    a, b = last_tensors(one), last_tensors(other)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert different == []


def start_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Run code in a process of its own, which prints to a pipe."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
