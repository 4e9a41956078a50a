"""Recipes by name: those that come with offrl, and files of your own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl import plugins
from offrl.config.bundled import bundled_root
from offrl.config.recipe import load_recipe, merged
from offrl.errors import RecipeError, RequestError

DATASETS = "datasets"
"""The folder of recipes that make datasets; all others train."""
TABLES = "tables"
"""The folder of tables of trainings."""


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as it stands in its file, not validated yet.

    Attributes:
        name: `<algo>/<task>` for bundled recipes that train, `tables/<name>` for tables of them, the dataset's name for
            those that make one, the path for others.
        path: the TOML file.
        values: its plain values, for `offrl.config.recipe.recipe_from_dict`, or for `dataset_recipe_from_dict`.
    """

    name: str
    path: Path
    values: dict[str, Any]

    @property
    def purpose(self) -> str:
        """The first line of the comment that the file starts with; empty if it starts with none."""
        first = self.path.read_text(encoding="utf-8").partition("\n")[0]
        return first.lstrip("# ").strip() if first.startswith("#") else ""

    @property
    def is_general(self) -> bool:
        """Whether it names neither a dataset nor an environment."""
        return not {"dataset", "env"} & self.values.keys()

    @property
    def mixes(self) -> bool:
        """Whether it gives a dataset a share of batches of own steps."""
        return "offline_fraction" in self.values.get("online", {})


def bundled_recipes(algo: str = "*") -> list[RecipeFile]:
    """Every recipe that comes with offrl and trains, or those of one algorithm, by name."""
    paths = sorted((bundled_root() / "recipes").glob(f"{algo}/*.toml"))
    return [
        RecipeFile(f"{path.parent.name}/{path.stem}", path, load_recipe(path))
        for path in paths
        if path.parent.name not in (DATASETS, TABLES)
    ]


def bundled_dataset_recipes() -> list[RecipeFile]:
    """Every recipe that comes with offrl and makes a dataset, by name."""
    return [
        RecipeFile(path.stem, path, load_recipe(path))
        for path in sorted((bundled_root() / "recipes" / DATASETS).glob("*.toml"))
    ]


def bundled_tables() -> list[RecipeFile]:
    """Every table of trainings that comes with offrl, by name (`tables/d4rl-gym9`)."""
    return [
        RecipeFile(f"{TABLES}/{path.stem}", path, load_recipe(path))
        for path in sorted((bundled_root() / "recipes" / TABLES).glob("*.toml"))
    ]


def find_recipe(name: str) -> RecipeFile:
    """A recipe, or a table of trainings, by its bundled name (`bc/hopper`, `tables/d4rl-gym9`) or its path.

    Raises:
        RecipeError: there is no such recipe, it makes a dataset, or it isn't TOML.
    """
    bundled = bundled_root() / "recipes" / f"{name}.toml"
    if name.count("/") == 1 and bundled.is_file():
        if bundled.parent.name == DATASETS:
            raise RecipeError(f"'{name}' is the recipe of a dataset", hint=f"offrl datasets make {bundled.stem}")
        return RecipeFile(name, bundled, load_recipe(bundled))
    path = Path(name)
    if path.is_file():
        return RecipeFile(name, path, load_recipe(path))
    known = ", ".join(recipe.name for recipe in (*bundled_recipes(), *bundled_tables()))
    raise RecipeError(
        f"there is no recipe '{name}'", hint=f"give the path of a TOML file, or one of the bundled recipes: {known}"
    )


def find_dataset_recipe(name: str) -> RecipeFile:
    """The recipe that makes a dataset, by the dataset's name or the recipe's path.

    Raises:
        RecipeError: there is no such recipe, or it isn't TOML.
    """
    dataset = name.removeprefix(f"{DATASETS}/")
    bundled = bundled_root() / "recipes" / DATASETS / f"{dataset}.toml"
    if "/" not in dataset and bundled.is_file():
        return RecipeFile(bundled.stem, bundled, load_recipe(bundled))
    path = Path(name)
    if path.is_file():
        return RecipeFile(path.stem, path, load_recipe(path))
    known = ", ".join(recipe.name for recipe in bundled_dataset_recipes())
    raise RecipeError(
        f"there is no recipe for a dataset '{name}'",
        hint=f"give the path of a TOML file, or one of the datasets that have a recipe: {known}",
    )


def matching_recipe(algo: str, dataset: str | None, env: str | None, mixed: bool = False) -> RecipeFile | None:
    """The bundled recipe of an algorithm that is meant for a task.

    With a dataset, it is the one whose `dataset` is that name, or else one that names neither a dataset nor an
    environment: what the algorithm wants of any dataset. Without, it is the one that has no `dataset` and whose `env`
    is that id; so too where own steps are to be mixed with a dataset that no recipe mixes. Where there is none of that
    id, it is one that mixes and names neither: what an algorithm that lives by both wants everywhere. Of several, it is
    the one with the shortest name.

    Args:
        algo: the algorithm.
        dataset: its name; None learns from own steps alone.
        env: a Gymnasium id.
        mixed: whether a share of the dataset is asked for, beside own steps.
    """
    # Other packages' algorithms have none, whatever is in their names.
    recipes = bundled_recipes(algo) if algo in plugins.algorithms else []
    meant: list[RecipeFile] = []
    if dataset:
        fit = [recipe for recipe in recipes if not mixed or recipe.mixes]
        named = [recipe for recipe in fit if recipe.values.get("dataset") == dataset]
        meant = named or [recipe for recipe in fit if recipe.is_general]
    if not meant and env and (mixed or not dataset):
        online = [recipe for recipe in recipes if "dataset" not in recipe.values and recipe.values.get("env") == env]
        meant = online or [recipe for recipe in recipes if recipe.is_general and recipe.mixes]
    return min(meant, key=lambda recipe: len(recipe.name), default=None)


def values_for(algo: str, name: str | None, changes: Mapping[str, Any]) -> tuple[dict[str, Any], RecipeFile | None]:
    """A recipe's plain values for a task, for `offrl.config.recipe.recipe_from_dict`, and the file that they begin as.

    Args:
        algo: the algorithm.
        name: of a recipe to begin with; None takes the bundled one that matches, or else the algorithm's defaults.
        changes: dotted keys to values, as `offrl.config.recipe.merged` takes them.

    Raises:
        RequestError: the named recipe is for another algorithm.
        RecipeError: there is no such recipe, or a key is below something that isn't a table.
    """
    found = find_recipe(name) if name else _match(algo, changes)
    if found is not None and found.values.get("algo") != algo:
        raise RequestError(
            f"the recipe '{found.name}' is for {found.values.get('algo')}, not for {algo}",
            where=str(found.path),
            hint=f"offrl recipes run {found.name}, or choose another recipe",
        )
    return merged(found.values if found else {"algo": algo}, changes), found


def _match(algo: str, changes: Mapping[str, Any]) -> RecipeFile | None:
    """The bundled recipe that is meant for the task that the changes name."""
    asked = merged({}, changes)
    online = asked.get("online")
    mixed = isinstance(online, Mapping) and bool(online.get("offline_fraction") or online.get("offline_fraction_end"))
    return matching_recipe(algo, asked.get("dataset"), asked.get("env"), mixed)
