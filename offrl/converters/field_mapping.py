"""Which key of a source of named arrays (HDF5, npz, path dictionaries) is which column of a store."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from offrl.converters.boundary_columns import point_at
from offrl.converters.report import Log
from offrl.converters.source import ColumnInfo
from offrl.data import schema
from offrl.errors import DataError, RequestError, SourceError, listed

NEXT_OBSERVATION, BEHAVIOR_PROB = "next_observation", "behavior_prob"

_KEYS = {
    schema.OBSERVATION: ("observations", "observation", "obs"),
    schema.ACTION: ("actions", "action"),
    schema.REWARD: ("rewards", "reward"),
    schema.TERMINATED: ("terminals", "terminal", "terminations", "terminated"),
    schema.TRUNCATED: ("timeouts", "truncations", "truncated"),
    NEXT_OBSERVATION: ("next_observations", "next_observation", "next_obs"),
    schema.BEHAVIOR_LOG_PROB: ("infos/action_log_probs", "action_log_probs", "behavior_log_prob"),
    schema.ACTION_MASK: ("action_masks", "action_mask"),
}
"""The keys that a column goes by, the first that is there. `dones` is none: it may mean either flag."""

_SCALARS = (schema.REWARD, schema.TERMINATED, schema.TRUNCATED, schema.BEHAVIOR_LOG_PROB, BEHAVIOR_PROB)
_TABLE_ONLY = {"episode", "step", BEHAVIOR_PROB}


def assign_fields(
    available: Mapping[str, ColumnInfo | None],
    lengths: Mapping[str, int],
    mapping: Mapping[str, str],
    *,
    where: str,
    log: Log,
    required: tuple[str, ...] = (schema.OBSERVATION, schema.ACTION, schema.REWARD, schema.TERMINATED),
    ignored: tuple[str, ...] = (),
    keep_others: bool = False,
) -> tuple[dict[str, str], int]:
    """Match a source's arrays with the store's columns: column to key, and the number of rows that all have.

    Args:
        available: key ("infos/qpos") to what it holds; None where it holds no numbers for each step.
        lengths: key to number of rows.
        mapping: field to key, as the user gave it; the empty text for none.
        where: the file.
        required: columns that must be there, unless the user said that there are none.
        ignored: keys or groups of keys that are no rows, and that the caller deals with.
        keep_others: keep arrays of unknown keys too, as `info.*`.

    Raises:
        SourceError: a column that is needed, or a key that was asked for, is not there.
        RequestError: a field is mapped that only tables have.
        DataError: the arrays have different lengths, or a row has several rewards or flags.
    """
    for name in _TABLE_ONLY & set(mapping):
        raise RequestError(f"'{name}' can be mapped for a table only", where=where, hint=f"leave --map {name}= out")
    keys: dict[str, str] = {}
    for name in _KEYS:
        keys.update(_find(name, available, mapping, where))
    for name, key in mapping.items():
        if name not in _KEYS and key:
            keys.update(_subtree(name, _present(key, available, where), available))
    _check_required(keys, mapping, required, available, where)
    rows = lengths[next(key for name, key in keys.items() if name.split(".")[0] == schema.OBSERVATION)]
    _check_lengths(keys, lengths, rows, where)
    for name, key in keys.items():
        if info := available[key]:
            check_scalar(name, key, info, where)
    _add_infos(keys, available, lengths, mapping, ignored, keep_others, log)
    return keys, rows


def check_scalar(name: str, key: str, info: ColumnInfo, where: str) -> None:
    """Raises DataError where a column that has one number per step has several."""
    if name in _SCALARS and np.prod(info.shape, dtype=np.int64) != 1:
        raise DataError(
            f"rows of '{key}' have the shape {info.shape}, but there is one {name} for each step",
            where=where,
            hint=f"write one number per row, or say where it is with --map {name}=KEY",
        )


def _find(
    name: str, available: Mapping[str, ColumnInfo | None], mapping: Mapping[str, str], where: str
) -> dict[str, str]:
    if name in mapping:
        return _subtree(name, _present(mapping[name], available, where), available) if mapping[name] else {}
    if any(field.startswith(name + ".") for field in mapping):
        return {}
    found = (_subtree(name, key, available) for key in _KEYS[name])
    return next((subtree for subtree in found if subtree), {})


def _subtree(name: str, key: str, available: Mapping[str, ColumnInfo | None]) -> dict[str, str]:
    """The key itself, or all keys below it where it is a group."""
    if key in available:
        return {name: key}
    below = [item for item in available if item.startswith(key + "/")]
    return {name + item[len(key) :].replace("/", "."): item for item in below}


def _present(key: str, available: Mapping[str, ColumnInfo | None], where: str) -> str:
    if key not in available and not any(item.startswith(key + "/") for item in available):
        raise SourceError(f"there is no key '{key}'", where=where, hint=f"the keys are {listed(available)}")
    return key


def _check_required(
    keys: Mapping[str, str],
    mapping: Mapping[str, str],
    required: tuple[str, ...],
    available: Mapping[str, ColumnInfo | None],
    where: str,
) -> None:
    there = {name.split(".")[0] for name in keys}
    for name in required:
        optional = mapping.get(name) == "" and name not in (schema.OBSERVATION, schema.ACTION)
        if name not in there and not optional:
            pointer = point_at(available, keys.values()) if name == schema.TERMINATED else ""
            raise SourceError(
                f"there is no '{_KEYS[name][0]}' (the {name})" + (f"; {pointer}" if pointer else ""),
                where=where,
                hint=f"say which key it is, with --map {name}=KEY; the keys are {listed(available) or 'none'}",
            )
    for name, key in keys.items():
        if available[key] is None:
            raise SourceError(
                f"'{key}' holds no numbers for each step, it can't be the {name}",
                where=where,
                hint=f"say which key holds it, with --map {name}=KEY",
            )


def _check_lengths(keys: Mapping[str, str], lengths: Mapping[str, int], rows: int, where: str) -> None:
    for key in keys.values():
        if lengths[key] != rows:
            raise DataError(
                f"'{key}' has {lengths[key]} rows, the observations have {rows}",
                where=where,
                hint="the file may be damaged; write all arrays with one row per time step",
            )
    if rows == 0:
        raise DataError("there are no rows", where=where, hint="give a file that holds at least one time step")


def _add_infos(
    keys: dict[str, str],
    available: Mapping[str, ColumnInfo | None],
    lengths: Mapping[str, int],
    mapping: Mapping[str, str],
    ignored: tuple[str, ...],
    keep_others: bool,
    log: Log,
) -> None:
    used = set(keys.values())
    rows = lengths[next(iter(used))]
    for key, info in available.items():
        name = f"{schema.INFO}.{key.removeprefix('infos/').replace('/', '.')}"
        unwanted = "" in (mapping.get(name), mapping.get(schema.INFO))
        if key in used or unwanted or any(key == item or key.startswith(item + "/") for item in ignored):
            continue
        if not (keep_others or key.startswith("infos/")):
            log.leave_out(key, f"not a known key; keep it with --map {name}={key}")
        elif info is None:
            log.leave_out(key, "not numbers")
        elif 0 in info.shape:
            log.leave_out(key, "no components")
        elif lengths[key] != rows:
            log.leave_out(key, f"{lengths[key]} rows instead of {rows}")
        else:
            keys[name] = key
