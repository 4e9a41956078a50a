"""D4RL files: HDF5 with one row per transition and flags for its ends (Fu et al., 2020)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from offrl.converters.boundary_columns import point_at
from offrl.converters.field_mapping import assign_fields
from offrl.converters.formats import Format
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.flagged_arrays import flagged_source
from offrl.converters.report import Log
from offrl.converters.source import Source
from offrl.errors import SourceError

if TYPE_CHECKING:
    import h5py

_METADATA = "metadata"
_LONGEST_TEXT = 1000


def open_d4rl(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand a D4RL file.

    Raises:
        SourceError: it can't be read, or a required key is missing.
        DataError: its arrays have different lengths.
        RequestError: it has no timeouts and no time limit was given.
    """
    from offrl.converters.readers.hdf5 import Hdf5Rows, list_arrays, open_hdf5

    with open_hdf5(path, options.max_expansion) as file:
        if "episode_0" in file:
            raise SourceError(
                "this is the data file of a Minari dataset",
                where=str(path),
                hint="give the dataset's folder, the one that holds 'data'",
            )
        available, lengths = list_arrays(file)
        provenance = _provenance(file, log)
    keys, rows = assign_fields(available, lengths, options.mapping, where=str(path), log=log, ignored=(_METADATA,))
    columns = {name: info for name, key in keys.items() if (info := available[key])}
    return flagged_source(
        Hdf5Rows(path, keys, columns, rows),
        path,
        options,
        log,
        terminal_may_be_limit=False,
        provenance=provenance,
        pointer=point_at(available, keys.values()),
    )


def _provenance(file: h5py.File, log: Log) -> dict[str, Any]:
    """What stands under `metadata`: texts and numbers as they are, arrays (the policy's weights) by name only."""
    import h5py

    if not isinstance(file.get(_METADATA), h5py.Group):
        return {}
    said: dict[str, Any] = {}
    arrays: list[str] = []

    def visit(key: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.ndim or (value := _plain(item[()])) is None:
            arrays.append(key)
        else:
            said[key] = value

    file[_METADATA].visititems(visit)
    if arrays:
        log.note(
            f"{len(arrays)} arrays under '{_METADATA}' are no rows (such as the behavior policy's weights): not copied"
        )
        said["arrays_not_copied"] = arrays
    return {_METADATA: said}


def _plain(value: Any) -> str | int | float | bool | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value[:_LONGEST_TEXT]
    number = getattr(value, "item", lambda: None)()
    return number if isinstance(number, (bool, int, float)) else None


FORMAT = Format("D4RL: HDF5, one row per transition", open_d4rl, suffixes=(".hdf5", ".h5"), magic=b"\x89HDF\r\n\x1a\n")
