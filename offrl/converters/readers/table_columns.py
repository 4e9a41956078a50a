"""The values of a table's columns, as arrays: numbers, lists of them, flags, and the rows of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from offrl.converters.flags import read_flags, read_words, refuse_flag
from offrl.converters.readers.table_files import batches_of, read_columns, reading
from offrl.converters.source import ColumnInfo
from offrl.errors import DataError, SourceError


def numbers(array: pa.ChunkedArray, name: str, where: str, first_row: int = 0) -> NDArray[Any]:
    """A column of numbers, booleans or times: missing values become NaN.

    Raises:
        SourceError: it holds text or the like.
        DataError: a value is missing where NaN has no place (in a whole number's or a list's).
    """
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _vectors(array, name, where, first_row)
    if pa.types.is_temporal(kind):
        if kind.bit_width == 32:  # Arrow casts these to whole numbers of their own width only
            array = array.cast(pa.int32())
        array, kind = array.cast(pa.int64()), pa.int64()
    if pa.types.is_null(kind) or pa.types.is_decimal(kind):
        array, kind = array.cast(pa.float64()), pa.float64()
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise SourceError(
            f"column '{name}' holds {kind}, not numbers",
            where=where,
            hint="map a column of numbers, or encode it as such",
        )
    if array.null_count and not pa.types.is_floating(kind):
        row = first_row + pc.index(pc.is_null(array), True).as_py()
        raise DataError(
            f"column '{name}' has no value", where=f"{where}, row {row}", hint="fill it in, or leave the row out"
        )
    return np.asarray(array.to_numpy())


def _vectors(array: pa.ChunkedArray, name: str, where: str, first_row: int) -> NDArray[Any]:
    lengths = pc.list_value_length(array).to_numpy() if len(array) else np.empty(0, np.int64)
    size = lengths[0] if len(lengths) else 0
    odd = np.flatnonzero(lengths != size)  # a missing list has the length NaN
    if len(odd) or size != size:
        row = int(odd[0]) if len(odd) else 0
        raise DataError(
            f"column '{name}' has {lengths[row]} values, other rows have {size}",
            where=f"{where}, row {first_row + row}",
            hint="give every row a list of the same length",
        )
    inner = pc.list_flatten(array)
    values = numbers(inner if isinstance(inner, pa.ChunkedArray) else pa.chunked_array([inner]), name, where)
    return values.reshape(len(array), int(size), *values.shape[1:])


def flags(array: pa.ChunkedArray, field: str, name: str, where: str) -> NDArray[np.bool_]:
    """A column of flags: booleans, numbers or words.

    Args:
        array: the column.
        field: what it says, such as `terminated`.
        name: the column's name.
        where: the file.

    Raises:
        DataError: one is missing, or neither yes nor no.
    """
    if array.null_count:
        row = pc.index(pc.is_null(array), True).as_py()
        refuse_flag(None, array.null_count, f"row {row}", field, name, where)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        encoded = array.combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        return read_words(encoded.dictionary.to_pylist(), codes, field=field, key=name, where=where)
    return read_flags(numbers(array, name, where), field=field, key=name, where=where)


@dataclass(frozen=True)
class TableRows:
    """The rows of a table, under the store's names.

    Attributes:
        table: the table.
        path: its file.
        fields: column of the store to columns of the table.
        columns: what they hold, as given out.
        count: rows.
        order: the row of the file that each row is, where they must be sorted; the table is then read into memory.
    """

    table: ds.Dataset
    path: Path
    fields: Mapping[str, list[str]]
    columns: Mapping[str, ColumnInfo]
    count: int
    order: NDArray[np.int64] | None = None

    @property
    def keys(self) -> Mapping[str, str]:
        return {name: ",".join(columns) for name, columns in self.fields.items()}

    def slices(self, bounds: Sequence[tuple[int, int]], names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
        needed = list(dict.fromkeys(column for name in names for column in self.fields[name]))
        held, held_from = pa.table({}), 0
        with reading(self.path):
            batches = self._batches(needed)
            for start, stop in bounds:
                pieces = [held] if held.num_columns else []
                rows = held_from + held.num_rows
                while rows < stop:
                    pieces.append(pa.Table.from_batches([next(batches)]))
                    rows += pieces[-1].num_rows
                held = pa.concat_tables(pieces)
                part = held.slice(start - held_from, stop - start)
                yield {name: self._column(name, part, start) for name in names}
                held, held_from = held.slice(stop - held_from), stop

    def _batches(self, needed: list[str]) -> Iterator[pa.RecordBatch]:
        if self.order is not None:
            sorted_table = read_columns(self.table, needed).take(pa.array(self.order))
            return iter(sorted_table.to_batches())
        return batches_of(self.table, needed)

    def _column(self, name: str, part: pa.Table, start: int) -> NDArray[Any]:
        info = self.columns[name]
        parts = [numbers(part.column(c), c, str(self.path), start) for c in self.fields[name]]
        array = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
        if array[0].size != np.prod(info.shape, dtype=np.int64):
            raise DataError(
                f"column '{self.fields[name][0]}' has rows of {array.shape[1:]}, the first row has {info.shape}",
                where=f"{self.path}, row {start}",
                hint="give every row a list of the same length",
            )
        return np.array(array.reshape(len(array), *info.shape), dtype=info.dtype)
