"""Runs that see stacked images, from the first step to the exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import offrl
from tests.envs.pixels import CATCH, SIDE, SMOOTH_CATCH, logged

SHIFTED = {"hidden": [8], "random_shift": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "bc": SHIFTED,
    "iql": SHIFTED,
    "dqn": {"hidden": [8]},
    "sac": SHIFTED,
    "td3": SHIFTED,
    "ppo": {"hidden": [8], "rollout_steps": 16, "minibatch_size": 8, "epochs": 1},
}


@pytest.mark.parametrize("algo", OPTIONS)
def test_stacked_images_are_learned_from_evaluated_and_exported(algo: str, tmp_path: Path) -> None:
    env = CATCH if algo == "dqn" else SMOOTH_CATCH
    task: dict[str, Any] = {"env": env}
    if algo in ("bc", "iql"):
        task = {"dataset": logged(tmp_path / "log", 4, follows=0.5, env=env)}
    elif algo != "ppo":
        task["online"] = {"warmup_steps": 16, "capacity": 64}
    run = offrl.train(
        algo,
        steps=24,
        seeds=2,
        device="cpu",
        batch_size=4,
        agent=OPTIONS[algo],
        data={"frame_stack": 2},
        evaluation={"every": 0, "final_episodes": 1},
        out=tmp_path / "run",
        progress=False,
        **task,
    )
    assert len(run.evaluate(2)["mean_return_per_seed"]) == 2
    exported = offrl.export(run, "torchscript", seed=1)
    assert exported.difference < 1e-4
    shown = np.random.default_rng(0).integers(0, 256, (3, 2, SIDE, SIDE, 3), np.uint8)
    action = torch.jit.load(str(exported.path))(torch.from_numpy(shown))
    assert len(action[0] if isinstance(action, tuple) else action) == 3
