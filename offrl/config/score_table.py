"""Tables of scores: many recipes, of algorithms on datasets, and what others published for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offrl.config.fields import STRICT, Finite, NonNegative
from offrl.config.recipe import Recipe, merged, recipe_from_dict
from offrl.config.validation import validated
from offrl.errors import RecipeError

HINT = "recipes/README.md says what a table holds"


@dataclass(frozen=True)
class TableDataset:
    """A dataset that all algorithms of a table learn from.

    Attributes:
        name: as recipes have it.
        recipe: keys of the recipes of all algorithms that are others here, such as `env`.
        algorithms: keys that are others here for one algorithm, by its name in the table.
        published: normalized scores to compare with, by the algorithm's name in the table.
    """

    __pydantic_config__ = STRICT

    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    algorithms: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: dict[str, Finite] = field(default_factory=dict)


@dataclass(frozen=True)
class TableAlgorithm:
    """An algorithm of a table, with its options.

    Attributes:
        recipe: keys of its recipes, `algo` among them.
        returns_span: the difference of the dataset's largest and smallest return once rewards are scaled; 0 leaves
            `data.reward_scale` to the recipe.
    """

    __pydantic_config__ = STRICT

    recipe: dict[str, Any]
    returns_span: NonNegative = 0.0


@dataclass(frozen=True)
class ScoreTable:
    """Every algorithm on every dataset.

    Attributes:
        datasets: in order.
        algorithms: by the name that they have in the table.
        recipe: keys of all recipes; an algorithm's go before them, a dataset's before these, and those of an algorithm
            on a dataset before all.
        published_by: where the published scores are from.
    """

    __pydantic_config__ = STRICT

    datasets: tuple[TableDataset, ...]
    algorithms: dict[str, TableAlgorithm]
    recipe: dict[str, Any] = field(default_factory=dict)
    published_by: str = ""

    def recipe_of(
        self, dataset: TableDataset, algorithm: str, changes: Mapping[str, Any], reward_scale: float | None = None
    ) -> Recipe:
        """One training.

        Args:
            dataset: of the table's.
            algorithm: of the table's, by name.
            changes: dotted keys to values, which go before all others.
            reward_scale: the factor on rewards that `returns_span` asks for; None leaves it to the recipe.

        Raises:
            RecipeError: a key is unknown, or a value of the wrong kind.
        """
        values: dict[str, Any] = {"dataset": dataset.name}
        sources = (
            self.recipe,
            self.algorithms[algorithm].recipe,
            dataset.recipe,
            dataset.algorithms.get(algorithm, {}),
        )
        for source in sources:
            values = merged(values, source)
        if reward_scale is not None:
            values = merged(values, {"data.reward_scale": reward_scale})
        return recipe_from_dict(merged(values, changes), f"{algorithm} on {dataset.name}")


def table_from_dict(values: Mapping[str, Any], where: str = "") -> ScoreTable:
    """A table from plain values.

    Raises:
        RecipeError: a key is unknown, missing or has a value of the wrong kind, or an algorithm isn't the table's.
    """
    table: ScoreTable = validated(ScoreTable, values, where, hint=HINT)
    for dataset in table.datasets:
        unknown = sorted((dataset.algorithms.keys() | dataset.published.keys()) - table.algorithms.keys())
        if unknown:
            known = ", ".join(table.algorithms)
            raise RecipeError(
                f"'{dataset.name}' names an algorithm that the table doesn't have: {', '.join(unknown)}",
                where=where,
                hint=f"its algorithms are {known}",
            )
    return table
