"""What the names in a recipe stand for: data, spaces, environment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl.agents import AGENTS
from offrl.data.catalog import open_dataset
from offrl.data.sampler import top_by_return
from offrl.data.trajectories import Trajectories
from offrl.envs.make import environment_spec
from offrl.envs.spaces import check_spaces
from offrl.errors import RecipeError
from offrl.recipes import Recipe
from offrl.types import Spec

NO_ENVIRONMENT = "none"
"""As a recipe's `env`: evaluate nowhere, whatever environment the dataset names."""


@dataclass(frozen=True)
class Task:
    """What a recipe's names stand for.

    Attributes:
        recipe: with the environment filled in from the dataset where it named none.
        spec: the spaces.
        data: the episodes to train on, before any are held out; None online.
        dataset_facts: name and fingerprint of the data, and its reference scores.
    """

    recipe: Recipe
    spec: Spec
    data: Trajectories | None
    dataset_facts: dict[str, Any]

    @classmethod
    def of(cls, recipe: Recipe) -> Task:
        """Open the dataset and compare it with the environment.

        Raises:
            RecipeError: neither a dataset nor an environment is named.
            SpaceMismatchError: the two don't belong together.
        """
        if recipe.dataset is None:
            return cls._online(recipe)
        if not AGENTS[recipe.algo].offline:
            raise RecipeError(
                f"{recipe.algo} learns from its own steps only, and a dataset is named",
                mend="clone the dataset first (offrl train bc), then fine-tune that run (offrl finetune RUN --algo "
                f"{recipe.algo})",
            )
        store = open_dataset(recipe.dataset)
        environment = store.metadata.environment if recipe.env is None else recipe.env
        recipe = dataclasses.replace(recipe, env=environment, dataset=_anywhere(recipe.dataset))
        if recipe.env not in (None, NO_ENVIRONMENT):
            check_spaces(store.spec, environment_spec(recipe.env), recipe.env)
        facts = {
            "dataset": recipe.dataset,
            "fingerprint": store.fingerprint,
            "reference_scores": store.metadata.reference_scores,
        }
        return cls(recipe, store.spec, top_by_return(store, recipe.data.top_fraction), facts)

    @classmethod
    def _online(cls, recipe: Recipe) -> Task:
        if AGENTS[recipe.algo].online == "none":
            raise RecipeError(f"{recipe.algo} learns from a dataset, and none is named", mend="add --dataset NAME")
        if recipe.env in (None, NO_ENVIRONMENT):
            raise RecipeError("the recipe names neither a dataset nor an environment", mend="add --dataset or --env")
        facts: dict[str, Any] = {"dataset": None, "fingerprint": None, "reference_scores": {}}
        return cls(recipe, environment_spec(recipe.env), None, facts)


def _anywhere(dataset: str) -> str:
    """A dataset's name such that it means the same in every working directory: paths become absolute."""
    return str(Path(dataset).resolve()) if Path(dataset).exists() else dataset
