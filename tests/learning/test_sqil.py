"""SQIL learns from a handful of demonstrations."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.config.library import find_recipe
from tests.learning.trained import final_scores


@pytest.mark.learning
def test_sqil_balances_the_pole_like_its_five_demonstrations(tmp_path: Path) -> None:
    assert find_recipe("sqil/cartpole").values["data"]["episodes"] == 5
    scores = final_scores("sqil/cartpole", tmp_path / "run", 5)
    assert sum(mean >= 475.0 for mean in scores["mean_return_per_seed"]) >= 4
