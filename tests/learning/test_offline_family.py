"""AWAC, Cal-QL, CQL, EDAC and ReBRAC learn from a log what a clone of the same size and steps can't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import offrl
from offrl.runs.run import Run

SEEDS = [30, 31]
"""No option was tuned on them."""
CHANGES: dict[str, dict[str, Any]] = {
    "awac": {},
    "calql": {"agent": {"samples": 3}},
    "cql": {"agent": {"samples": 3}},
    "edac": {"agent": {"critics": 5}},
    "rebrac": {"agent": {"hidden": [64, 64]}},
}
"""Of the recipes for the pendulum, to end within a minute."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return offrl.train(
        "bc",
        dataset="pendulum-replay",
        seeds=SEEDS,
        steps=5_000,
        agent={"hidden": [64, 64]},
        evaluation={"every": 0},
        out=tmp_path_factory.mktemp("clone") / "bc",
        progress=False,
    )


@pytest.mark.learning
@pytest.mark.parametrize("algo", CHANGES)
def test_the_pendulum_swings_up_from_a_log_that_a_clone_learns_little_from(
    algo: str, clone: Run, tmp_path: Path
) -> None:
    """Its worst seed beats the best clone by 100.

    The recipes of AWAC, CQL and EDAC reach −210, −297 and −160, the clone −517.
    """
    learned = offrl.train(
        algo, dataset="pendulum-replay", seeds=SEEDS, out=tmp_path / algo, progress=False, **CHANGES[algo]
    )
    theirs, ours = clone.final_scores(), learned.final_scores()
    assert ours is not None
    assert theirs is not None
    assert min(ours["mean_return_per_seed"]) > max(theirs["mean_return_per_seed"]) + 100.0
