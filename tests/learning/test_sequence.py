"""Policies that remember solve what one that only sees can't, and earn what they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

import offrl
from tests.envs.t_maze import LONGEST, demonstrations
from tests.envs.wages import MOST, wages

SEEDS = [43, 44, 45]
"""No option was tuned on them."""
REMEMBERING: dict[str, tuple[int, dict[str, Any]]] = {
    "bc": (1_000, {"hidden": [32, 32]}),
    "bc-rnn": (1_000, {"width": 32, "layers": 1, "context": LONGEST + 1, "learning_rate": 3e-3}),
    # Attention finds the sign late, and then at once.
    "bc-transformer": (
        2_500,
        {"width": 32, "layers": 2, "heads": 2, "context": LONGEST + 1, "learning_rate": 1e-3, "dropout": 0.0},
    ),
}
"""Updates and options."""


@pytest.mark.learning
def test_clones_with_a_memory_recall_the_sign_at_the_beginning(tmp_path: Path) -> None:
    """Who doesn't turns by chance."""
    dataset, found = demonstrations(tmp_path / "maze"), {}
    for algo, (steps, agent) in REMEMBERING.items():
        run = offrl.train(
            algo,
            dataset=dataset,
            seeds=SEEDS,
            steps=steps,
            batch_size=64,
            agent=agent,
            evaluation={"every": 0},
            out=tmp_path / algo,
            progress=False,
        )
        scores = run.final_scores()
        assert scores is not None
        found[algo] = scores["mean_return_per_seed"]
    assert min(found["bc-rnn"] + found["bc-transformer"]) >= 0.98
    assert max(found["bc"]) <= 0.75


@pytest.mark.learning
def test_a_decision_transformer_earns_what_it_is_asked_for(tmp_path: Path) -> None:
    """Eight returns from end to end of the data's; who doesn't go by what is asked for earns always the same."""
    run = offrl.train(
        "dt",
        dataset=wages(tmp_path / "wages"),
        seeds=SEEDS,
        steps=2_000,
        batch_size=64,
        agent={"context": 4, "width": 32, "layers": 1, "learning_rate": 2e-3, "warmup_steps": 100, "dropout": 0.0},
        evaluation={"every": 0, "final_episodes": 10},
        out=tmp_path / "run",
        progress=False,
    )
    asked = np.linspace(1.0, MOST - 1.0, 8)
    scores = [run.acting_by(target_return=target).evaluate(50, checkpoint="last") for target in asked]
    reached = np.array([score["mean_return_per_seed"] for score in scores])
    for earned in reached.T:
        assert spearmanr(asked, earned).statistic >= 0.9
        assert np.abs(earned - asked).mean() <= 2.0
