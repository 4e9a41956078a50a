"""The datasets there are: bundled ones, local ones, and those that recipes make."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offrl.config.bundled import bundled_root
from offrl.converters.catalog import is_parquet_dataset
from offrl.data.parquet import count_rows, read_metadata
from offrl.data.store import CARD_FILE, TrajectoryStore
from offrl.errors import OffrlError
from offrl.files import home


@dataclass(frozen=True)
class DatasetEntry:
    """What `offrl datasets list` says of a dataset.

    Attributes:
        name: as `open_dataset` takes it.
        kind: "bundled" or "local"; or "recipe", for one that isn't there yet.
        path: the folder of Parquet files, or of the store; the recipe's file.
        environment: the Gymnasium id, if there is one.
        episodes, steps: how many; None where it isn't there yet.
        card: its `card.toml`; empty where there is none. Of a recipe, what it is for, as `description`.
    """

    name: str
    kind: str
    path: Path
    environment: str | None
    episodes: int | None
    steps: int | None
    card: dict[str, Any] = field(default_factory=dict)


def list_datasets() -> list[DatasetEntry]:
    """Bundled datasets, then local ones, each by name; nothing is unpacked, and stores that don't open are left out."""
    bundled = [folder for folder in _folders(bundled_root() / "datasets") if is_parquet_dataset(folder)]
    return [
        *(_bundled_entry(folder) for folder in bundled),
        *(entry for folder in _folders(home() / "stores") if (entry := _local_entry(folder)) is not None),
    ]


def recipe_entries(known: Collection[str]) -> list[DatasetEntry]:
    """The datasets that bundled recipes make, but for those that are known already."""
    from offrl.config.library import bundled_dataset_recipes

    recipes = [recipe for recipe in bundled_dataset_recipes() if recipe.name not in known]
    return [
        DatasetEntry(each.name, "recipe", each.path, None, None, None, {"description": each.purpose})
        for each in recipes
    ]


def read_card(folder: Path) -> dict[str, Any]:
    """The `card.toml` beside a dataset's files; empty where there is none."""
    path = folder / CARD_FILE
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _bundled_entry(folder: Path) -> DatasetEntry:
    episodes, steps = count_rows(folder)
    metadata = read_metadata(folder)
    return DatasetEntry(folder.name, "bundled", folder, metadata.environment, episodes, steps, read_card(folder))


def _local_entry(folder: Path) -> DatasetEntry | None:
    try:
        store = TrajectoryStore.open(folder)
    except OffrlError:
        return None
    environment = store.metadata.environment
    return DatasetEntry(
        folder.name, "local", folder, environment, store.num_episodes, store.num_steps, read_card(folder)
    )


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
