"""Fine-tuning keeps what was learned before."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.recipe_catalog import find_recipe
from offrl.recipes import recipe_from_dict, with_settings
from offrl.train.finetune import fine_tuning_recipe
from offrl.train.session import train


@pytest.mark.learning
def test_td3_goes_on_from_a_cloned_expert_without_losing_its_skill(tmp_path: Path) -> None:
    smaller = ["seeds=[0, 1]", "steps=3_000", "agent.hidden=[64, 64]", "evaluation.every=0"]
    train(recipe_from_dict(with_settings(find_recipe("bc/hopper").values, smaller)), tmp_path / "clone")
    settings = ["online.critic_warmup=2_000", "evaluation.every=1_000", "evaluation.episodes=5"]
    base = find_recipe("td3/hopper").values
    recipe = fine_tuning_recipe(tmp_path / "clone", steps=8_000, algo="td3", base=base, settings=settings)
    evaluations = train(recipe, tmp_path / "run").lines("evaluations.jsonl")
    before, *after = [line["mean_return"] for line in evaluations]
    assert before >= 2_500.0
    # With the options for learning from nothing it ends at 0 within a thousand steps of the policy.
    assert min(after) >= 0.7 * before
