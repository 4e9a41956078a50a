"""Policies that remember solve what one that only sees can't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import offrl
from tests.envs.t_maze import LONGEST, demonstrations

SEEDS = [40, 41, 42]
"""No option was tuned on them."""
CHANGES: dict[str, dict[str, Any]] = {
    "bc": {"hidden": [32, 32]},
    "bc-rnn": {"width": 32, "layers": 1, "context": LONGEST + 1, "learning_rate": 3e-3},
}


@pytest.mark.learning
def test_a_recurrent_clone_remembers_the_sign_at_the_beginning(tmp_path: Path) -> None:
    """Who doesn't turns by chance."""
    dataset, found = demonstrations(tmp_path / "maze"), {}
    for algo, agent in CHANGES.items():
        run = offrl.train(
            algo,
            dataset=dataset,
            seeds=SEEDS,
            steps=1_000,
            batch_size=64,
            agent=agent,
            evaluation={"every": 0},
            out=tmp_path / algo,
            progress=False,
        )
        scores = run.final_scores()
        assert scores is not None
        found[algo] = scores["mean_return_per_seed"]
    assert min(found["bc-rnn"]) >= 0.98
    assert max(found["bc"]) <= 0.75
