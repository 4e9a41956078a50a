"""Recipes by name: those that come with offrl, and files of your own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl.bundled import bundled_root
from offrl.errors import RecipeError
from offrl.recipes import load_recipe


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as it stands in its file, not validated yet.

    Attributes:
        name: `<algo>/<task>` for bundled recipes, the path for others.
        path: the TOML file.
        values: its plain values, for `offrl.recipes.recipe_from_dict`.
    """

    name: str
    path: Path
    values: dict[str, Any]

    @property
    def purpose(self) -> str:
        """The first line of the comment that the file starts with; empty if it starts with none."""
        first = self.path.read_text(encoding="utf-8").partition("\n")[0]
        return first.lstrip("# ").strip() if first.startswith("#") else ""


def bundled_recipes() -> list[RecipeFile]:
    """Every recipe that comes with offrl, by name."""
    root = bundled_root() / "recipes"
    return [_read(path, f"{path.parent.name}/{path.stem}") for path in sorted(root.glob("*/*.toml"))]


def find_recipe(name: str) -> RecipeFile:
    """A recipe by its bundled name (`bc/hopper`) or its path.

    Raises:
        RecipeError: there is no such recipe, or it isn't TOML.
    """
    bundled = bundled_root() / "recipes" / f"{name}.toml"
    if name.count("/") == 1 and bundled.is_file():
        return _read(bundled, name)
    path = Path(name)
    if path.is_file():
        return _read(path, name)
    known = ", ".join(recipe.name for recipe in bundled_recipes())
    raise RecipeError(
        f"there is no recipe '{name}'", mend=f"give the path of a TOML file, or one of the bundled recipes: {known}"
    )


def matching_recipe(algo: str, dataset: str | None, env: str | None) -> RecipeFile | None:
    """The bundled recipe of an algorithm that is meant for a task.

    With a dataset, it is the one whose `dataset` is that name. Without, it is the one that has no `dataset` and whose
    `env` is that id.
    """
    for recipe in bundled_recipes():
        values = recipe.values
        meant = values.get("dataset") == dataset if dataset else "dataset" not in values and values.get("env") == env
        if values.get("algo") == algo and meant and (dataset or env):
            return recipe
    return None


def _read(path: Path, name: str) -> RecipeFile:
    return RecipeFile(name, path, load_recipe(path))
