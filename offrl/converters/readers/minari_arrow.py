"""Minari's Arrow and Parquet datasets: a folder per episode, T + 1 rows in each, of which actions and flags use T."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from offrl.converters.expansion import check_expansion, parquet_bytes
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.block_builder import BlockBuilder
from offrl.converters.readers.minari_layout import (
    Layout,
    Leaf,
    Part,
    can_hold,
    decode_image,
    fill_missing,
    info_leaf,
    leaf_of,
)
from offrl.converters.report import Chunk, Log
from offrl.documents import parse_json
from offrl.errors import DataError, SourceError

_HINT = "fetch the dataset again, or write it again with minari"


def tuple_key(index: int) -> str:
    """How a position in a Tuple space is named in the file."""
    return str(index)


def read_layout(folder: Path, parts: list[Part], options: ConvertOptions, log: Log) -> Layout:
    """Find the episodes, and what the first of them holds.

    Raises:
        SourceError: there are no episodes, or the first can't be read or lacks a part.
    """
    numbers = sorted(int(item.name) for item in folder.iterdir() if item.is_dir() and item.name.isdigit())
    if not numbers:
        raise SourceError("there are no episodes", where=str(folder), hint="give a dataset with at least one")
    first = _read_episode(f"{folder}/{numbers[0]}", _Memory(options.max_expansion))
    leaves = [leaf_of(part, _stored_dtype(first.schema, part.keys, folder)) for part in parts]
    if "infos" in first.schema.names:
        found = _info_leaves(("infos",), first.schema.field("infos"), first.num_rows - 1, options.mapping, log)
        leaves += [leaf for leaf in found if leaf is not None]
    return Layout(leaves, numbers, options.max_expansion)


class _Memory:
    """Where one file after the other is read to: fresh memory for each would cost more than reading it."""

    def __init__(self, max_expansion: int) -> None:
        self.max_expansion = max_expansion
        self._bytes = bytearray()

    def read(self, file: str) -> memoryview:
        """A file's content, good until the next one is read."""
        with open(file, "rb", buffering=0) as data:
            size = os.fstat(data.fileno()).st_size
            if size > len(self._bytes):
                self._bytes = bytearray(2 * size)
            count = data.readinto(memoryview(self._bytes)[:size])
        return memoryview(self._bytes)[:count]


def _read_episode(folder: str, memory: _Memory) -> pa.RecordBatch:
    """All rows of one episode, good until the next one is read."""
    files = sorted((f for f in os.listdir(folder) if f.endswith((".arrow", ".parquet"))), key=_part_number)
    if not files:
        raise SourceError("the episode has no data file", where=folder, hint=_HINT)
    try:
        if len(files) > 1:
            return pa.concat_batches(
                [batch for f in files for batch in _read_file(f"{folder}/{f}", _Memory(memory.max_expansion))]
            )
        batches = _read_file(f"{folder}/{files[0]}", memory)
        return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"the episode's data can't be read ({str(error).strip().splitlines()[0]})", where=folder, hint=_HINT
        ) from error


def _part_number(file: str) -> tuple[int, str]:
    digits = file.rpartition(".")[0].rpartition("-")[2]
    return (int(digits) if digits.isdigit() else 0, file)


def _read_file(file: str, memory: _Memory) -> list[pa.RecordBatch]:
    if file.endswith(".parquet"):
        opened = pq.ParquetFile(file)
        check_expansion(parquet_bytes(opened), [Path(file)], memory.max_expansion)
        return list(opened.iter_batches())
    reader = pa.ipc.open_file(pa.py_buffer(memory.read(file)))
    return [reader.get_batch(index) for index in range(reader.num_record_batches)]


def _route(schema: pa.Schema, keys: tuple[str, ...]) -> tuple[list[int], pa.DataType] | None:
    """Where an array lies in nested structs, as positions, and its type; None where there is none."""
    route, kind = [], pa.struct(schema)
    for key in keys:
        index = kind.get_field_index(key) if pa.types.is_struct(kind) else -1
        if index < 0:
            return None
        route.append(index)
        kind = kind.field(index).type
    return route, kind


def _scalar_type(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        kind = kind.value_type
    return kind


def _numpy_dtype(kind: pa.DataType) -> np.dtype[Any]:
    scalar = _scalar_type(kind)
    known = pa.types.is_boolean(scalar) or pa.types.is_integer(scalar) or pa.types.is_floating(scalar)
    dtype: np.dtype[Any] = np.dtype(scalar.to_pandas_dtype() if known else object)
    return dtype


def _stored_dtype(schema: pa.Schema, keys: tuple[str, ...], folder: Path) -> np.dtype[Any]:
    found = _route(schema, keys)
    if found is None:
        raise SourceError(
            f"the first episode has no '{'/'.join(keys)}', which the spaces call for", where=str(folder), hint=_HINT
        )
    return _numpy_dtype(found[1])


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
    builder = BlockBuilder(layout.columns, lambda number: f"episode {number}", label, layout.keys)
    reader, memory = _Reader(layout.leaves, log), _Memory(layout.max_expansion)
    for number in layout.numbers:
        episode = f"{folder}/{number}"
        batch = _read_episode(episode, memory)
        steps = batch.num_rows - 1
        if steps < 1:
            raise DataError("the episode has no steps", where=episode, hint=_HINT)
        if not builder.has_room(steps):
            yield builder.take()
        reader.fill(builder.begin(number, steps, _seed(episode, log)), batch, episode)
    yield builder.take()


class _Reader:
    """Fills rows from record batches; where the arrays lie is found once for each schema."""

    def __init__(self, leaves: list[Leaf], log: Log) -> None:
        self._leaves = leaves
        self._log = log
        self._schema: pa.Schema | None = None
        self._routes: list[list[int] | None] = []

    def fill(self, rows: dict[str, NDArray[Any]], batch: pa.RecordBatch, episode: str) -> None:
        """Fill these rows with one episode's arrays."""
        if self._schema is None or not self._schema.equals(batch.schema):
            self._routes = [self._find(leaf, batch.schema, episode) for leaf in self._leaves]
            self._schema = batch.schema
        for leaf, route in zip(self._leaves, self._routes, strict=True):
            out = rows[leaf.column]
            if route is None:
                fill_missing(leaf.column, out)
                self._log.warn(f"episodes without '{leaf.name}' get NaN, or 0 where it holds whole numbers", 1, episode)
                continue
            array = batch.column(route[0])
            for index in route[1:]:
                array = array.field(index)
            if leaf.jpeg:
                for row in range(len(out)):
                    out[row] = decode_image(array[row].as_py(), leaf.info.shape, episode)
            else:
                out[...] = _values(array, leaf, episode)[: len(out)]

    def _find(self, leaf: Leaf, schema: pa.Schema, episode: str) -> list[int] | None:
        found = _route(schema, leaf.keys)
        if found is None:
            if leaf.optional:
                return None
            raise SourceError(f"the episode has no '{leaf.name}'", where=episode, hint=_HINT)
        route, kind = found
        if not leaf.jpeg and not can_hold(leaf.info.dtype, _numpy_dtype(kind)):
            raise DataError(
                f"'{leaf.name}' holds {kind}, earlier episodes {leaf.info.dtype}", where=episode, hint=_HINT
            )
        return route


def _values(array: pa.Array, leaf: Leaf, episode: str) -> NDArray[Any]:
    flat = array
    while isinstance(flat, pa.FixedSizeListArray | pa.ListArray):
        flat = flat.values if flat.offset == 0 else flat.flatten()
    expected = len(array) * math.prod(leaf.info.shape)
    if array.null_count or flat.null_count or len(flat) != expected:
        raise DataError(
            f"'{leaf.name}' holds {len(flat) - flat.null_count} values, {expected} are expected",
            where=episode,
            hint=f"leave it out with --map {leaf.column}=" if leaf.optional else _HINT,
        )
    numbers: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return numbers.reshape(len(array), *leaf.info.shape)


def _seed(episode: str, log: Log) -> int:
    try:
        with open(f"{episode}/metadata.json", "rb") as file:
            seed = parse_json(file.read())["seed"]
    except (OSError, ValueError, KeyError, TypeError):
        return -1
    if not isinstance(seed, int):
        return -1
    if seed > np.iinfo(np.int64).max:
        log.note("seeds of 2^63 and more can't be recorded: they are marked unknown")
        return -1
    return seed
