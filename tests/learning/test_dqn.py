"""DQN learns, online and offline, from vectors and from pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offrl.config.library import find_recipe
from offrl.config.recipe import recipe_from_dict, with_settings
from offrl.converters.catalog import open_dataset
from offrl.training.run_training import train
from tests.envs.pixels import CATCH, NESTED_CATCH
from tests.learning.trained import final_scores

PIXELS: dict[str, Any] = {
    "algo": "dqn",
    "steps": 12_000,
    "batch_size": 32,
    "seeds": [0, 1],
    "device": "cpu",
    "agent": {
        "hidden": [128, 128],
        "learning_rate": 1e-3,
        "discount": 0.95,
        "target_rate": 0.02,
        "double": True,
        "epsilon_steps": 4_000,
    },
    "data": {"n_step": 3},
    "online": {"warmup_steps": 500, "capacity": 12_000, "updates_per_step": 0.5},
    "evaluation": {"every": 0, "final_episodes": 100},
}


@pytest.mark.learning
def test_dqn_balances_the_pole(tmp_path: Path) -> None:
    scores = final_scores("dqn/cartpole", tmp_path / "run", 5)
    assert scores["step"] <= 50_000
    assert sum(mean >= 475.0 for mean in scores["mean_return_per_seed"]) >= 4


@pytest.mark.learning
def test_offline_dqn_ends_far_above_its_data(tmp_path: Path) -> None:
    """Rewards have little part in it: the penalty's pull towards the logged actions gets as far without them."""
    scores = final_scores("dqn/cartpole-replay", tmp_path / "run", 3)
    assert min(scores["mean_return_per_seed"]) >= 400.0
    data = open_dataset("cartpole-replay").episodes.return_
    assert float(data.mean()) < 200.0


@pytest.mark.learning
def test_dqn_s_offline_recipe_stays_with_an_expert(tmp_path: Path) -> None:
    smaller = ("dataset=cartpole-expert", "steps=6_000", "agent.hidden=[128, 128]")
    scores = final_scores("dqn/offline", tmp_path / "run", 3, *smaller)
    # 500 of 500; without the penalty the pole falls after 9.5 steps.
    assert min(scores["mean_return_per_seed"]) >= 450.0


@pytest.mark.learning
def test_the_conservative_penalty_keeps_values_from_blowing_up(tmp_path: Path) -> None:
    """An expert's episodes don't show what other actions lead to; no value is beyond 1 / (1 − γ) = 100."""
    values = {}
    for conservative in (0.0, 2.0):
        settings = [f"agent.conservative={conservative}", "dataset=cartpole-expert", "seeds=[0, 1]", "env=none"]
        recipe = recipe_from_dict(with_settings(find_recipe("dqn/cartpole-replay").values, settings))
        *_, last = train(recipe, tmp_path / f"run-{conservative}").lines("metrics.jsonl")
        values[conservative] = last["q"]
    assert min(values[0.0]) > 200.0
    assert max(values[2.0]) < 100.0


@pytest.mark.learning
@pytest.mark.parametrize("env", [CATCH, NESTED_CATCH])
def test_dqn_catches_what_it_sees(env: str, tmp_path: Path) -> None:
    recipe = recipe_from_dict({**PIXELS, "env": env})
    (scores,) = train(recipe, tmp_path / "run").lines("evaluations.jsonl")
    # Every ball can be caught; standing still catches one in ten.
    assert np.mean(scores["returns"], axis=1).min() >= 0.9
