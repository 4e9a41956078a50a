"""SAC learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.learning.trained import final_scores


@pytest.mark.learning
def test_sac_swings_up_the_pendulum(tmp_path: Path) -> None:
    scores = final_scores("sac/pendulum", tmp_path / "run", 5)
    assert scores["step"] <= 20_000
    assert min(scores["mean_return_per_seed"]) >= -200.0
