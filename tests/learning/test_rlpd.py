"""RLPD learns sooner with logged steps in its batches than without."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from offrl.config.library import find_recipe
from offrl.config.recipe import recipe_from_dict, with_settings
from offrl.training.run_training import train

SEEDS = [50, 51, 52]
"""No option was tuned on them."""
ALONE = "online.offline_fraction=0.0"


@pytest.mark.learning
def test_logged_steps_bring_the_pendulum_up_sooner(tmp_path: Path) -> None:
    """In 1,500 steps, of which SAC's own recipe takes 10,000; as good data as it is, nothing is known of it before."""
    settings = [f"seeds={SEEDS}", "evaluation.every=250", "evaluation.final_episodes=20"]
    values = find_recipe("rlpd/pendulum").values
    with_data = train(recipe_from_dict(with_settings(values, settings)), tmp_path / "data")
    without = {key: value for key, value in values.items() if key != "dataset"}
    alone = train(recipe_from_dict(with_settings(without, [*settings, ALONE])), tmp_path / "alone")
    *ours, last = with_data.lines("evaluations.jsonl")
    *theirs, _ = alone.lines("evaluations.jsonl")
    assert min(last["mean_return_per_seed"]) >= -350.0
    # Of steps 1,000 and 1,250, when some are up already.
    after = [mean(line["mean_return"] for line in lines if line["step"] in (1_000, 1_250)) for lines in (ours, theirs)]
    assert after[0] >= after[1] + 150.0, after
