"""Where the episodes of a table begin and end: by a column that names them, by flags, by file, or row by row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from offrl.converters.boundary_columns import point_at
from offrl.converters.field_mapping import NEXT_OBSERVATION
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.flagged_arrays import LIMIT_NOT_USED, limited_episodes
from offrl.converters.readers.table_columns import flags, numbers
from offrl.converters.report import Log
from offrl.converters.rows_to_episodes import Bools, Episodes, Ints, episodes_from, reinterpret_terminals
from offrl.data import schema
from offrl.errors import DataError, RequestError

KEYS = ("episode", "step", schema.TERMINATED, schema.TRUNCATED)
"""The fields that tell episodes apart and put their rows in order."""


def without_boundaries(
    fields: Mapping[str, list[str]], options: ConvertOptions, where: str, log: Log
) -> dict[str, list[str]]:
    """The fields of a table whose rows are episodes of their own: nothing tells them apart, or what follows them.

    Raises:
        RequestError: such a column is mapped.
    """
    for name in (*KEYS, NEXT_OBSERVATION):
        if options.mapping.get(name):
            raise RequestError(
                f"with --bandit each row is an episode of one step, and {name} is mapped",
                where=where,
                hint=f"leave --bandit out, or --map {name}",
            )
    kept = {name: columns for name, columns in fields.items() if name.split(".")[0] not in (*KEYS, NEXT_OBSERVATION)}
    for name in fields.keys() - kept.keys():
        log.leave_out(fields[name][0], "each row is an episode of one step (--bandit)")
    return kept


def split(
    table: ds.Dataset,
    keys: pa.Table,
    fields: Mapping[str, list[str]],
    path: Path,
    options: ConvertOptions,
    log: Log,
) -> tuple[Episodes, Ints | None]:
    """The episodes, and the order of the rows where they must be sorted.

    Args:
        table: the table.
        keys: its columns that `KEYS` are mapped to.
        fields: field to columns.
        path: the file.
        options: the user's answers.
        log: is told what was decided.

    Raises:
        DataError: a row has no episode, a flag is neither yes nor no, a step comes twice, or an episode goes on after
            its end.
        RequestError: nothing tells where episodes end, or whether in a terminal state.
    """
    where = str(path)
    if options.bandit:
        log.note("each row is an episode of one step (--bandit)")
        last = np.arange(keys.num_rows)
        return episodes_from(last, np.ones(len(last), np.bool_), np.zeros(len(last), np.bool_)), None
    if len(table.files) > 1 and "step" not in fields and not options.episode_per_file:
        log.warn(
            f"nothing but the names of the {len(table.files)} files puts their rows in order: map what does, with "
            "--map step=COLUMN"
        )
    terminated = _flags(keys, fields, schema.TERMINATED, where)
    truncated = _flags(keys, fields, schema.TRUNCATED, where)
    names = "episode" in fields or options.episode_per_file
    if terminated is None and options.mapping.get(schema.TERMINATED) != "":
        _ask_for_ends(table.schema.names, fields, named=names, where=where)
    if options.episode_per_file:
        return _split_at_codes(
            _file_codes(table, fields, where), keys, fields, terminated, truncated, where, options, log
        )
    if "episode" in fields:
        codes = _codes(keys.column(fields["episode"][0]), fields["episode"][0], where)
        return _split_at_codes(codes, keys, fields, terminated, truncated, where, options, log)
    if terminated is None:
        terminated = np.zeros(keys.num_rows, np.bool_)
    pointer = _pointer(table.schema.names, fields, named=True)
    episodes = limited_episodes(
        terminated, truncated, options, log, where=where, terminal_may_be_limit=True, pointer=pointer
    )
    if "step" in fields:
        name = fields["step"][0]
        steps, rows = _steps(keys.column(name), name, where), np.arange(keys.num_rows)
        codes = np.searchsorted(episodes.last, rows)
        _check_ascent(codes, steps, name, where)
        _check_steps(codes, steps, rows, name, where, log)
    return episodes, None


def _ask_for_ends(names: Collection[str], fields: Mapping[str, list[str]], *, named: bool, where: str) -> None:
    """Raise the RequestError of a table that doesn't say where episodes end, or how."""
    pointer = _pointer(names, fields, named=named)
    what = "nothing tells whether an episode ended in a terminal state or was cut"
    hint = "say which column does (--map terminated=COLUMN), or that no episode terminates (--map terminated=)"
    if not named:
        what = "nothing tells where episodes end"
        if "step" in fields:
            what = f"column '{fields['step'][0]}' numbers the steps of episodes, and nothing tells where these end"
        hint = (
            "say which column marks their ends (--map terminated=COLUMN, or --map terminated= if none terminates) or "
            "tells them apart (--map episode=COLUMN), that each file is an episode (--episode-per-file), or that each "
            "row is one of its own, as in a bandit's log (--bandit)"
        )
    raise RequestError(what + (f"; {pointer}" if pointer else ""), where=where, hint=hint)


def _pointer(names: Collection[str], fields: Mapping[str, list[str]], *, named: bool) -> str:
    used = {column for columns in fields.values() for column in columns}
    return point_at(names, used, episodes=not named)


def _file_codes(table: ds.Dataset, fields: Mapping[str, list[str]], where: str) -> Ints:
    """The number of each row's file."""
    if "episode" in fields:
        raise RequestError(
            "with --episode-per-file each file is an episode, and a column tells episodes apart",
            where=f"{where}, column '{fields['episode'][0]}'",
            hint="leave --episode-per-file out, or say --map episode=",
        )
    counts = [fragment.count_rows() for fragment in table.get_fragments()]
    return np.repeat(np.arange(len(counts)), counts)


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


def _split_at_codes(
    codes: Ints,
    keys: pa.Table,
    fields: Mapping[str, list[str]],
    terminated: Bools | None,
    truncated: Bools | None,
    where: str,
    options: ConvertOptions,
    log: Log,
) -> tuple[Episodes, Ints | None]:
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
    if options.time_limit is None:
        return episodes, order
    if truncated is None:
        return reinterpret_terminals(episodes, options.time_limit, log), order
    log.note(LIMIT_NOT_USED)
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
