"""PPO learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.learning.trained import final_scores


@pytest.mark.learning
def test_ppo_balances_the_pole(tmp_path: Path) -> None:
    scores = final_scores("ppo/cartpole", tmp_path / "run", 5)
    assert scores["step"] <= 100_000
    assert sum(mean >= 475.0 for mean in scores["mean_return_per_seed"]) >= 4
