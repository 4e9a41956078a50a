"""The file that says what a store is: read with a look at whether it is as it was written, and replaced whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from offrl.data.schema import StoreMetadata
from offrl.data.shard import HINT
from offrl.documents import read_json
from offrl.errors import CorruptStoreError, DatasetNotFoundError, StoreError
from offrl.files import write_whole

METADATA_FILE = "metadata.json"


def read_metadata(folder: Path) -> StoreMetadata:
    """What a store says of itself.

    Raises:
        DatasetNotFoundError: there is no store in the folder.
        SchemaVersionError: another version of offrl wrote it.
        CorruptStoreError: it can't be understood, or has been changed.
    """
    path = folder / METADATA_FILE
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetNotFoundError(
            "there is no trajectory store here" if folder.exists() else "there is no such folder",
            where=str(folder),
            hint=f"give the folder that holds {METADATA_FILE}, or convert a source to one with 'offrl convert'",
        ) from None
    except OSError as error:
        raise StoreError(f"the store can't be read ({error.strerror})", where=str(path)) from error
    except ValueError as error:
        raise CorruptStoreError(f"the store's metadata isn't JSON ({error})", where=str(path), hint=HINT) from error
    metadata = StoreMetadata.from_json(value, str(path))
    if value.get("fingerprint") != metadata.fingerprint:
        raise CorruptStoreError(
            "the store's fingerprint isn't that of its spaces, columns, shards and statistics: the metadata has been "
            "changed",
            where=str(path),
            hint=HINT,
        )
    # Version 0.1.0 wrote none.
    checksum = value.pop("checksum", None)
    if checksum != _checksum(value) and (checksum is not None or metadata.fingerprint_version > 1):
        raise CorruptStoreError(
            "the checksum of the store's metadata isn't the one that was written: it has been changed",
            where=str(path),
            hint=HINT,
        )
    return metadata


def _checksum(value: dict[str, Any]) -> str:
    """Of all that the metadata says, its own checksum aside."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def write_metadata(folder: Path, metadata: StoreMetadata) -> None:
    """Replace what a store says of itself.

    Raises:
        DiskFullError: there is no room; what was there before still is.
        StoreError: the provenance or the reference scores aren't JSON values, or the file can't be written.
    """
    path = folder / METADATA_FILE
    try:
        value = metadata.to_json()
        text = json.dumps(value | {"checksum": _checksum(value)}, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"the provenance or the reference scores aren't JSON values ({error})",
            where=str(path),
            hint="give text, finite numbers, lists and dictionaries",
        ) from error
    write_whole(path, text)
