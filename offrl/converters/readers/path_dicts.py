"""Pickled lists of path dictionaries, one for each episode, as courses and rllab-style libraries save them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.converters.field_mapping import NEXT_OBSERVATION, assign_fields
from offrl.converters.flags import read_flags
from offrl.converters.formats import Format
from offrl.converters.infer_spaces import spec_of
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.flagged_arrays import has_next
from offrl.converters.report import Log
from offrl.converters.rows_to_episodes import (
    Episodes,
    Ints,
    episodes_from,
    reinterpret_terminals,
    settle,
    stream,
)
from offrl.converters.source import ColumnInfo, MemoryRows, Source
from offrl.data import schema
from offrl.errors import DataError, RequestError, SourceError, UnsafeSourceError, listed


def open_paths(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand a pickled list of dictionaries that hold one episode's arrays each. It is read into memory.

    Raises:
        UnsafeSourceError: `allow_pickle` is not set.
        SourceError: it can't be read, or is no such list.
        DataError: arrays of one path have different lengths, or a path goes on after its end.
        RequestError: a terminal flag may mean a time limit, and none was given.
    """
    if not options.allow_pickle:
        raise UnsafeSourceError(
            "reading a pickle runs whatever code its author put into it",
            where=str(path),
            hint="say --allow-pickle if you trust where it comes from",
        )
    paths = [_flat(item) for item in _load(path)]
    lengths = np.array([_steps(item, index, path, options) for index, item in enumerate(paths)], np.int64)
    rows = _joined(paths, lengths, path, options, log)
    episodes = _episodes(rows, lengths, path, options, log)
    episodes = settle(episodes, has_next=has_next(rows, where=str(path)), timeouts=options.timeouts, log=log)
    spec = spec_of(rows, options, where=str(path), log=log)
    return Source(
        spec=spec,
        rows=rows.count,
        chunks=lambda: stream(rows, episodes, spec, label=path.name, log=log),
        environment=options.environment,
        keys=rows.keys,
    )


def _load(path: Path) -> list[Mapping[str, Any]]:
    try:
        with open(path, "rb") as file:
            loaded = pickle.load(file)
    except Exception as error:  # whatever the pickled classes raise
        raise SourceError(
            f"the pickle can't be read ({type(error).__name__}: {error})",
            where=str(path),
            hint="copy it again, or install what its classes come from",
        ) from error
    if isinstance(loaded, Mapping):
        loaded = loaded.get("paths")
    if not isinstance(loaded, list | tuple) or not loaded or not all(isinstance(item, Mapping) for item in loaded):
        raise SourceError(
            "the pickle holds no list of path dictionaries",
            where=str(path),
            hint="save [{'observation': ..., 'action': ..., 'reward': ...}, ...], one for each episode",
        )
    return list(loaded)


def _flat(item: Mapping[str, Any], prefix: str = "") -> dict[str, NDArray[Any]]:
    """Nested dictionaries as `group/key`, and whatever is in them as arrays."""
    flat: dict[str, NDArray[Any]] = {}
    for key, value in item.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = _array(value)
    return flat


def _array(value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths: no numbers, to be left out like texts
        return np.asarray([None] * len(value))


def _steps(item: Mapping[str, NDArray[Any]], index: int, path: Path, options: ConvertOptions) -> int:
    """The length of a path: that of its actions."""
    mapped = options.mapping.get(schema.ACTION)
    actions = [item[key] for key in ([mapped] if mapped else ["actions", "action"]) if key in item]
    if not actions or not actions[0].ndim or not len(actions[0]):
        raise SourceError(
            "a path has no actions",
            where=f"{path}, path {index}",
            hint=f"say which key they have, with --map action=KEY; its keys are {listed(item)}",
        )
    return len(actions[0])


def _joined(
    paths: list[dict[str, NDArray[Any]]], lengths: Ints, path: Path, options: ConvertOptions, log: Log
) -> MemoryRows:
    """The store's columns over all paths; observations one longer than the actions give next observations too."""
    common = [key for key in paths[0] if all(key in item for item in paths)]
    for key in dict.fromkeys(key for item in paths for key in item):
        if key not in common:
            log.leave_out(key, "not in every path")
    available = {key: _kind([item[key] for item in paths]) for key in common}
    total = int(lengths.sum())
    counts = {key: sum(len(item[key]) for item in paths) if kind else total for key, kind in available.items()}
    one_longer = [key for key in counts if counts[key] == total + len(paths)]
    shown = {key: total if key in one_longer else count for key, count in counts.items()}
    keys, _ = assign_fields(
        available,
        shown,
        options.mapping,
        where=str(path),
        log=log,
        required=(schema.OBSERVATION, schema.ACTION, schema.REWARD),
    )
    columns: dict[str, NDArray[Any]] = {}
    for name, key in keys.items():
        parts = [item[key] for item in paths]
        _check_lengths(key, parts, lengths, key in one_longer, path)
        if key in one_longer and name.split(".")[0] == schema.OBSERVATION:
            columns[name.replace(schema.OBSERVATION, NEXT_OBSERVATION, 1)] = np.concatenate([p[1:] for p in parts])
        columns[name] = np.concatenate([part[:length] for part, length in zip(parts, lengths, strict=True)])
    return MemoryRows(columns, keys)


def _kind(parts: list[NDArray[Any]]) -> ColumnInfo | None:
    """What the arrays have in common; None unless all hold numbers for each step, of the same shape."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) != 1 or any(not part.ndim or part.dtype.kind not in "biuf" for part in parts):
        return None
    return ColumnInfo(np.result_type(*{part.dtype for part in parts}), shapes.pop())


def _check_lengths(key: str, parts: list[NDArray[Any]], lengths: Ints, one_longer: bool, path: Path) -> None:
    for index, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        if len(part) != length + one_longer:
            raise DataError(
                f"'{key}' has {len(part)} rows, there are {length} actions",
                where=f"{path}, path {index}",
                hint="write all arrays of a path with one row per step",
            )


def _episodes(rows: MemoryRows, lengths: Ints, path: Path, options: ConvertOptions, log: Log) -> Episodes:
    last = np.cumsum(lengths) - 1
    terminated = _flags_at(rows, schema.TERMINATED, last, path)
    truncated = _flags_at(rows, schema.TRUNCATED, last, path)
    episodes = episodes_from(last, terminated, truncated)
    known = schema.TRUNCATED in rows.columns or options.mapping.get(schema.TRUNCATED) == ""
    if schema.TERMINATED not in rows.columns:
        log.note("no terminal flags are stored: every path counts as truncated at its end")
    elif not known and options.time_limit is None:
        raise RequestError(
            "a terminal flag at the end of a path often only means that the time limit struck",
            where=str(path),
            hint="say after how many steps paths were cut (--time-limit 1000), or that none was (--map truncated=)",
        )
    if not known and options.time_limit is not None:
        return reinterpret_terminals(episodes, options.time_limit, log)
    return episodes


def _flags_at(rows: MemoryRows, name: str, last: Ints, path: Path) -> NDArray[np.bool_]:
    """A flag at the end of each path; it must not be set before."""
    if name not in rows.columns:
        return np.zeros(len(last), np.bool_)

    def locate(row: int) -> str:
        index = int(np.searchsorted(last, row))
        return f"path {index}, step {row - (int(last[index - 1]) + 1 if index else 0)}"

    key = rows.keys.get(name, name)
    flags = read_flags(rows.arrays[name].reshape(-1), field=name, key=key, where=str(path), locate=locate)
    early = np.setdiff1d(np.flatnonzero(flags), last)
    if len(early):
        raise DataError(
            f"the path goes on after a step that is {name}",
            where=f"{path}, {locate(int(early[0]))}",
            hint="cut the path there, or correct the flag",
        )
    return np.asarray(flags[last])


FORMAT = Format("pickled list of path dictionaries", open_paths, suffixes=(".pkl", ".pickle"))
