"""TD3 learns online, and TD3+BC offline."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.learning.trained import final_scores


@pytest.mark.learning
def test_td3_swings_up_the_pendulum(tmp_path: Path) -> None:
    scores = final_scores("td3/pendulum", tmp_path / "run", 5)
    assert scores["step"] == 20_000
    assert min(scores["mean_return_per_seed"]) >= -200.0


@pytest.mark.learning
def test_td3_bc_hops_as_well_as_the_expert_it_watched(tmp_path: Path) -> None:
    smaller = ("steps=20_000", "agent.hidden=[128, 128]")
    scores = final_scores("td3/hopper-expert", tmp_path / "run", 2, *smaller)
    # Without the BC term it is −0.6.
    assert scores["normalized_score"] >= 85.0
