"""The folder of a store: what may lie in it, who may write to it, and what of it is offrl's to remove."""

from __future__ import annotations

import os
import re
from pathlib import Path

from offrl.data.metadata_file import METADATA_FILE
from offrl.data.schema import StoreMetadata
from offrl.errors import RequestError, StoreError
from offrl.files import naming, own_folder, remove_leftovers, take_lock

CARD_FILE = "card.toml"
"""What may lie beside a store's own files, and goes with it."""
_LOCK_FILE = "lock"
_FOLDERS = ("shards", "episodes")
_SHARD_FILE = re.compile(r"\d{5,}\.arrow")


def prepare_folder(folder: Path, append: bool) -> bool:
    """Make the folders; says whether a store is there to append to.

    Raises:
        StoreError: there is a store already, and none is to be appended to; something else is there; a folder in it is
            a link.
    """
    exists = (folder / METADATA_FILE).exists()
    if exists and not append:
        raise StoreError("there is a store here already", where=str(folder), hint="give another path, or append to it")
    with naming(folder):
        remove_leftovers(folder)
        foreign = foreign_names(folder) if folder.exists() and not exists else []
        folder.mkdir(parents=True, exist_ok=True)
    if foreign:
        raise StoreError(
            f"the folder isn't empty and isn't a store: it holds '{foreign[0]}'",
            where=str(folder),
            hint="give a path where nothing is yet",
        )
    for name in _FOLDERS:
        own_folder(folder / name)
    return exists


def foreign_names(folder: Path) -> list[str]:
    """What lies in a folder and is no part of a store."""
    return sorted(set(os.listdir(folder)) - {*_FOLDERS, _LOCK_FILE, METADATA_FILE, CARD_FILE})


def require_store_or_nothing(dest: Path, *, overwrite: bool) -> None:
    """Raise `RequestError` unless a store may be written here: nothing is here, or a store that may be replaced.

    What a killed writer was replacing is given back first.
    """
    remove_leftovers(dest.parent)
    remove_leftovers(dest)
    if not os.path.lexists(dest):
        return
    if not overwrite:
        raise RequestError("the destination exists", where=str(dest), hint="give another name, or say --overwrite")
    if not (dest / METADATA_FILE).is_file():
        raise RequestError(
            "only a store is overwritten, and this isn't one",
            where=str(dest),
            hint="give another name, or move it away",
        )
    # A link goes, and what is behind it stays.
    if not dest.is_symlink() and (foreign := foreign_names(dest)):
        raise RequestError(
            f"the store's folder holds something else too, '{foreign[0]}', which would be lost",
            where=str(dest),
            hint="give another name, or move that away",
        )


def lock_store(folder: Path) -> int:
    """Keep other processes from writing to a store; closing the descriptor gives it back.

    Raises:
        StoreError: another process is writing to it.
    """
    descriptor = take_lock(folder / _LOCK_FILE)
    if descriptor is None:
        raise StoreError(
            "another process is writing to the store", where=str(folder), hint="wait until it has finished"
        )
    return descriptor


def remove_unnamed_shards(folder: Path, metadata: StoreMetadata) -> None:
    """Remove what a killed writer had written and not yet named in the metadata."""
    named = {file for shard in metadata.shards for file in (shard.rows_file, shard.episodes_file)}
    for name in _FOLDERS:
        with naming(folder / name):
            remove_leftovers(folder / name)
            for path in (folder / name).iterdir():
                if _SHARD_FILE.fullmatch(path.name) and f"{name}/{path.name}" not in named:
                    path.unlink()
