"""GAIL learns from a handful of demonstrations."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.config.library import find_recipe
from tests.learning.trained import final_scores


@pytest.mark.learning
def test_gail_balances_the_pole_like_its_five_demonstrations(tmp_path: Path) -> None:
    values = find_recipe("gail/cartpole").values
    # A reward that is never negative would make any survivor look like an imitator.
    assert (values["agent"]["reward"], values["agent"]["absorbing"], values["data"]["episodes"]) == ("logit", True, 5)
    scores = final_scores("gail/cartpole", tmp_path / "run", 5)
    assert sum(mean >= 475.0 for mean in scores["mean_return_per_seed"]) >= 4
