"""Minari's Arrow and Parquet datasets: a folder per episode, T + 1 rows in each, of which actions and flags use T."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from offrl.data.convert.episodes import BlockBuilder
from offrl.data.convert.minari_parts import (
    Layout,
    Leaf,
    Part,
    can_hold,
    decode_image,
    fill_missing,
    info_leaf,
    leaf_of,
)
from offrl.data.convert.report import Chunk, Log
from offrl.errors import DataError, SourceError

_MEND = "fetch the dataset again, or write it again with minari"


def tuple_key(index: int) -> str:
    """How a position in a Tuple space is named in the file."""
    return str(index)


def read_layout(folder: Path, parts: list[Part], mapping: Mapping[str, str], log: Log) -> Layout:
    """Find the episodes, and what the first of them holds.

    Raises:
        SourceError: there are no episodes, or the first can't be read or lacks a part.
    """
    numbers = sorted(int(item.name) for item in folder.iterdir() if item.is_dir() and item.name.isdigit())
    if not numbers:
        raise SourceError("there are no episodes", where=str(folder), mend="give a dataset with at least one")
    table = _read_table(folder / str(numbers[0]))
    leaves = [leaf_of(part, _stored_dtype(table, part.keys, folder)) for part in parts]
    if "infos" in table.column_names:
        found = _info_leaves(("infos",), table.schema.field("infos"), table.num_rows - 1, mapping, log)
        leaves += [leaf for leaf in found if leaf is not None]
    return Layout(leaves, numbers)


def _read_table(folder: Path) -> pa.Table:
    """All rows of one episode."""
    files = sorted((f for f in folder.iterdir() if f.suffix in (".arrow", ".parquet")), key=_part_number)
    if not files:
        raise SourceError("the episode has no data file", where=str(folder), mend=_MEND)
    try:
        return pa.concat_tables([_read_file(file) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"the episode's data can't be read ({str(error).strip().splitlines()[0]})", where=str(folder), mend=_MEND
        ) from error


def _part_number(file: Path) -> tuple[int, str]:
    digits = file.stem.rpartition("-")[2]
    return (int(digits) if digits.isdigit() else 0, file.name)


def _read_file(file: Path) -> pa.Table:
    if file.suffix == ".parquet":
        return pq.ParquetFile(file).read()
    # Files are small and many: reading one costs less than mapping it.
    return pa.ipc.open_file(pa.py_buffer(file.read_bytes())).read_all()


def _find(table: pa.Table, keys: tuple[str, ...]) -> pa.Array | None:
    """The array at the end of nested structs; None where there is none."""
    if keys[0] not in table.column_names:
        return None
    chunked = table.column(keys[0])
    array = chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()
    for key in keys[1:]:
        index = array.type.get_field_index(key) if pa.types.is_struct(array.type) else -1
        if index < 0:
            return None
        array = array.field(index)
    return array


def _scalar_type(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        kind = kind.value_type
    return kind


def _numpy_dtype(kind: pa.DataType) -> np.dtype[Any]:
    scalar = _scalar_type(kind)
    known = pa.types.is_boolean(scalar) or pa.types.is_integer(scalar) or pa.types.is_floating(scalar)
    dtype: np.dtype[Any] = np.dtype(scalar.to_pandas_dtype() if known else object)
    return dtype


def _stored_dtype(table: pa.Table, keys: tuple[str, ...], folder: Path) -> np.dtype[Any]:
    array = _find(table, keys)
    if array is None:
        raise SourceError(
            f"the first episode has no '{'/'.join(keys)}', which the spaces call for", where=str(folder), mend=_MEND
        )
    return _numpy_dtype(array.type)


def _info_leaves(
    keys: tuple[str, ...], field: pa.Field, steps: int, mapping: Mapping[str, str], log: Log
) -> Iterator[Leaf | None]:
    if pa.types.is_struct(field.type):
        for index in range(field.type.num_fields):
            child = field.type.field(index)
            yield from _info_leaves((*keys, child.name), child, steps, mapping, log)
        return
    size = (field.type.list_size,) if pa.types.is_fixed_size_list(field.type) else ()
    said = (field.metadata or {}).get(b"shape")
    shape = tuple(int(n) for n in said.split(b",") if n) if said is not None else size
    yield info_leaf(keys, _numpy_dtype(field.type), (steps + 1, *shape), steps, mapping, log)


def chunks(folder: Path, layout: Layout, label: str, log: Log) -> Iterator[Chunk]:
    """Read all episodes in order.

    Raises:
        SourceError: an episode can't be read, or lacks a part.
        DataError: an array has another length or dtype than it should.
    """
    builder = BlockBuilder(layout.columns, lambda number: f"episode {number}", label)
    for number in layout.numbers:
        episode = folder / str(number)
        table = _read_table(episode)
        steps = table.num_rows - 1
        if steps < 1:
            raise DataError("the episode has no steps", where=str(episode), mend=_MEND)
        if not builder.has_room(steps):
            yield builder.take()
        rows = builder.begin(number, steps, _seed(episode, log))
        for leaf in layout.leaves:
            _fill(rows[leaf.column], table, leaf, episode, log)
    yield builder.take()


def _fill(out: NDArray[Any], table: pa.Table, leaf: Leaf, episode: Path, log: Log) -> None:
    array = _find(table, leaf.keys)
    if array is None:
        if not leaf.optional:
            raise SourceError(f"the episode has no '{leaf.name}'", where=str(episode), mend=_MEND)
        fill_missing(out)
        log.warn(f"episodes without '{leaf.name}' get NaN, or 0 where it holds whole numbers", 1, str(episode))
    elif leaf.jpeg:
        for row in range(len(out)):
            out[row] = decode_image(array[row].as_py()).reshape(leaf.info.shape)
    else:
        out[...] = _values(array, leaf, episode)[: len(out)]


def _values(array: pa.Array, leaf: Leaf, episode: Path) -> NDArray[Any]:
    flat = array
    while pa.types.is_fixed_size_list(flat.type) or pa.types.is_list(flat.type):
        flat = flat.flatten()
    expected = len(array) * math.prod(leaf.info.shape)
    found = _numpy_dtype(flat.type)
    if flat.null_count or len(flat) != expected or not can_hold(leaf.info.dtype, found):
        raise DataError(
            f"'{leaf.name}' holds {len(flat) - flat.null_count} values of {flat.type}, "
            f"{expected} of {leaf.info.dtype} are expected",
            where=str(episode),
            mend=f"leave it out with --map {leaf.column}=" if leaf.optional else _MEND,
        )
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(array), *leaf.info.shape)


def _seed(episode: Path, log: Log) -> int:
    try:
        seed = json.loads((episode / "metadata.json").read_text(encoding="utf-8")).get("seed")
    except (OSError, ValueError):
        return -1
    if not isinstance(seed, int):
        return -1
    if seed > np.iinfo(np.int64).max:
        log.note("seeds of 2^63 and more can't be recorded: they are marked unknown")
        return -1
    return seed
