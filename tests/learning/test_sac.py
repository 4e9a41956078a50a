"""SAC learns online, and near its data offline."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.learning.trained import final_scores


@pytest.mark.learning
def test_sac_swings_up_the_pendulum(tmp_path: Path) -> None:
    scores = final_scores("sac/pendulum", tmp_path / "run", 5)
    assert scores["step"] <= 20_000
    assert min(scores["mean_return_per_seed"]) >= -200.0


@pytest.mark.learning
def test_sac_near_its_data_hops_as_well_as_the_expert_it_watched(tmp_path: Path) -> None:
    smaller = ("dataset=hopper-expert", "steps=8_000", "agent.hidden=[64, 64]")
    scores = final_scores("sac/offline", tmp_path / "run", 2, *smaller)
    # 100.5 and 93.6; without bc_alpha it is −0.5.
    assert scores["normalized_score"] >= 75.0
