"""Batches of windows of a dataset's episodes; a step is a gradient step."""

from __future__ import annotations

import math
from pathlib import Path

from offrl.config.recipe import Recipe
from offrl.errors import RecipeError
from offrl.feeds.dataset import DatasetFeed
from offrl.feeds.materials import window_of
from offrl.feeds.problem import Problem

FLOATS_AT_ONCE = 2**24
"""Of windows and draws that are gathered together: 64 MiB."""


class WindowsFeed(DatasetFeed):
    """Windows of as many consecutive steps as the algorithm's option `context` says, drawn from a dataset alone.

    Each begins at a uniformly drawn step and is padded behind its episode's end: what learns from earlier steps alone
    never looks there, and it is the distribution of windows that robomimic and Decision Transformer learn from, who
    pad the same steps behind and before.
    """

    @classmethod
    def open(cls, recipe: Recipe, checkpoint: Path | None) -> Problem:
        """Open the dataset; it must have an episode that fills a window."""
        problem = super().open(recipe, checkpoint)
        assert problem.data is not None
        longest, window = int(problem.data.episodes.length.max()), window_of(recipe)
        if window > longest:
            raise RecipeError(
                f"{recipe.algo} is to learn from windows of {window} steps, and the longest episode of "
                f"'{recipe.dataset}' has {longest}",
                where="agent.context",
                hint=f"set agent.context={longest}, or less",
            )
        return problem

    @classmethod
    def unread(cls, recipe: Recipe) -> tuple[tuple[str, ...], str]:
        """All that is about own steps, and about returns of several."""
        names, _ = super().unread(recipe)
        return (*names, "data.n_step"), "it learns from windows of the dataset alone"

    def at_once(self) -> int:
        """As many updates as little memory holds: a transformer's draws and windows are large."""
        sampler = self.sampler
        shown = sampler.batch_size * sampler.window * sampler.layout.pair_width
        drawn = sum(math.prod(shape) for shape in self.shapes.values())
        return max(1, FLOATS_AT_ONCE // (len(sampler.seeds) * (shown + drawn)))

    @classmethod
    def gradient_rows(cls, recipe: Recipe) -> int:
        """The steps of a batch's windows."""
        return recipe.batch_size * window_of(recipe)
