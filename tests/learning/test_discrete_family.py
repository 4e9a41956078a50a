"""QR-DQN, BCQ and IQL learn from logs of discrete actions what a clone of the same size and steps can't."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import offrl
from tests.learning.trained import final_scores

SEEDS = [30, 31, 32]
"""No option was tuned on them."""


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each seed's mean return, by algorithm and dataset, trained by the recipe that fits; once each."""

    @cache
    def trained(algo: str, dataset: str) -> list[float]:
        alike = {"batch_size": 64, "agent": {"hidden": [128, 128]}} if algo == "bc" else {}
        run = offrl.train(
            algo,
            dataset=dataset,
            seeds=SEEDS,
            steps=5_000,
            evaluation={"every": 0, "final_episodes": 50},
            out=tmp_path_factory.mktemp(algo) / "run",
            progress=False,
            **alike,
        )
        found = run.final_scores()
        assert found is not None
        means: list[float] = found["mean_return_per_seed"]
        return means

    return trained


@pytest.mark.learning
@pytest.mark.parametrize("algo", ["iql", "qrdqn"])
def test_the_pole_is_balanced_from_random_actions(algo: str, scores: Any) -> None:
    """A clone of chance can't; values alone tell the actions apart."""
    assert min(scores(algo, "cartpole-random")) > max(scores("bc", "cartpole-random")) + 100.0


@pytest.mark.learning
@pytest.mark.parametrize("algo", ["bcq", "iql", "qrdqn"])
def test_what_a_dqn_tried_on_its_way_is_bettered_beyond_a_clone(algo: str, scores: Any) -> None:
    """The last of its actions are good, so that a clone holds the pole for nearly as long."""
    assert np.mean(scores(algo, "cartpole-replay")) > np.mean(scores("bc", "cartpole-replay"))


@pytest.mark.learning
def test_qrdqn_learns_to_balance_the_pole_by_its_own_steps(tmp_path: Path) -> None:
    """Random actions hold it for 22 steps."""
    found = final_scores("qrdqn/cartpole", tmp_path / "run", 2, "seeds=[30, 31]")
    assert min(found["mean_return_per_seed"]) >= 200.0
