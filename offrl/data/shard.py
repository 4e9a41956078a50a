"""Shards as Arrow files: rows and episode tables, written whole, and mapped into memory to be read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from offrl.data.schema import ColumnSpec
from offrl.errors import CorruptStoreError
from offrl.files import whole_file

HINT = "restore the file from a copy, or remove the dataset and make or convert it again"


def write_rows(path: Path, columns: Sequence[ColumnSpec], arrays: Mapping[str, NDArray[Any]]) -> tuple[int, str]:
    """Write one shard of rows as an Arrow IPC file with a single record batch; returns its size and SHA-256."""
    schema = pa.schema([_field(column) for column in columns])
    return _write_batch(path, pa.record_batch([to_arrow(arrays[column.name]) for column in columns], schema=schema))


def write_episodes(path: Path, columns: Mapping[str, NDArray[Any]], sources: Sequence[str | None]) -> tuple[int, str]:
    """Write one shard's episode table, likewise; `columns` maps first_row, length, return and seed to [episodes]."""
    arrays = [to_arrow(columns[column.name].astype(column.dtype, copy=False)) for column in EPISODE_COLUMNS]
    return _write_batch(path, pa.record_batch([*arrays, pa.array(sources, pa.string())], schema=_EPISODE_SCHEMA))


def _write_batch(path: Path, batch: pa.RecordBatch) -> tuple[int, str]:
    with whole_file(path) as file:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        return file.size, file.sha256


def _arrow_dtype(dtype: np.dtype[Any]) -> pa.DataType:
    # Arrow packs booleans into bits, which NumPy can't view: they are stored as bytes.
    return pa.uint8() if dtype == np.bool_ else pa.from_numpy_dtype(dtype)


def _field(column: ColumnSpec) -> pa.Field:
    scalar = _arrow_dtype(column.dtype)
    size = int(np.prod(column.shape))
    metadata = {"dtype": column.dtype.name, "shape": ",".join(map(str, column.shape))}
    return pa.field(column.name, pa.list_(scalar, size) if column.shape else scalar, nullable=False, metadata=metadata)


EPISODE_COLUMNS = (
    ColumnSpec("first_row", np.dtype(np.int64), ()),
    ColumnSpec("length", np.dtype(np.int64), ()),
    ColumnSpec("return", np.dtype(np.float64), ()),
    ColumnSpec("seed", np.dtype(np.int64), ()),
)
_EPISODE_SCHEMA = pa.schema([*map(_field, EPISODE_COLUMNS), pa.field("source", pa.string())])


def to_arrow(array: NDArray[Any]) -> pa.Array:
    """An Arrow array over the same memory; Arrow's own constructor imports pandas first, if that is installed."""
    flat = np.ascontiguousarray(array).reshape(-1)
    scalars = pa.Array.from_buffers(_arrow_dtype(array.dtype), len(flat), [None, pa.py_buffer(flat)])
    if array.ndim == 1:
        return scalars
    return pa.FixedSizeListArray.from_arrays(scalars, type=pa.list_(scalars.type, int(np.prod(array.shape[1:]))))


def map_rows(path: Path, columns: Sequence[ColumnSpec], rows: int) -> dict[str, NDArray[Any]]:
    """Read-only arrays over the memory map of one shard: column name to [rows, ...].

    Raises:
        CorruptStoreError: the file isn't there, or isn't what the metadata says.
    """
    return _mapped(path, pa.schema([_field(column) for column in columns]), columns, rows)[0]


def map_episodes(path: Path, episodes: int) -> tuple[dict[str, NDArray[Any]], pa.Array]:
    """The numeric columns of one shard's episode table, over its memory map, and its sources.

    Raises:
        CorruptStoreError: the file isn't there, or isn't what the metadata says.
    """
    columns, batch = _mapped(path, _EPISODE_SCHEMA, EPISODE_COLUMNS, episodes)
    return columns, batch.column("source")


def misalignment(lengths: NDArray[np.int64], first_rows: NDArray[np.int64], rows: int, first_row: int) -> str | None:
    """How the episode table of a shard doesn't fit the shard's rows, if it doesn't.

    Args:
        lengths: int64 [episodes]: transitions.
        first_rows: int64 [episodes]: by position in the store.
        rows: of the shard.
        first_row: of the shard, by position in the store.
    """
    if (lengths < 1).any():
        return "an episode has no transitions"
    # None is longer than the shard, so that the sum can't overflow.
    total = int((np.minimum(lengths, rows) + 1).sum())
    if total != rows:
        return f"the lengths in the episode table add up to {total} rows, the shard has {rows}"
    if not np.array_equal(first_rows, np.cumsum(lengths + 1) - (lengths + 1) + first_row):
        return "the episodes' first rows aren't back to back"
    return None


def _mapped(
    path: Path, schema: pa.Schema, columns: Sequence[ColumnSpec], rows: int
) -> tuple[dict[str, NDArray[Any]], pa.RecordBatch]:
    """The columns that a schema begins with, as arrays over the file's memory map, and the batch that they are in."""
    try:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        found, wanted = ([f"{field.name}: {field.type}" for field in each] for each in (batch.schema, schema))
        if batch.num_rows != rows or found != wanted:
            raise ValueError(f"it has {batch.num_rows} rows of {found}, {rows} of {wanted} are expected")
        views = {}
        for column, array in zip(columns, batch.columns, strict=False):
            # The last buffer holds the numbers; those before it say which are null, and none is.
            count = rows * math.prod(column.shape)
            values = np.frombuffer(array.buffers()[-1], dtype=column.dtype, count=count)
            views[column.name] = values.reshape(rows, *column.shape)
        return views, batch
    # A damaged file can fail anywhere: its names needn't be text any more, nor its types exist.
    except (OSError, pa.ArrowException, ValueError, IndexError) as error:
        raise CorruptStoreError(
            f"the file can't be read as an Arrow file of this store ({error})", where=str(path), hint=HINT
        ) from error


def check_size(path: Path, expected: int) -> None:
    """The cheap check made whenever a store is opened.

    Raises:
        CorruptStoreError: the file is missing or its length isn't what was committed.
    """
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise CorruptStoreError(
            "a file of the store is missing",
            where=str(path),
            hint=HINT,
        ) from None
    if size != expected:
        raise CorruptStoreError(
            f"the file has {size} bytes, {expected} were committed: it was cut short or changed",
            where=str(path),
            hint=HINT,
        )
