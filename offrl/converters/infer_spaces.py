"""The spaces of data that come without any: from an environment, from what the user says, or from the values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offrl.converters.options import ConvertOptions
from offrl.converters.report import Log
from offrl.converters.source import BLOCK_BYTES, ColumnInfo, Rows, check_kinds
from offrl.data import schema
from offrl.data.schema import flatten_space
from offrl.errors import DataError, RequestError, SpaceMismatchError, listed
from offrl.trust import allowing, make
from offrl.types import Spec

_MOST_CHOICES = 100_000


def spec_of(
    rows: Rows, options: ConvertOptions, *, where: str, log: Log, without_action: NDArray[np.int64] | None = None
) -> Spec:
    """The spaces of row-aligned data, and a note of how they were found.

    Args:
        rows: the data.
        options: the user's answers.
        where: the file.
        log: is told how the spaces were found.
        without_action: the rows whose actions mean nothing, ascending.

    Raises:
        SourceError: a column has no components, or a precision that no dataset has.
        SpaceMismatchError: the environment's spaces don't fit the columns.
        RequestError: there is no such environment, or the columns can't be described by spaces.
    """
    check_kinds(rows.columns, rows.keys, where)
    if options.environment is not None:
        spec = environment_spec(options.environment)
        check_columns(spec, rows.columns, environment=options.environment, where=where)
        log.note(f"the spaces are those of {options.environment}")
        return spec
    observed = {name: info for name, info in rows.columns.items() if name.split(".")[0] == schema.OBSERVATION}
    acted = {name: info for name, info in rows.columns.items() if name.split(".")[0] == schema.ACTION}
    wanted = [name for name, info in observed.items() if _is_discrete(info)]
    wanted += [name for name in acted if options.action_bounds is None or acted[name].dtype.kind != "f"]
    ranges = _ranges(rows, wanted, np.empty(0, np.int64) if without_action is None else without_action)
    observation = {name: _observation_space(name, info, ranges, where, log) for name, info in observed.items()}
    action = {name: _action_space(name, info, ranges, options, where, log) for name, info in acted.items()}
    if options.action_bounds is not None and not any(isinstance(space, spaces.Box) for space in action.values()):
        log.warn("--action-bounds has no effect: the actions are whole numbers")
    return Spec(_nested(observation, schema.OBSERVATION), _nested(action, schema.ACTION))


def environment_spec(environment: str) -> Spec:
    """The spaces of a Gymnasium environment that the user named.

    Raises:
        RequestError: there is no such environment, or it can't be made here.
    """
    try:
        with allowing(environment):
            made = make(environment)
    except Exception as error:  # whatever the environment's own code raises
        raise RequestError(
            f"the environment '{environment}' can't be made ({error})",
            hint="give the id of an installed Gymnasium environment",
        ) from error
    with_spaces = Spec(made.observation_space, made.action_space)
    made.close()
    return with_spaces


def check_columns(spec: Spec, columns: Mapping[str, ColumnInfo], *, environment: str, where: str) -> None:
    """Raises SpaceMismatchError unless the columns have the parts and shapes of the spaces."""
    for what, space in ((schema.OBSERVATION, spec.observation_space), (schema.ACTION, spec.action_space)):
        leaves = flatten_space(space, what)
        found = {name: info for name, info in columns.items() if name.split(".")[0] == what}
        if set(leaves) != set(found):
            raise SpaceMismatchError(
                f"{environment} has the {what} parts {listed(sorted(leaves))}, the data has {listed(sorted(found))}",
                where=where,
                hint="map the columns to these parts, or give the environment that the data was made in",
            )
        for name, leaf in leaves.items():
            if not _same_shape(found[name].shape, leaf.shape or ()):
                raise SpaceMismatchError(
                    f"rows of the {name} have the shape {found[name].shape}, in {environment} it is {leaf.shape}",
                    where=where,
                    hint="give the environment that the data was made in, or leave --env out",
                )


def _same_shape(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Equal but for axes of length one: many files store scalars as vectors of one."""
    return [n for n in left if n != 1] == [n for n in right if n != 1]


def conform(array: NDArray[Any], space: gym.Space[Any] | None) -> NDArray[Any]:
    """Rows in the shape and kind of number that their space has; scalars where there is no space.

    Floating-point data keep their dtype; whole numbers in floating-point columns become integers for a discrete space.
    """
    shape = () if space is None or space.shape is None else space.shape
    if array.shape[1:] != shape and _same_shape(array.shape[1:], shape):
        array = array.reshape(len(array), *shape)
    dtype = None if space is None else np.dtype(space.dtype)
    if dtype is None or (array.dtype.kind == "f" and dtype.kind == "f") or array.dtype == dtype:
        return array
    return array.astype(dtype)


@dataclass(frozen=True)
class _Range:
    low: NDArray[Any]
    high: NDArray[Any]
    whole: bool


def _ranges(rows: Rows, names: list[str], without_action: NDArray[np.int64]) -> dict[str, _Range]:
    """Least and greatest value of each component, NaN and actions that mean nothing aside, in one pass."""
    if not names:
        return {}
    step = max(1, BLOCK_BYTES // sum(rows.columns[name].row_bytes for name in names))
    bounds = [(start, min(start + step, rows.count)) for start in range(0, rows.count, step)]
    found: dict[str, _Range] = {}
    for (start, stop), data in zip(bounds, rows.slices(bounds, names), strict=True):
        low, high = np.searchsorted(without_action, (start, stop))
        for name, array in data.items():
            if high > low and name.split(".")[0] == schema.ACTION:
                array = np.delete(array, without_action[low:high] - start, axis=0)
            if len(array):
                found[name] = _merge(found.get(name), array)
    return found


def _merge(known: _Range | None, array: NDArray[Any]) -> _Range:
    low, high = np.fmin.reduce(array, axis=0), np.fmax.reduce(array, axis=0)
    whole = array.dtype.kind in "iub"
    if known is not None:
        low, high, whole = np.fmin(low, known.low), np.fmax(high, known.high), whole and known.whole
    return _Range(np.asarray(low), np.asarray(high), whole)


def _is_discrete(info: ColumnInfo) -> bool:
    return info.dtype.kind in "iu" and np.prod(info.shape) == 1 and len(info.shape) < 2


def _observation_space(
    name: str, info: ColumnInfo, ranges: Mapping[str, _Range], where: str, log: Log
) -> gym.Space[Any]:
    if _is_discrete(info):
        return _discrete(name, ranges[name], where, log)
    if info.dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, info.shape or (1,), info.dtype.type)
    if info.dtype.kind == "b":
        return spaces.MultiBinary(info.shape or (1,))
    limits = np.iinfo(info.dtype)
    return spaces.Box(limits.min, limits.max, info.shape, info.dtype.type)


def _action_space(
    name: str, info: ColumnInfo, ranges: Mapping[str, _Range], options: ConvertOptions, where: str, log: Log
) -> gym.Space[Any]:
    shape = info.shape or (1,)
    if info.dtype.kind == "b":
        return spaces.MultiBinary(shape) if info.shape else _discrete(name, ranges[name], where, log)
    if _is_discrete(info):
        return _discrete(name, ranges[name], where, log)
    if info.dtype.kind in "iu":
        choices = ranges[name].high + 1
        _check_choices(name, ranges[name], where)
        log.note(
            f"the {name} holds whole numbers: taken as MultiDiscrete({choices.tolist()}), one more than the largest"
        )
        return spaces.MultiDiscrete(choices)
    if options.action_bounds is not None:
        low, high = options.action_bounds
        return spaces.Box(low, high, shape, info.dtype.type)
    return _box(name, ranges[name], shape, info, log)


def _discrete(name: str, values: _Range, where: str, log: Log) -> spaces.Discrete:
    _check_choices(name, values, where)
    count = int(values.high.max()) + 1
    log.note(f"the {name} holds whole numbers up to {count - 1}: taken as Discrete({count})")
    return spaces.Discrete(count)


def _check_choices(name: str, values: _Range, where: str) -> None:
    low, high = int(values.low.min()), int(values.high.max())
    if low < 0 or high >= _MOST_CHOICES:
        raise DataError(
            f"the {name} holds whole numbers from {low} to {high}, which don't look like choices",
            where=where,
            hint="give the environment (--env ID), or store it as floating-point numbers if it is continuous",
        )


def _box(name: str, values: _Range, shape: tuple[int, ...], info: ColumnInfo, log: Log) -> spaces.Box:
    low, high = values.low.reshape(shape), values.high.reshape(shape)
    if not (np.isfinite(low) & np.isfinite(high)).all():
        return spaces.Box(-1.0, 1.0, shape, info.dtype.type)  # the values are checked, and refused, later
    if (low >= -1).all() and (high <= 1).all():
        log.note(f"every {name} lies within [-1, 1]: taken as its bounds (--env ID or --action-bounds says otherwise)")
        return spaces.Box(-1.0, 1.0, shape, info.dtype.type)
    same = low == high
    low, high = np.where(same, low - 1, low), np.where(same, high + 1, high)
    log.warn(
        f"the bounds of the {name} are not known: the least and greatest values found are taken "
        "(--env ID or --action-bounds says otherwise)"
    )
    return spaces.Box(low.astype(info.dtype), high.astype(info.dtype), shape, info.dtype.type)


def _nested(leaves: Mapping[str, gym.Space[Any]], root: str) -> gym.Space[Any]:
    """The inverse of `flatten_space`: dotted names become nested Dict spaces."""
    if root in leaves:
        return leaves[root]
    keys: Iterable[str] = dict.fromkeys(name[len(root) + 1 :].split(".")[0] for name in leaves)
    below = {key: {n: s for n, s in leaves.items() if f"{n}.".startswith(f"{root}.{key}.")} for key in keys}
    return spaces.Dict([(key, _nested(parts, f"{root}.{key}")) for key, parts in below.items()])
