"""The datasets there are: bundled ones, local ones, and those that recipes make."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offrl.config.bundled import bundled_root
from offrl.converters.catalog import is_parquet_dataset
from offrl.data.metadata_file import METADATA_FILE
from offrl.data.parquet import count_rows, read_metadata
from offrl.data.store import TrajectoryStore
from offrl.data.store_folder import CARD_FILE
from offrl.documents import read_toml
from offrl.errors import OffrlError, SourceError
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
        error: why the dataset can't be opened, or its card not be read; None where all is well.
    """

    name: str
    kind: str
    path: Path
    environment: str | None
    episodes: int | None
    steps: int | None
    card: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def list_datasets() -> list[DatasetEntry]:
    """Bundled datasets, then local ones, each by name; nothing is unpacked, and what doesn't open says why."""
    bundled = [folder for folder in _folders(bundled_root() / "datasets") if is_parquet_dataset(folder)]
    local = [folder for folder in _folders(home() / "stores") if os.path.lexists(folder / METADATA_FILE)]
    return [
        *(_entry(folder, "bundled", _count_bundled) for folder in bundled),
        *(_entry(folder, "local", _count_local) for folder in local),
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
    """The `card.toml` beside a dataset's files; empty where there is none.

    Raises:
        SourceError: it can't be read.
    """
    path = folder / CARD_FILE
    try:
        return read_toml(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise SourceError(f"the card can't be read ({error})", where=str(path), hint="correct the file") from error


def _entry(folder: Path, kind: str, count: Callable[[Path], tuple[str | None, int, int]]) -> DatasetEntry:
    """What is known of a dataset; whatever is wrong with it is said of it, and keeps no other from being listed."""
    facts: tuple[str | None, int | None, int | None] = (None, None, None)
    card: dict[str, Any] = {}
    wrong: list[str] = []
    try:
        facts = count(folder)
    except (OffrlError, OSError) as error:
        wrong.append(_in_short(error))
    try:
        card = read_card(folder)
    except SourceError as error:
        wrong.append(_in_short(error))
    return DatasetEntry(folder.name, kind, folder, *facts, card, "; ".join(wrong) or None)


def _in_short(error: OffrlError | OSError) -> str:
    return error.what if isinstance(error, OffrlError) else str(error)


def _count_bundled(folder: Path) -> tuple[str | None, int, int]:
    return (read_metadata(folder).environment, *count_rows(folder))


def _count_local(folder: Path) -> tuple[str | None, int, int]:
    store = TrajectoryStore.open(folder)
    return store.metadata.environment, store.num_episodes, store.num_steps


def _folders(root: Path) -> list[Path]:
    """Those in a folder but for hidden ones, which are being written."""
    found = root.iterdir() if root.is_dir() else ()
    return sorted(path for path in found if path.is_dir() and not path.name.startswith("."))
