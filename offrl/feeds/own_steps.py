"""What feeds of own steps share: the collector, how steps are kept, the task without and with a run to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from offrl.config.recipe import Recipe
from offrl.data import schema
from offrl.data.trajectories import Trajectories
from offrl.envs.collector import Collector, StepSink
from offrl.envs.make import tells_of_masks
from offrl.errors import RecipeError
from offrl.feeds.materials import Materials, columns_of, reward_scaler_of
from offrl.feeds.problem import Problem, mixed_problem, mixes_data, online_problem
from offrl.feeds.warm_start import fine_tuning_problem
from offrl.replay.row_layout import RETURNS, RowLayout
from offrl.replay.sources import common_columns
from offrl.types import RETURN_TO_GO


def objection_to_data(recipe: Recipe) -> RecipeError | None:
    """A dataset is for fine-tuning, where a run to start from is named too."""
    if recipe.dataset is None or recipe.start is not None:
        return None
    return RecipeError(
        f"{recipe.algo} learns from its own steps only, and a dataset is named",
        hint="clone the dataset first (offrl train bc), then fine-tune that run (offrl finetune RUN --algo "
        f"{recipe.algo})",
    )


def own_steps_problem(recipe: Recipe, checkpoint: Path | None) -> Problem:
    """From scratch, perhaps with data beside own steps, or from the policies of another run."""
    if recipe.start is not None:
        return fine_tuning_problem(recipe, checkpoint)
    return mixed_problem(recipe) if mixes_data(recipe) else online_problem(recipe)


def step_layout(materials: Materials, data: Trajectories | None = None) -> RowLayout:
    """Of own steps: with masks if the environment tells of them, or the dataset that they are mixed with does.

    And with returns to go if the algorithm asks for them.
    """
    recipe, policy = materials.recipe, materials.policy
    assert recipe.env is not None
    spec = policy.agent.spec
    masks = [] if data is None else [c for c in common_columns([data]) if c.name == schema.ACTION_MASK]
    if not masks and policy.masks and tells_of_masks(recipe.env):
        masks = [schema.ColumnSpec(schema.ACTION_MASK, np.dtype(np.bool_), (spec.action_dim,))]
    returns = [RETURNS] if RETURN_TO_GO in columns_of(recipe) else []
    return RowLayout.of(spec, [*masks, *returns])


def collector_into(sink: StepSink, materials: Materials) -> Collector:
    """What steps the environments of all seeds."""
    recipe = materials.recipe
    assert recipe.env is not None
    return Collector(
        recipe.env,
        materials.policy,
        sink,
        list(recipe.seeds),
        recipe.online.environments,
        processes=recipe.online.processes,
        reward_scaler=reward_scaler_of(recipe),
        recorder=materials.recorder,
        horizon=recipe.online.fixed_horizon,
    )


def episode_report(collector: Collector) -> dict[str, list[Any]]:
    """Mean return and length of the episodes that ended since the last report, per seed; None where none did."""
    finished = collector.finished()
    return {
        "episode_return": [sum(r) / len(r) if r else None for r in finished.returns],
        "episode_length": [sum(n) / len(n) if n else None for n in finished.lengths],
    }
