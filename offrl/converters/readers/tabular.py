"""Tables with one row per step: which columns make up what, and where episodes end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from offrl.converters.field_mapping import BEHAVIOR_PROB, NEXT_OBSERVATION, check_scalar
from offrl.converters.infer_spaces import spec_of
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.flagged_arrays import has_next, limited_episodes
from offrl.converters.readers.table_files import (
    TableRows,
    as_text,
    find_columns,
    flags,
    numbers,
    open_table,
    reading,
    widen,
)
from offrl.converters.report import Log
from offrl.converters.rows_to_episodes import (
    Bools,
    Episodes,
    Ints,
    episodes_from,
    reinterpret_terminals,
    settle,
    stream,
)
from offrl.converters.source import ColumnInfo, Source
from offrl.data import schema
from offrl.errors import DataError, RequestError, SourceError

_FRACTIONS = (schema.OBSERVATION, NEXT_OBSERVATION, schema.REWARD, schema.BEHAVIOR_LOG_PROB, BEHAVIOR_PROB)
_WORDS = ("episode", schema.TERMINATED, schema.TRUNCATED)
_KEYS = ("episode", "step", schema.TERMINATED, schema.TRUNCATED)


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
    episodes; without flags and next observations too, every row is an episode of one step, as in the log of a
    contextual bandit.

    Raises:
        SourceError: it can't be read, or a column that is needed isn't there.
        DataError: a row has no episode, a step comes twice, or an episode goes on after its end.
        RequestError: nothing tells termination from truncation.
    """
    table = open_table(path, format)
    fields = find_columns(table, options.mapping, where=str(path))
    _check_required(fields, options.mapping, table.schema, str(path))
    if format != "parquet":
        table = widen(table, _columns(fields, *_FRACTIONS))
    table, keys = _read_keys(table, path, fields, text=format != "parquet")
    if not keys.num_rows:
        raise DataError("the table has no rows", where=str(path), hint="give a table with at least one step")
    rows = _rows(table, path, fields, keys.num_rows)
    episodes, order = _split(keys, fields, path, options, log)
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
                f"the columns are {', '.join(kinds.names)}",
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
                f"{name} is one column, not {', '.join(fields[name])}",
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
    needed = [fields[name][0] for name in _KEYS if name in fields]
    kinds = {item.name: item.type for item in table.schema}
    maybe_whole = _columns(fields, schema.ACTION, schema.INFO) if text else []
    whole = [column for column in maybe_whole if not pa.types.is_floating(kinds[column])]
    wanted = list(dict.fromkeys([*needed, *whole])) or fields[_first(fields)][:1]
    try:
        return table, table.to_table(columns=wanted)
    except pa.ArrowInvalid:
        if whole:
            table = widen(table, whole)
        if isinstance(table.format, ds.CsvFileFormat):
            words = [fields[name][0] for name in _WORDS if name in fields]
            table = as_text(table, [column for column in words if column not in whole])
    with reading(path):
        return table, table.to_table(columns=wanted)


def _first(fields: Mapping[str, list[str]]) -> str:
    return next(name for name in fields if name.split(".")[0] == schema.OBSERVATION)


def _rows(table: ds.Dataset, path: Path, fields: Mapping[str, list[str]], count: int) -> TableRows:
    with reading(path):
        head = table.head(1)
    used = {name: columns for name, columns in fields.items() if name not in _KEYS}
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


def _split(
    keys: pa.Table, fields: Mapping[str, list[str]], path: Path, options: ConvertOptions, log: Log
) -> tuple[Episodes, Ints | None]:
    """The episodes, and the order of the rows where they must be sorted."""
    where = str(path)
    terminated = _flags(keys, fields, schema.TERMINATED, where)
    truncated = _flags(keys, fields, schema.TRUNCATED, where)
    if "episode" in fields:
        return _split_at_ids(keys, fields, terminated, truncated, where, options, log)
    steps = _steps(keys.column(fields["step"][0]), fields["step"][0], where) if "step" in fields else None
    if terminated is None and truncated is None and not _columns(fields, NEXT_OBSERVATION):
        if steps is not None:
            raise RequestError(
                f"column '{fields['step'][0]}' numbers the steps of episodes, and nothing tells where these end",
                where=where,
                hint="say which column tells episodes apart (--map episode=COLUMN) or what marks their ends (--map "
                "terminated=COLUMN), or that each row is an episode of one step (--map step=)",
            )
        log.note("no episodes and no flags are mapped: each row is an episode of one step, as in a bandit's log")
        last = np.arange(keys.num_rows)
        return episodes_from(last, np.ones(len(last), np.bool_), np.zeros(len(last), np.bool_)), None
    if terminated is None:
        terminated = np.zeros(keys.num_rows, np.bool_)
    episodes = limited_episodes(terminated, truncated, options, log, where=where, terminal_may_be_limit=True)
    if steps is not None:
        rows = np.arange(keys.num_rows)
        codes = np.searchsorted(episodes.last, rows)
        _check_ascent(codes, steps, fields["step"][0], where)
        _check_steps(codes, steps, rows, fields["step"][0], where, log)
    return episodes, None


def _check_ascent(codes: Ints, steps: NDArray[Any], name: str, where: str) -> None:
    """Rows that begin to count anew in the midst of an episode are those of another one, whose start nothing marks."""
    fallen = np.flatnonzero((codes[1:] == codes[:-1]) & (steps[1:] < steps[:-1])) + 1
    if len(fallen):
        row = int(fallen[0])
        raise DataError(
            f"column '{name}' falls from {steps[row - 1]} to {steps[row]} within an episode: another one seems to "
            "begin there, and nothing marks the end of the one before",
            where=f"{where}, row {row}",
            hint="say which column tells episodes apart (--map episode=COLUMN), or which marks where they were cut "
            "(--map truncated=COLUMN)",
        )


def _flags(keys: pa.Table, fields: Mapping[str, list[str]], name: str, where: str) -> Bools | None:
    return flags(keys.column(fields[name][0]), name, fields[name][0], where) if name in fields else None


def _split_at_ids(
    keys: pa.Table,
    fields: Mapping[str, list[str]],
    terminated: Bools | None,
    truncated: Bools | None,
    where: str,
    options: ConvertOptions,
    log: Log,
) -> tuple[Episodes, Ints | None]:
    if terminated is None and options.mapping.get(schema.TERMINATED) != "":
        raise RequestError(
            "nothing tells whether an episode ended in a terminal state or was cut",
            where=where,
            hint="say which column does (--map terminated=COLUMN), or that no episode terminates (--map terminated=)",
        )
    codes = _codes(keys.column(fields["episode"][0]), fields["episode"][0], where)
    steps = _steps(keys.column(fields["step"][0]), fields["step"][0], where) if "step" in fields else None
    order = _order(codes, steps, log)
    rows = np.arange(len(codes)) if order is None else order
    codes = codes[rows]
    if steps is not None:
        _check_steps(codes, steps[rows], rows, fields["step"][0], where, log)
    last = np.append(np.flatnonzero(codes[1:] != codes[:-1]), len(codes) - 1)
    ends = [
        _flags_at(item, rows, last, name, where)
        for name, item in (("terminated", terminated), ("truncated", truncated))
    ]
    episodes = episodes_from(last, *ends)
    if truncated is None and options.time_limit is not None:
        episodes = reinterpret_terminals(episodes, options.time_limit, log)
    return episodes, order


def _steps(column: pa.ChunkedArray, name: str, where: str) -> NDArray[Any]:
    """What orders the rows of an episode: numbers or times, of a kind whose differences can be negative."""
    steps = numbers(column, name, where)
    return steps.astype(np.int64) if steps.dtype.kind in "ub" else steps


def _codes(column: pa.ChunkedArray, name: str, where: str) -> Ints:
    """Episode identifiers of any type as numbers, in the order in which they first come."""
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise DataError(f"column '{name}' has no value", where=f"{where}, row {row}", hint="give every row its episode")
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def _order(codes: Ints, steps: NDArray[Any] | None, log: Log) -> Ints | None:
    """How rows must be sorted; None where they are in order already."""
    same = codes[1:] == codes[:-1]
    together = int(np.count_nonzero(~same)) == int(codes.max())
    ascending = steps is None or not (same & (np.diff(steps) < 0)).any()
    if together and ascending:
        return None
    log.note(
        "rows are not in the order of episodes and steps: they are sorted, in memory"
        if steps is not None
        else "the rows of an episode do not lie together: they are gathered, in memory, in the order of the table"
    )
    return np.lexsort((np.arange(len(codes)) if steps is None else steps, codes))


def _check_steps(codes: Ints, steps: NDArray[Any], rows: Ints, name: str, where: str, log: Log) -> None:
    strides = np.diff(steps)[codes[1:] == codes[:-1]]
    following = np.flatnonzero(codes[1:] == codes[:-1]) + 1
    twice = np.flatnonzero(strides == 0)
    if len(twice):
        row = int(rows[following[twice[0]]])
        raise DataError(
            f"column '{name}' has the value {steps[following[twice[0]]]} twice in one episode",
            where=f"{where}, row {row}",
            hint="leave the repeated rows out, or map the right columns for episode and step",
        )
    # Clocks are never quite even; a row that is missing doubles the stride.
    usual = np.sort(strides)[len(strides) // 2] if len(strides) else 0
    uneven = np.flatnonzero(np.abs(strides - usual) > usual / 2) if len(strides) else strides
    if len(uneven):
        row = int(rows[following[uneven[0]]])
        log.warn(
            f"column '{name}' doesn't rise evenly, by {usual} mostly and by {strides.max()} once: rows may be missing, "
            "and the next row is taken as the successor",
            len(uneven),
            f"{where}, row {row}",
        )


def _flags_at(values: Bools | None, rows: Ints, last: Ints, name: str, where: str) -> Bools:
    """A flag in the last row of each episode; it must not be set before."""
    if values is None:
        return np.zeros(len(last), np.bool_)
    ordered = values[rows]
    early = np.setdiff1d(np.flatnonzero(ordered), last)
    if len(early):
        raise DataError(
            f"the episode goes on after a step that is {name}",
            where=f"{where}, row {int(rows[early[0]])}",
            hint="correct the flag, or give what follows another episode",
        )
    return np.asarray(ordered[last])
