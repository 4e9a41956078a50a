"""Bundled recipes, trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offrl.config.library import find_recipe
from offrl.config.recipe import recipe_from_dict, with_settings
from offrl.training.run_training import train

EPISODES = 20


def final_scores(name: str, run: Path, seeds: int, *settings: str) -> dict[str, Any]:
    """What a bundled recipe's last policies score in 20 greedy episodes each, after training several seeds together."""
    fixed = [f"seeds={list(range(seeds))}", "evaluation.every=0", f"evaluation.final_episodes={EPISODES}"]
    recipe = recipe_from_dict(with_settings(find_recipe(name).values, [*fixed, *settings]))
    (scores,) = train(recipe, run).lines("evaluations.jsonl")
    assert scores["checkpoint"] == "last"
    assert [len(returns) for returns in scores["returns"]] == [EPISODES] * seeds
    return scores
