"""Whole episodes in memory, and the checks that a block must pass before any of it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offrl.data import schema
from offrl.data.schema import ColumnSpec, required_columns
from offrl.data.statistics import ColumnStatistics
from offrl.errors import DataError, listed
from offrl.types import Spec


@dataclass
class EpisodeBlock:
    """Whole episodes back to back, T + 1 rows each; the last row of an episode holds only its final observation.

    Attributes:
        columns: column name to [rows, ...], where rows = Σ (T + 1) in every column. Action, reward, flags and
            behavior log-probability are zero in the last row of an episode.
        lengths: int64 [episodes], transitions per episode, each at least 1.
        seeds: int64 [episodes], the seed that each episode was started with; -1 where it is not known.
        sources: where each episode came from ("file.hdf5#17"), for messages.
    """

    columns: dict[str, NDArray[Any]]
    lengths: NDArray[np.int64]
    seeds: NDArray[np.int64] | None = None
    sources: list[str] | None = None

    @property
    def num_rows(self) -> int:
        return int(self.lengths.sum() + len(self.lengths))

    @cached_property
    def final_rows(self) -> NDArray[np.int64]:
        """int64 [episodes]: the row of each episode's final observation."""
        return np.cumsum(self.lengths + 1) - 1

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """int64 [episodes]: the row of each episode's first transition."""
        return self.final_rows - self.lengths

    def returns(self) -> NDArray[np.float64]:
        """float64 [episodes]: the undiscounted sum of each episode's rewards."""
        rewards = self.columns[schema.REWARD].astype(np.float64)
        # An infinite sum is refused by whoever learns from it, and told by `validate`.
        with np.errstate(over="ignore"):
            return np.add.reduceat(rewards, self.first_rows) if len(self.lengths) else np.empty(0)

    def statistics(self) -> dict[str, ColumnStatistics]:
        """Statistics of observations, actions and rewards over the transition rows, and of returns and lengths."""
        described = (schema.OBSERVATION, schema.ACTION, schema.REWARD)
        found = {
            name: ColumnStatistics.of(array, skip=self.final_rows)
            for name, array in self.columns.items()
            if name.split(".")[0] in described
        }
        return {
            **found,
            "return": ColumnStatistics.of(self.returns()),
            "length": ColumnStatistics.of(self.lengths),
        }

    def episode_of(self, row: int) -> str:
        """The episode that a row lies in, in words."""
        return self.describe(int(np.searchsorted(self.final_rows, row)))

    def describe(self, episode: int) -> str:
        """An episode, in words: its position in the block and where it came from."""
        source = f" ({self.sources[episode]})" if self.sources and self.sources[episode] else ""
        return f"episode {episode} of the block{source}"

    def slice(self, start: int, stop: int) -> EpisodeBlock:
        """Episodes `start` to `stop` (exclusive), as views."""
        first = int(self.first_rows[start])
        last = int(self.final_rows[stop - 1]) + 1
        return EpisodeBlock(
            {name: array[first:last] for name, array in self.columns.items()},
            self.lengths[start:stop],
            None if self.seeds is None else self.seeds[start:stop],
            None if self.sources is None else self.sources[start:stop],
        )


def fix_columns(spec: Spec, block: EpisodeBlock) -> tuple[ColumnSpec, ...]:
    """The columns of a new store, from its spaces and its first block.

    Floating-point columns keep the block's dtype; others have the dtype of their space (int64 for Discrete).

    Raises:
        DataError: a column is missing, unknown, or doesn't fit its space.
    """
    required = required_columns(spec)
    for name in required:
        if name not in block.columns:
            raise DataError(
                f"the block has no column '{name}'",
                where=_source(block),
                hint=f"it has {listed(block.columns)}; the spaces ask for {listed(required)}",
            )
    extras = sorted(set(block.columns) - set(required))
    return tuple(_fix_column(name, required.get(name), block) for name in [*required, *extras])


def _source(block: EpisodeBlock) -> str:
    return block.sources[0] if block.sources else ""


def _fix_column(name: str, space: gym.Space[Any] | None, block: EpisodeBlock) -> ColumnSpec:
    array = block.columns[name]
    dtype = array.dtype.newbyteorder("=")
    wanted: tuple[np.dtype[Any], tuple[int, ...]]
    if isinstance(space, spaces.Discrete):
        wanted = np.dtype(np.int64), ()
    elif space is not None:
        wanted = np.dtype(space.dtype), tuple(space.shape or ())
    elif name in (schema.TERMINATED, schema.TRUNCATED):
        wanted = np.dtype(np.bool_), ()
    elif name in (schema.REWARD, schema.BEHAVIOR_LOG_PROB):
        wanted = np.dtype(np.float64), ()
    elif name == schema.ACTION_MASK:
        wanted = np.dtype(np.bool_), array.shape[1:]
    elif name.startswith(schema.INFO + ".") and dtype.kind in "biuf":
        wanted = dtype, array.shape[1:]
    else:
        raise DataError(
            f"'{name}' ({dtype}) is not a column that a store can have",
            where=_source(block),
            hint=f"call it '{schema.INFO}.{name}' and give it numbers, or leave it out",
        )
    if 0 in wanted[1]:
        raise DataError(
            f"rows of '{name}' have the shape {wanted[1]}: there are no components in it",
            where=_source(block),
            hint="give spaces with at least one component, or leave the column out",
        )
    if dtype.kind == "f" and dtype.itemsize > np.dtype(np.float64).itemsize:
        raise DataError(
            f"'{name}' holds {dtype.name}, and a dataset has float64 at most",
            where=_source(block),
            hint="convert the column to float64",
        )
    column = ColumnSpec(name, dtype if wanted[0].kind == dtype.kind == "f" else wanted[0], wanted[1])
    _check_fits(column, block)
    return column


def _check_fits(column: ColumnSpec, block: EpisodeBlock) -> None:
    array = block.columns[column.name]
    if array.shape[1:] != column.shape:
        raise DataError(
            f"rows of '{column.name}' have the shape {array.shape[1:]}, {column.shape} is expected",
            where=_source(block),
            hint="give the spaces that describe the data, or reshape the column",
        )
    if not np.can_cast(array.dtype, column.dtype, casting="safe"):
        raise DataError(
            f"'{column.name}' has the dtype {array.dtype}, which {column.dtype} can't hold exactly",
            where=_source(block),
            hint="give the spaces that describe the data, or convert the column first",
        )
    if len(rows := inexact_rows(array, column.dtype)):
        raise DataError(
            f"'{column.name}' is {array[rows[0]]}, which {column.dtype} can't hold exactly",
            where=f"row {rows[0]}, {block.episode_of(int(rows[0]))}",
            hint="give it in a larger unit, or less its offset",
        )


def prepare_block(columns: Sequence[ColumnSpec], block: EpisodeBlock) -> EpisodeBlock:
    """Check a block against a store's columns; the result has their dtypes, and shares memory where it can.

    Raises:
        DataError: the columns differ or aren't aligned, an episode is empty, the final rows aren't zero, the flags
            aren't where an episode ends, or an action mask forbids everything.
    """
    names = [column.name for column in columns]
    if set(block.columns) != set(names):
        raise DataError(
            f"the block has the columns {listed(sorted(block.columns))}, the store has {listed(sorted(names))}",
            where=_source(block),
        )
    _check_lengths(block)
    for column in columns:
        _check_fits(column, block)
    arrays = {c.name: block.columns[c.name].astype(c.dtype, copy=False) for c in columns}
    prepared = EpisodeBlock(arrays, block.lengths.astype(np.int64, copy=False), block.seeds, block.sources)
    _check_padding(prepared)
    _check_flags(prepared)
    _check_masks(prepared)
    return prepared


def inexact_rows(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """The rows of an array that hold whole numbers which a floating-point dtype can't: beyond 2^53 for float64."""
    if array.dtype.kind not in "iu" or dtype.kind != "f" or array.dtype.itemsize < dtype.itemsize or not len(array):
        return np.empty(0, np.int64)
    most = 2 ** (np.finfo(dtype).nmant + 1)
    if array.max() <= most and array.min() >= -most:
        return np.empty(0, np.int64)
    rounded = array.astype(dtype)
    with np.errstate(invalid="ignore"):
        back = rounded.astype(array.dtype)
    # What rounds up beyond the greatest whole number doesn't come back as anything in particular.
    changed = (back != array) | (rounded >= float(np.iinfo(array.dtype).max))
    return np.flatnonzero(changed.reshape(len(array), -1).any(axis=1))


def rows_without_choice(block: EpisodeBlock) -> NDArray[np.int64]:
    """Transitions whose action mask forbids every action; a final row's says nothing where it is all False."""
    mask = block.columns.get(schema.ACTION_MASK)
    if mask is None:
        return np.empty(0, np.int64)
    forbidden: NDArray[np.bool_] = np.logical_not(mask.reshape(len(mask), -1).any(axis=1))
    forbidden[block.final_rows] = False
    return np.flatnonzero(forbidden)


def forbidden_choices(
    columns: Mapping[str, NDArray[Any]], final_rows: NDArray[np.int64], space: gym.Space[Any]
) -> NDArray[np.int64]:
    """Transitions whose own mask forbids the action that was taken while it allows others; of Discrete actions."""
    mask = columns.get(schema.ACTION_MASK)
    if mask is None or not isinstance(space, spaces.Discrete) or mask.shape[1:] != (space.n,):
        return np.empty(0, np.int64)
    choice = columns[schema.ACTION].reshape(-1).astype(np.int64) - int(space.start)
    rows = np.flatnonzero((choice >= 0) & (choice < space.n) & mask.any(axis=1))
    rows = rows[~mask[rows, choice[rows]].astype(np.bool_)]
    return np.setdiff1d(rows, final_rows)


def _check_lengths(block: EpisodeBlock) -> None:
    if len(block.lengths) and int(block.lengths.min()) < 1:
        episode = int(block.lengths.argmin())
        raise DataError(
            f"an episode has {block.lengths[episode]} transitions, it needs at least one",
            where=block.describe(episode),
            hint="leave empty episodes out",
        )
    for name, array in block.columns.items():
        if len(array) != block.num_rows:
            raise DataError(
                f"'{name}' has {len(array)} rows, {len(block.lengths)} episodes of these lengths have {block.num_rows}",
                where=_source(block),
                hint="give every column T + 1 rows per episode: the last holds the final observation, else zero",
            )
    for name, items in (("seeds", block.seeds), ("sources", block.sources)):
        if items is not None and len(items) != len(block.lengths):
            raise DataError(f"there are {len(items)} {name} for {len(block.lengths)} episodes", where=_source(block))


def _check_padding(block: EpisodeBlock) -> None:
    padded = (schema.ACTION, schema.REWARD, schema.TERMINATED, schema.TRUNCATED, schema.BEHAVIOR_LOG_PROB)
    for name, array in block.columns.items():
        if name.split(".")[0] not in padded:
            continue
        wrong = np.flatnonzero(array[block.final_rows].reshape(len(block.lengths), -1).any(axis=1))
        if len(wrong):
            raise DataError(
                f"'{name}' isn't zero in the last row of an episode, which holds only the final observation",
                where=block.describe(int(wrong[0])),
                hint="shift the column so that row t holds what was done in the state of row t, and end it with zero",
            )


def _check_flags(block: EpisodeBlock) -> None:
    ended = block.columns[schema.TERMINATED] | block.columns[schema.TRUNCATED]
    last = block.final_rows - 1
    open_ended = np.flatnonzero(~ended[last])
    if len(open_ended):
        raise DataError(
            "an episode ends neither terminated nor truncated",
            where=block.describe(int(open_ended[0])),
            hint="mark its last transition truncated, if recording simply stopped there",
        )
    if np.count_nonzero(ended) != len(block.lengths):
        inside = np.setdiff1d(np.flatnonzero(ended), last)
        raise DataError(
            "a transition is terminated or truncated, but its episode goes on",
            where=f"row {inside[0]}, {block.episode_of(int(inside[0]))}",
            hint="start a new episode after every terminated or truncated transition",
        )


def _check_masks(block: EpisodeBlock) -> None:
    rows = rows_without_choice(block)
    if len(rows):
        raise DataError(
            f"an {schema.ACTION_MASK} forbids every action ({len(rows)} such rows in the block)",
            where=f"row {rows[0]}, {block.episode_of(int(rows[0]))}",
            hint="a mask is True where an action is allowed: check that it isn't the other way round",
        )
