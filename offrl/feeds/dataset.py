"""Batches from a dataset; a step is a gradient step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from offrl.config.recipe import OnlineConfig, Recipe
from offrl.errors import RecipeError
from offrl.feeds.materials import Cycle, Materials, cycles, sampling_options, tell_errors
from offrl.feeds.problem import Problem, dataset_problem, objection_to_mixing
from offrl.ops.noise import NoiseSource
from offrl.replay.sampler import ReplaySampler
from offrl.runs.run import Run
from offrl.types import Agent, Batch, Metrics

ALL = 2**31
"""More updates than a loop asks for."""


class DatasetFeed:
    """Batches drawn from a dataset alone."""

    online: ClassVar[bool] = False
    holds_out: ClassVar[bool] = True
    mixes_data: ClassVar[bool] = False

    def __init__(self, agent: Agent[Any, Any], sampler: ReplaySampler, noise: NoiseSource, batch_size: int) -> None:
        self.agent, self.sampler, self.noise = agent, sampler, noise
        self.shapes = agent.noise_shapes(batch_size)
        self.steps_per_round = agent.batches_per_update

    @classmethod
    def objection(cls, recipe: Recipe) -> RecipeError | None:
        """It needs a dataset, no own steps to mix it with, and no run to go on from online."""
        if recipe.start is not None:
            return RecipeError(f"{recipe.algo} learns from a dataset only, so it can't go on online")
        if (objection := objection_to_mixing(recipe)) is not None:
            return objection
        if recipe.dataset is None:
            return RecipeError(f"{recipe.algo} learns from a dataset, and none is named", hint="add --dataset NAME")
        return None

    @classmethod
    def open(cls, recipe: Recipe, checkpoint: Path | None) -> Problem:
        """Open the dataset, and compare it with the environment, if one is known."""
        return dataset_problem(recipe)

    @classmethod
    def unread(cls, recipe: Recipe) -> tuple[tuple[str, ...], str]:
        """All that is about own steps."""
        names = tuple(f"online.{field.name}" for field in dataclasses.fields(OnlineConfig))
        return names, "it learns from the dataset alone"

    @classmethod
    def gradient_rows(cls, recipe: Recipe) -> int:
        """A batch's."""
        return recipe.batch_size

    @classmethod
    def build(cls, materials: Materials) -> Self:
        """With priorities, if the recipe has any."""
        recipe, policy, data = materials.problem.recipe, materials.policy, materials.data
        assert data is not None
        sampler = ReplaySampler(
            [data],
            batch_size=recipe.batch_size,
            seeds=recipe.seeds,
            priority=recipe.priority,
            **sampling_options(recipe, policy),
        )
        return cls(policy.agent, sampler, materials.update_noise(), recipe.batch_size)

    def rounds(self, count: int) -> Iterator[Cycle]:
        """Each round is one update; the batches and draws of several are gathered at once."""
        most = self.at_once()
        for start in range(0, count, most):
            updates = min(most, count - start)
            yield from cycles(self.sampler.batches(updates * self.steps_per_round), self.noise, self.shapes, updates)

    def at_once(self) -> int:
        """How many updates' batches and draws are gathered together, at most: all, unless they are prioritized."""
        # Priorities change with every update.
        return 1 if self.sampler.priorities else ALL

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """Tell the sampler of TD errors."""
        tell_errors(self.sampler, batches, metrics)

    def at_checkpoint(self, step: int) -> None:
        """A dataset has nothing to restart."""

    def finished(self) -> bool:
        """There is always more to learn."""
        return False

    def report(self) -> dict[str, list[Any]]:
        """Nothing happens but updates."""
        return {}

    def conclude(self, run: Run) -> None:
        """Nothing else was found."""

    def close(self) -> None:
        """There are no environments."""

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """The sampler's and the draws' generators."""
        return {"sampler": self.sampler.named_tensors(), "noise": self.noise.named_tensors()}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Go on with their next draws."""
        self.sampler.restore(parts["sampler"])
        self.noise.restore(parts["noise"])
