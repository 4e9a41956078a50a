"""What is wrong with a store, and where: alignment, flags, values, bounds, returns, checksums, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offrl.checksums import file_sha256
from offrl.data import schema
from offrl.data.block import forbidden_choices
from offrl.data.schema import ShardRecord, flatten_space, required_columns
from offrl.data.shard import check_size, map_episodes, misalignment
from offrl.data.statistics import ColumnStatistics
from offrl.data.store import TrajectoryStore
from offrl.data.trajectories import merge_statistics
from offrl.errors import CorruptStoreError

Severity = Literal["error", "warning"]
_CHUNK_ROWS = 65_536
_CHANGED_FILE = ("checksum", "unreadable", "alignment")
_PADDED = (schema.ACTION, schema.REWARD, schema.TERMINATED, schema.TRUNCATED, schema.BEHAVIOR_LOG_PROB)
LARGEST = float(np.finfo(np.float32).max)
TOO_LARGE = "is too large for single precision, which training computes in"
"""Said of a value, and of a return, by training too."""
Bad = NDArray[np.bool_]


@dataclass(frozen=True)
class Finding:
    """One kind of thing that is wrong, with the first place where it is.

    Attributes:
        severity: "error": training on it goes wrong; "warning": it is legal, but look.
        code: one word: `checksum`, `unreadable`, `alignment`, `return`, `overflow`, `flag`, `end`, `both-flags`,
            `padding`, `mask`, `forbidden`, `nan`, `infinity`, `bounds`, `columns`, `statistics`.
        message: what is wrong, in words.
        count: how many files, episodes or rows it concerns.
        column: its column, where it has one.
        shard: the file of the first place.
        episode: the first episode, by position in the store.
        row: the first row, by position in the store.
        step: that row's position in its episode.
    """

    severity: Severity
    code: str
    message: str
    count: int = 1
    column: str | None = None
    shard: str | None = None
    episode: int | None = None
    row: int | None = None
    step: int | None = None

    @property
    def where(self) -> str:
        """The first place, in words."""
        parts = (("column", self.column), ("episode", self.episode), ("step", self.step), ("row", self.row))
        named = [f"{name} {value}" for name, value in parts if value is not None]
        return ", ".join([*named, f"file {self.shard}"] if self.shard else named)


def validate(store: TrajectoryStore) -> list[Finding]:
    """Check everything that a store promises, shard by shard; an empty list says that all is well.

    Findings of the same kind in the same column are put together.
    """
    # What has changed is told of, and looked at all the same.
    store = TrajectoryStore(store.path, store.metadata, verify=False)
    if wrong := list(_check_columns(store)):
        return wrong
    merged: dict[tuple[str, str | None, str | None], Finding] = {}
    first_row = first_episode = 0
    for index, record in enumerate(store.metadata.shards):
        for finding in _validate_shard(store, index, first_row, first_episode):
            whole_file = finding.code in _CHANGED_FILE
            key = (finding.code, finding.column, finding.shard if whole_file else None)
            seen = merged.get(key)
            merged[key] = replace(seen, count=seen.count + finding.count) if seen else finding
        first_row += record.rows
        first_episode += record.episodes
    if any(finding.code in _CHANGED_FILE for finding in merged.values()):
        return list(merged.values())  # the statistics are those of the files as they were
    return [*merged.values(), *_check_statistics(store)]


def _check_columns(store: TrajectoryStore) -> Iterator[Finding]:
    """The columns are those that the spaces ask for; without them, no row can be understood."""
    columns = {column.name: column for column in store.metadata.columns}
    if not columns and not store.metadata.shards:
        return
    for name, space in required_columns(store.spec).items():
        dtype, shape = _described(name, space)
        if (column := columns.get(name)) is None:
            yield Finding("error", "columns", "the column is missing", column=name)
        elif column.shape != shape or not (column.dtype == dtype or column.dtype.kind == dtype.kind == "f"):
            message = f"rows are {column.dtype} of the shape {column.shape}, not {dtype} of {shape} as the spaces say"
            yield Finding("error", "columns", message, column=name)


def _described(name: str, space: gym.Space[Any] | None) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype and shape of a row, as the spaces have them; any floating-point dtype does for another."""
    if space is None:
        return np.dtype(np.float64 if name == schema.REWARD else np.bool_), ()
    dtype = np.int64 if isinstance(space, spaces.Discrete) else space.dtype
    return np.dtype(dtype), tuple(space.shape or ())


def _check_statistics(store: TrajectoryStore) -> Iterator[Finding]:
    """The recorded statistics are those of the rows."""
    blocks = (store.shard_block(index) for index in range(len(store.metadata.shards)))
    actual = merge_statistics(block.statistics() for block in blocks)
    for name in sorted(actual.keys() | store.statistics.keys()):
        if name not in actual or name not in store.statistics or not _agree(actual[name], store.statistics[name]):
            message = "the recorded mean, spread or range isn't that of the rows"
            yield Finding("error", "statistics", message, column=name)


def _agree(one: ColumnStatistics, other: ColumnStatistics) -> bool:
    """Whether two statistics are the same but for rounding."""
    if one.count != other.count or one.mean.shape != other.mean.shape:
        return False
    largest = np.nan_to_num(np.maximum(np.abs(one.min), np.abs(one.max)), posinf=0.0)
    pairs = ((one.mean, other.mean), (one.std, other.std), (one.min, other.min), (one.max, other.max))
    with np.errstate(invalid="ignore"):
        close = [
            np.isclose(a, b, rtol=1e-6, atol=0, equal_nan=True) | (np.abs(a - b) <= 1e-9 * largest) for a, b in pairs
        ]
    return bool(np.all(close))


def _validate_shard(store: TrajectoryStore, index: int, first_row: int, first_episode: int) -> Iterator[Finding]:
    record = store.metadata.shards[index]
    yield from _check_files(store, record)
    try:
        table, _ = map_episodes(store.path / record.episodes_file, record.episodes)
        columns = store.shard(index)
    except CorruptStoreError as error:
        yield Finding("error", "unreadable", error.what, shard=error.where)
        return
    misaligned = misalignment(table["length"], table["first_row"], record.rows, first_row)
    if misaligned:
        yield Finding("error", "alignment", misaligned, shard=record.episodes_file)
        return
    shard = _Shard(record, columns, table["length"], table["return"], first_row, first_episode)
    yield from shard.check_returns()
    yield from shard.check_flags()
    yield from shard.check_masks(store.spec.action_space)
    for name in columns:
        yield from shard.check_padding(name)
    leaves = {
        **flatten_space(store.spec.observation_space, schema.OBSERVATION),
        **flatten_space(store.spec.action_space, schema.ACTION),
    }
    for name in columns:
        yield from shard.check_values(name, leaves.get(name))


def _check_files(store: TrajectoryStore, record: ShardRecord) -> Iterator[Finding]:
    files = (
        (record.rows_file, record.rows_bytes, record.rows_sha256),
        (record.episodes_file, record.episodes_bytes, record.episodes_sha256),
    )
    for name, size, digest in files:
        try:
            check_size(store.path / name, size)
        except CorruptStoreError as error:
            yield Finding("error", "unreadable", error.what, shard=name)
            continue
        if file_sha256(store.path / name) != digest:
            message = "the file's checksum isn't the one that was committed: its content has changed"
            yield Finding("error", "checksum", message, shard=name)


class _Shard:
    """One shard's arrays, and where they lie in the store."""

    def __init__(
        self,
        record: ShardRecord,
        columns: dict[str, NDArray[Any]],
        lengths: NDArray[np.int64],
        returns: NDArray[np.float64],
        first_row: int,
        first_episode: int,
    ) -> None:
        self.record, self.columns, self.lengths, self.returns = record, columns, lengths, returns
        self.first_row, self.first_episode = first_row, first_episode
        self.final = np.cumsum(lengths + 1) - 1
        self.starts = self.final - lengths

    def check_returns(self) -> Iterator[Finding]:
        """The returns in the episode table are the sums of the rewards."""
        with np.errstate(over="ignore"):
            sums = np.add.reduceat(self.columns[schema.REWARD].astype(np.float64), self.starts)
        wrong = np.flatnonzero(~np.isclose(sums, self.returns, rtol=1e-9, atol=1e-9, equal_nan=True))
        if len(wrong):
            first = wrong[0]
            message = f"the episode table says the return is {self.returns[first]:g}, the rewards add up to "
            yield self._in_episodes("error", "return", f"{message}{sums[first]:g}", wrong)
        if np.isfinite(self.columns[schema.REWARD]).all():
            large = np.flatnonzero(~(np.abs(sums) <= LARGEST))
            if len(large):
                yield self._in_episodes("error", "overflow", f"the return, {sums[large[0]]:g}, {TOO_LARGE}", large)

    def check_flags(self) -> Iterator[Finding]:
        """Each episode ends with a flag, and has none before."""
        terminated, truncated = self.columns[schema.TERMINATED], self.columns[schema.TRUNCATED]
        last = self.final - 1
        for name, flags in ((schema.TERMINATED, terminated), (schema.TRUNCATED, truncated)):
            inside = flags.copy()
            inside[last] = inside[self.final] = False
            yield from self._in_rows("error", "flag", "the flag is set, but the episode goes on", name, inside)
        neither = np.flatnonzero(~(terminated | truncated)[last])
        if len(neither):
            yield self._in_episodes("error", "end", "the episode ends neither terminated nor truncated", neither)
        both = np.flatnonzero((terminated & truncated)[last])
        if len(both):
            message = "the episode ends both terminated and truncated: it counts as terminated"
            yield self._in_episodes("warning", "both-flags", message, both)

    def check_masks(self, space: gym.Space[Any]) -> Iterator[Finding]:
        """In every transition's state, some action is allowed, and the one taken is."""
        name = schema.ACTION_MASK
        if name in self.columns:
            forbidden: Bad = np.logical_not(self.columns[name].reshape(self.record.rows, -1).any(axis=1))
            forbidden[self.final] = False  # a final row's mask says nothing where it is all False
            yield from self._in_rows("error", "mask", "the mask forbids every action", name, forbidden)
            taken = np.zeros(self.record.rows, np.bool_)
            taken[forbidden_choices(self.columns, self.final, space)] = True
            yield from self._in_rows("error", "forbidden", "the mask forbids the action taken", name, taken)

    def check_padding(self, name: str) -> Iterator[Finding]:
        """Final rows hold an observation, and zero elsewhere."""
        if name.split(".")[0] in _PADDED:
            bad = np.zeros(self.record.rows, np.bool_)
            bad[self.final] = (self.columns[name][self.final] != 0).reshape(len(self.final), -1).any(axis=1)
            yield from self._in_rows("error", "padding", "the row of a final observation isn't zero here", name, bad)

    def check_values(self, name: str, space: gym.Space[Any] | None) -> Iterator[Finding]:
        """Numbers are finite, and within the bounds of their space."""
        array = self.columns[name]
        bounds = None if space is None else _bounds(space)
        if array.dtype.kind != "f" and bounds is None:
            return
        bad = {code: np.zeros(self.record.rows, np.bool_) for code in ("nan", "infinity", "overflow", "bounds")}
        for start in range(0, self.record.rows, _CHUNK_ROWS):
            part = array[start : start + _CHUNK_ROWS]
            flat = part.reshape(len(part), -1)
            here = slice(start, start + len(part))
            if array.dtype.kind == "f":
                bad["nan"][here] = np.isnan(flat).any(axis=1)
                bad["infinity"][here] = np.isinf(flat).any(axis=1)
                if array.dtype.itemsize > 4:
                    bad["overflow"][here] = (np.isfinite(flat) & (np.abs(flat) > LARGEST)).any(axis=1)
            if bounds is not None:
                bad["bounds"][here] = _outside(flat, bounds).any(axis=1)
        if name.split(".")[0] == schema.ACTION:
            bad["bounds"][self.final] = False  # padding, which need not be an action
        bad["bounds"] &= ~bad["infinity"]
        severe = name.split(".")[0] == schema.ACTION or array.dtype.kind != "f"
        gaps: Severity = "warning" if name.split(".")[0] == schema.INFO else "error"  # nothing is trained on infos
        yield from self._in_rows(gaps, "nan", "the value is not a number", name, bad["nan"])
        yield from self._in_rows(gaps, "infinity", "the value is infinite", name, bad["infinity"])
        if name.split(".")[0] != schema.INFO:
            yield from self._in_rows("error", "overflow", f"the value {TOO_LARGE}", name, bad["overflow"])
        message = f"the value lies outside its space, {space}"
        yield from self._in_rows("error" if severe else "warning", "bounds", message, name, bad["bounds"])

    def _in_rows(self, severity: Severity, code: str, message: str, column: str, bad: Bad) -> Iterator[Finding]:
        rows = np.flatnonzero(bad)
        if len(rows):
            row = int(rows[0])
            episode = int(np.searchsorted(self.final, row))
            yield Finding(
                severity,
                code,
                message,
                len(rows),
                column,
                self.record.rows_file,
                self.first_episode + episode,
                self.first_row + row,
                row - int(self.starts[episode]),
            )

    def _in_episodes(self, severity: Severity, code: str, message: str, episodes: NDArray[np.int64]) -> Finding:
        first = int(episodes[0])
        return Finding(
            severity,
            code,
            message,
            len(episodes),
            shard=self.record.rows_file,
            episode=self.first_episode + first,
            row=self.first_row + int(self.final[first]) - 1,
            step=int(self.lengths[first]) - 1,
        )


def _bounds(space: gym.Space[Any]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """The least and greatest legal values, flat; None where the dtype can't hold any other."""
    match space:
        case spaces.Box():
            low, high = space.low.reshape(-1), space.high.reshape(-1)
        case spaces.Discrete():
            low, high = np.array([space.start]), np.array([space.start + space.n - 1])
        case spaces.MultiDiscrete():
            low = space.start.reshape(-1)
            high = low + space.nvec.reshape(-1) - 1
        case _:
            low, high = np.zeros(1, np.int8), np.ones(1, np.int8)
    if low.dtype.kind in "iu":
        limits = np.iinfo(low.dtype)
        every_value = (low == limits.min).all() and (high == limits.max).all()
    else:
        every_value = np.isneginf(low).all() and np.isposinf(high).all()
    return None if every_value else (low, high)


def _outside(values: NDArray[Any], bounds: tuple[NDArray[Any], NDArray[Any]]) -> Bad:
    # A float64 copy of a float32 bound may lie just beyond it: values are compared in the dtype of the bounds.
    low, high = bounds
    cast = values.astype(low.dtype, copy=False) if values.dtype.kind == "f" else values
    return np.asarray((cast < low) | (cast > high))
