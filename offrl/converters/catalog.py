"""Datasets by name: bundled, local, a path, or `minari:<id>` and `d4rl:<id>`."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from offrl.config.bundled import bundled_root
from offrl.data.metadata_file import METADATA_FILE
from offrl.data.parquet import EPISODES_FILE, STEPS_FILE, content_of, unpack_parquet
from offrl.data.store import TrajectoryStore
from offrl.data.store_folder import require_store_or_nothing
from offrl.errors import DataError, DatasetNotFoundError, RequestError, StoreError
from offrl.files import home, whole_folder

REMOTE = ("d4rl:", "minari:")
"""What the names of datasets that live elsewhere begin with."""


def local_path(name: str) -> Path:
    """Where the local dataset of that name is, or would be."""
    return home() / "stores" / name


def store_path(name: str | os.PathLike[str]) -> Path:
    """Where a new dataset goes: a bare name to the local datasets, a path (with a separator in it) as it is."""
    text = os.fspath(name)
    if not isinstance(name, str) or os.sep in text or text in (os.curdir, os.pardir):
        return Path(text).expanduser()
    return local_path(text)


def new_store_path(name: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """The same, where nothing must be yet, or a store that may be replaced.

    Raises:
        RequestError: something is there.
    """
    path = store_path(name)
    require_store_or_nothing(path, overwrite=overwrite)
    return path


def open_dataset(name: str | os.PathLike[str]) -> TrajectoryStore:
    """Open a dataset, unpacking or converting it first where it isn't a store yet.

    A path is taken as it is: a store, a folder that `offrl datasets export --format parquet` wrote, or a source that
    converts without questions. A bare name is a local dataset or else a bundled one. What is unpacked or converted is
    kept in the cache, under the content's or the file's identity, and made once.

    Args:
        name: a name, a path, `minari:<id>` or `d4rl:<id>`.

    Raises:
        DatasetNotFoundError: nothing goes by that name, and nothing could be fetched.
        OffrlError: it can't be opened, unpacked or converted; see the message.
    """
    text = os.fspath(name)
    if text.startswith(REMOTE):
        from offrl.converters.remote import locate

        located = locate(text)
        return _cached(_file_identity(located.path), lambda destination: _convert(text, destination))
    found = _find(text)
    if found is None:
        raise _not_found(text)
    path = found.path
    match found.kind:
        case "store":
            return TrajectoryStore.open(path)
        case "parquet":
            return _cached(_content_identity(path), lambda destination: unpack_parquet(path, destination))
        case "source":
            return _cached(_file_identity(path), lambda destination: _convert(text, destination))


def name_anywhere(name: str) -> str:
    """A dataset's name such that `open_dataset` opens the same in every working directory: paths become absolute."""
    found = None if name.startswith(REMOTE) else _find(name)
    return str(found.path.resolve()) if found is not None and found.by_path else name


def name_of(dataset: str | os.PathLike[str] | TrajectoryStore) -> str:
    """What `open_dataset` opens a dataset by; of an open one its name, where that leads to it, or else its path."""
    if not isinstance(dataset, TrajectoryStore):
        return os.fspath(dataset)
    store, name = dataset, dataset.metadata.name or ""
    found = None if name.startswith(REMOTE) else _find(name)
    if found is not None and not found.by_path:
        kept = found.path if found.kind == "store" else home() / "datasets" / _content_identity(found.path)
        if kept.resolve() == store.path.resolve():
            return name
    return str(store.path.resolve())


@dataclass(frozen=True)
class _Found:
    """What a name leads to: where it lies, what it is, and whether the name was its path."""

    path: Path
    kind: Literal["store", "parquet", "source"]
    by_path: bool


def _find(text: str) -> _Found | None:
    """What a path or a bare name leads to: a store goes before Parquet files, and a source that converts comes last."""
    path, local, bundled = Path(text).expanduser(), local_path(text), bundled_root() / "datasets" / text
    if not text:
        return None
    if (path / METADATA_FILE).is_file():
        return _Found(path, "store", by_path=True)
    if (local / METADATA_FILE).is_file():
        return _Found(local, "store", by_path=False)
    if is_parquet_dataset(path):
        return _Found(path, "parquet", by_path=True)
    if is_parquet_dataset(bundled):
        return _Found(bundled, "parquet", by_path=False)
    return _Found(path, "source", by_path=True) if path.is_file() or _is_source_folder(path) else None


def _is_source_folder(path: Path) -> bool:
    if not path.is_dir():
        return False
    from offrl.converters.formats import detect

    try:
        detect(path)
    except RequestError:
        return False
    return True


def is_parquet_dataset(folder: Path) -> bool:
    """Whether a folder holds the files that `write_parquet` writes."""
    return (folder / STEPS_FILE).is_file() and (folder / EPISODES_FILE).is_file()


def _cached(identity: str, make: Callable[[Path], object]) -> TrajectoryStore:
    """The store of that identity in the cache, made whole under a temporary name if it isn't there yet."""
    destination = home() / "datasets" / identity
    if not (destination / METADATA_FILE).is_file():
        try:
            with whole_folder(destination) as folder:
                make(folder)
        except (RequestError, StoreError):
            # Another process may have been first.
            if not (destination / METADATA_FILE).is_file():
                raise
    return TrajectoryStore.open(destination)


def _convert(source: str, destination: Path) -> None:
    """Convert a source that leaves nothing open; what it leaves open can be said to `offrl convert` only."""
    from offrl.converters.conversion import convert

    try:
        convert(source, destination, name=source if source.startswith(REMOTE) else Path(source).stem)
    except (RequestError, DataError) as error:
        behind = f"; there, {error.hint}" if error.hint else ""
        hint = f"convert it first: offrl convert {source} NAME …, then give that name (--dataset NAME){behind}"
        raise type(error)(error.what, where=error.where, hint=hint) from error


def _content_identity(folder: Path) -> str:
    return f"{folder.name}-{content_of(folder)[:16]}"


def _file_identity(path: Path) -> str:
    """Of a file or folder by where it is, how large it is and when it was last changed.

    The time of modification can be set, as `cp -p`, `tar` and `rsync` do; the time of the change that did so can't.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    facts = [
        (str(file.resolve()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        for file in files
        for found in [file.stat()]
    ]
    return f"{path.stem}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"


def _not_found(name: str) -> DatasetNotFoundError:
    if (bundled_root() / "recipes" / "datasets" / f"{name}.toml").is_file():
        return DatasetNotFoundError(
            f"the dataset '{name}' doesn't come with offrl, but its recipe does",
            hint=f"make it, which may train for hours: offrl datasets make {name}",
        )
    from offrl.converters.listing import list_datasets

    known = [entry.name for entry in list_datasets()]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return DatasetNotFoundError(
        f"there is no dataset '{name}'",
        hint=f"{meant}offrl datasets list shows the names; a path, minari:<id> or d4rl:<id> will do as well",
    )
