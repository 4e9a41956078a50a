"""DQN learns, from vectors and from pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offrl.recipes import recipe_from_dict
from offrl.train.session import train
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
@pytest.mark.parametrize("env", [CATCH, NESTED_CATCH])
def test_dqn_catches_what_it_sees(env: str, tmp_path: Path) -> None:
    recipe = recipe_from_dict({**PIXELS, "env": env})
    (scores,) = train(recipe, tmp_path / "run").lines("evaluations.jsonl")
    # Every ball can be caught; standing still catches one in ten.
    assert np.mean(scores["returns"], axis=1).min() >= 0.9
