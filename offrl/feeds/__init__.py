"""Where update cycles come from: one file per way of learning, each of which opens its problem and builds itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from offrl import plugins
from offrl.config.recipe import Recipe
from offrl.errors import RecipeError
from offrl.feeds.problem import Problem
from offrl.feeds.warm_start import goes_online, starting_point, successors

if TYPE_CHECKING:
    from offrl.feeds.feed import Feed


def feed_of(recipe: Recipe) -> type[Feed]:
    """How a recipe learns: the first of its algorithm's feeds that has no objection.

    Raises:
        RecipeError: all have one; the message is the first one's.
    """
    algorithm = plugins.algorithms[recipe.algo]
    if recipe.expert is not None and not algorithm.expert:
        raise RecipeError(f"{recipe.algo} has no use for an expert", hint="leave --expert out, or train dagger")
    kinds: list[type[Feed]] = [plugins.feeds[name] for name in algorithm.feeds]
    objections = [kind.objection(recipe) for kind in kinds]
    for kind, objection in zip(kinds, objections, strict=True):
        if objection is None:
            return kind
    assert objections[0] is not None, f"{recipe.algo} names no feed"
    raise objections[0]


def open_problem(recipe: Recipe, checkpoint: Path | None = None) -> Problem:
    """What the names in a recipe stand for.

    Args:
        recipe: a valid one.
        checkpoint: the run's own last one, if there is one.

    Raises:
        RecipeError: the algorithm can't learn from what is named.
        OffrlError: something isn't there, or the parts don't belong together.
    """
    if recipe.start is not None and not goes_online(plugins.algorithms[recipe.algo]):
        source, _ = starting_point(Path(recipe.start))
        raise RecipeError(
            f"{recipe.algo} learns from a dataset only, so it can't go on online", hint=successors(source.recipe)
        )
    return feed_of(recipe).open(recipe, checkpoint)
