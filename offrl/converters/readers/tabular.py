"""Tables with one row per step: which columns make up what, and where episodes end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from offrl.converters.field_mapping import BEHAVIOR_PROB, NEXT_OBSERVATION, check_scalar
from offrl.converters.infer_spaces import spec_of
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.flagged_arrays import has_next
from offrl.converters.readers.table_columns import TableRows, numbers
from offrl.converters.readers.table_episodes import KEYS, split, without_boundaries
from offrl.converters.readers.table_files import (
    as_text,
    check_parts,
    check_sizes,
    find_columns,
    open_table,
    read_columns,
    reading,
    widen,
)
from offrl.converters.report import Log
from offrl.converters.rows_to_episodes import settle, stream
from offrl.converters.source import ColumnInfo, Source
from offrl.data import schema
from offrl.errors import DataError, RequestError, SourceError, listed

_FRACTIONS = (schema.OBSERVATION, NEXT_OBSERVATION, schema.BEHAVIOR_LOG_PROB, BEHAVIOR_PROB)
_WORDS = ("episode", schema.TERMINATED, schema.TRUNCATED)


def open_csv(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand a CSV (or tab-separated) table with a header; see `open_table_source`."""
    return open_table_source(path, "csv", options, log)


def open_jsonl(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand JSON lines, one object per step; see `open_table_source`."""
    return open_table_source(path, "json", options, log)


def open_parquet(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand a Parquet table; see `open_table_source`."""
    return open_table_source(path, "parquet", options, log)


def open_table_source(path: Path, format: str, options: ConvertOptions, log: Log) -> Source:
    """Understand a table.

    With an `episode` column, its values tell the episodes apart, and `step` orders their rows. Without one, flags end
    episodes, or the user says that each file is one, or each row.

    Raises:
        SourceError: it can't be read, or a column that is needed isn't there.
        DataError: a row has no episode, a step comes twice, or an episode goes on after its end.
        RequestError: nothing tells where episodes end, or termination from truncation.
    """
    with reading(path):
        return _open(path, format, options, log)


def _open(path: Path, format: str, options: ConvertOptions, log: Log) -> Source:
    table = open_table(path, format, log)
    check_sizes(table, options.max_expansion)
    fields = find_columns(table, options.mapping, where=str(path))
    if options.bandit:
        fields = without_boundaries(fields, options, str(path), log)
    _check_required(fields, options.mapping, table.schema, str(path))
    check_parts(table, [column for name in fields if not name.startswith(schema.INFO) for column in fields[name]])
    if format != "parquet":
        table = widen(table, _columns(fields, *_FRACTIONS))
    table, keys = _read_keys(table, path, fields, text=format != "parquet")
    if not keys.num_rows:
        raise DataError("the table has no rows", where=str(path), hint="give a table with at least one step")
    rows = _rows(table, path, fields, keys.num_rows)
    episodes, order = split(table, keys, fields, path, options, log)
    rows = replace(rows, order=order)
    following = has_next(rows, where=str(path))
    episodes = settle(episodes, has_next=following, timeouts=options.timeouts, log=log)
    spec = spec_of(rows, options, where=str(path), log=log)
    return Source(
        spec=spec,
        rows=rows.count,
        chunks=lambda: stream(rows, episodes, spec, label=path.name, log=log, order=order),
        environment=options.environment,
        keys=rows.keys,
    )


def _columns(fields: Mapping[str, list[str]], *roots: str) -> list[str]:
    return [column for field, columns in fields.items() if field.split(".")[0] in roots for column in columns]


def _check_required(fields: Mapping[str, list[str]], mapping: Mapping[str, str], kinds: pa.Schema, where: str) -> None:
    there = {field.split(".")[0] for field in fields}
    for name in (schema.OBSERVATION, schema.ACTION, schema.REWARD):
        if name not in there and (mapping.get(name) != "" or name != schema.REWARD):
            raise SourceError(
                f"no column is known to be the {name}",
                where=where,
                hint=f"say which, with --map {name}=COLUMN (or a,b,c or prefix_*); "
                f"the columns are {listed(kinds.names)}",
            )
    if {schema.BEHAVIOR_LOG_PROB, BEHAVIOR_PROB} <= there:
        raise RequestError(
            "both behavior_log_prob and behavior_prob are mapped",
            where=where,
            hint=f"leave one out: --map {BEHAVIOR_PROB}=",
        )
    for name in ("episode", "step", schema.TERMINATED, schema.TRUNCATED, schema.REWARD):
        if len(fields.get(name, [])) > 1:
            raise RequestError(
                f"{name} is one column, not {listed(fields[name])}",
                where=where,
                hint=f"map one: --map {name}=COLUMN",
            )
        for column in fields.get(name, []):
            if pa.types.is_nested(kind := kinds.field(column).type):
                raise SourceError(
                    f"column '{column}' holds {kind}, but there is one {name} for each step",
                    where=where,
                    hint=f"write one value per row, or map another column: --map {name}=COLUMN",
                )


def _read_keys(
    table: ds.Dataset, path: Path, fields: Mapping[str, list[str]], *, text: bool
) -> tuple[ds.Dataset, pa.Table]:
    """Read what tells episodes apart; on the way, find out whether columns of text that look whole stay so.

    Where a first reading fails, these are read as fractions, and the episodes and flags of a CSV table as words.
    """
    needed = [fields[name][0] for name in KEYS if name in fields]
    kinds = {item.name: item.type for item in table.schema}
    maybe_whole = _columns(fields, schema.ACTION, schema.REWARD, schema.INFO) if text else []
    whole = [column for column in maybe_whole if not pa.types.is_floating(kinds[column])]
    wanted = list(dict.fromkeys([*needed, *whole])) or fields[_first(fields)][:1]
    try:
        return table, read_columns(table, wanted)
    except pa.ArrowInvalid:
        if whole:
            table = widen(table, whole)
        if isinstance(table.format, ds.CsvFileFormat):
            words = [fields[name][0] for name in _WORDS if name in fields]
            table = as_text(table, [column for column in words if column not in whole])
    return table, read_columns(table, wanted)


def _first(fields: Mapping[str, list[str]]) -> str:
    return next(name for name in fields if name.split(".")[0] == schema.OBSERVATION)


def _rows(table: ds.Dataset, path: Path, fields: Mapping[str, list[str]], count: int) -> TableRows:
    head = table.head(1, use_threads=False)
    used = {name: columns for name, columns in fields.items() if name not in KEYS}
    columns = {name: _info(name, head, used[name], str(path)) for name in used}
    return TableRows(table, path, used, columns, count)


def _info(name: str, head: pa.Table, columns: list[str], where: str) -> ColumnInfo:
    """Observations are floating-point vectors, unless a single column holds lists, which keep their type."""
    samples = [numbers(head.column(column), column, where) for column in columns]
    kind = np.result_type(*samples)
    root = name.split(".")[0]
    if samples[0].ndim > 1:
        if len(samples) > 1:
            raise RequestError(
                f"{name} is one column of lists or several of numbers, not both",
                where=where,
                hint=f"map the column of lists alone: --map {name}={columns[0]}",
            )
        info = ColumnInfo(kind, samples[0].shape[1:])
        check_scalar(name, columns[0], info, where)
        return info
    if root in (schema.OBSERVATION, NEXT_OBSERVATION):
        return ColumnInfo(kind if kind.kind == "f" else np.dtype(np.float64), (len(columns),))
    if root == schema.ACTION and kind.kind != "f":
        return ColumnInfo(np.dtype(np.int64), () if len(columns) == 1 else (len(columns),))
    vector = len(columns) > 1 or root == schema.ACTION
    return ColumnInfo(kind, (len(columns),) if vector else ())
