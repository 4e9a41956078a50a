"""What every chunk is checked for before it is written, whatever format it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offrl.converters.field_mapping import BEHAVIOR_PROB
from offrl.converters.flags import read_flags
from offrl.converters.options import OutOfBounds
from offrl.converters.report import Chunk, Log
from offrl.data import schema
from offrl.data.block import EpisodeBlock, forbidden_choices, inexact_rows, rows_without_choice
from offrl.data.schema import flatten_space
from offrl.types import Spec

_ROUNDING = 1e-5
"""Actions may leave their bounds by this part of the range: a bound stored in float32 is a rounded one."""


class Checker:
    """Checks chunks against the spaces, clips actions where asked to, and tells the log what it finds.

    Args:
        spec: the spaces of the data.
        out_of_bounds: what to do with actions outside their bounds.
        label: the file, for messages.
        log: is told.
        keys: column to what the source calls it, for messages.
    """

    def __init__(
        self, spec: Spec, out_of_bounds: OutOfBounds, label: str, log: Log, keys: Mapping[str, str] | None = None
    ) -> None:
        self._actions = flatten_space(spec.action_space, schema.ACTION)
        observed = flatten_space(spec.observation_space, schema.OBSERVATION)
        self._choices = {name: space for name, space in observed.items() if not isinstance(space, spaces.Box)}
        self._out_of_bounds = out_of_bounds
        self._label = label
        self._log = log
        self._keys = keys or {}

    def check(self, chunk: Chunk) -> Chunk:
        """The chunk with masks as booleans, probabilities as logarithms, and actions clipped if that was asked for.

        Raises:
            DataError: a reward, action or log-probability isn't finite, a probability is none, an action or a discrete
                observation isn't in its space, or a mask forbids every action or the one taken (unless the log only
                lists problems); or a mask's value is neither yes nor no.
        """
        chunk = self._with_rewards(self._with_log_probabilities(self._with_masks(chunk)))
        for name, array in chunk.block.columns.items():
            root = name.split(".")[0]
            if root in (schema.OBSERVATION, schema.INFO):
                self._warn_of_gaps(chunk, name, array)
            elif root in (schema.ACTION, schema.REWARD, schema.BEHAVIOR_LOG_PROB):
                self._refuse_gaps(chunk, name, array)
        for name, space in self._choices.items():
            self._refuse_unknown(chunk, name, space)
        self._refuse_early_ends(chunk)
        self._refuse_impossible(chunk)
        self._refuse_wrong_masks(chunk)
        clipped = {name: self._bounded(chunk, name, space) for name, space in self._actions.items()}
        return replace(chunk, block=_with(chunk.block, {**chunk.block.columns, **clipped}))

    def _place(self, chunk: Chunk, row: int, name: str, wrong: NDArray[np.bool_] | None = None) -> str:
        """Where a value stands in the source, by the source's own names.

        Args:
            chunk: the chunk.
            row: the row in it.
            name: the column.
            wrong: which components of that row are meant, where the column is made of several of the source.
        """
        key = self._keys.get(name, name)
        parts = key.split(",")
        if wrong is not None and len(parts) == wrong.size > 1:
            key = parts[int(wrong.argmax())]
        return f"{self._label}, {chunk.locate(int(row))}, column '{key}'"

    def _with_masks(self, chunk: Chunk) -> Chunk:
        mask = chunk.block.columns.get(schema.ACTION_MASK)
        if mask is None or mask.dtype == np.bool_:
            return chunk
        key = self._keys.get(schema.ACTION_MASK, schema.ACTION_MASK)
        read = read_flags(mask, field=schema.ACTION_MASK, key=key, where=self._label, locate=chunk.locate)
        return replace(chunk, block=_with(chunk.block, {**chunk.block.columns, schema.ACTION_MASK: read}))

    def _with_rewards(self, chunk: Chunk) -> Chunk:
        """Whole rewards become floating-point numbers, where these can hold them."""
        rewards = chunk.block.columns[schema.REWARD]
        if rewards.dtype.kind not in "iu":
            return chunk
        rows = inexact_rows(rewards, np.dtype(np.float64))
        if len(rows):
            self._log.problem(
                f"the reward is {rewards[rows[0]]}, which float64 can't hold exactly ({len(rows)} such rows from here "
                "on)",
                where=self._place(chunk, rows[0], schema.REWARD),
                hint="give rewards in a larger unit, or less their offset",
            )
        return replace(
            chunk, block=_with(chunk.block, {**chunk.block.columns, schema.REWARD: rewards.astype(np.float64)})
        )

    def _with_log_probabilities(self, chunk: Chunk) -> Chunk:
        """Probabilities become their logarithms, once each can be one: a density has no upper limit."""
        if BEHAVIOR_PROB not in chunk.block.columns:
            return chunk
        columns = dict(chunk.block.columns)
        probability = columns.pop(BEHAVIOR_PROB)
        discrete = not any(isinstance(space, spaces.Box) for space in self._actions.values())
        possible = (probability > 0) & (probability <= (1 + _ROUNDING if discrete else np.finfo(np.float64).max))
        possible[chunk.block.final_rows] = True  # padding
        rows = np.flatnonzero(~possible)
        if len(rows):
            self._log.problem(
                f"the {BEHAVIOR_PROB} is {_shown(probability[rows[0]])}, which can't be the probability of an action "
                f"that was taken ({len(rows)} such rows from here on)",
                where=self._place(chunk, rows[0], BEHAVIOR_PROB),
                hint=f"map probabilities above 0, up to 1, as {BEHAVIOR_PROB}; their logarithms are "
                f"{schema.BEHAVIOR_LOG_PROB}",
            )
        logged = np.zeros(len(probability), np.result_type(probability, np.float32))
        np.log(probability, out=logged, where=possible & (probability > 0))
        columns[schema.BEHAVIOR_LOG_PROB] = logged
        return replace(chunk, block=_with(chunk.block, columns))

    def _warn_of_gaps(self, chunk: Chunk, name: str, array: NDArray[Any]) -> None:
        rows = _not_finite(array)
        if len(rows):
            where = self._place(chunk, rows[0], name, ~np.isfinite(array[rows[0]]))
            self._log.warn(f"the {name} holds NaN or infinity", len(rows), where)

    def _refuse_gaps(self, chunk: Chunk, name: str, array: NDArray[Any]) -> None:
        rows = _not_finite(array)
        if len(rows):
            self._log.problem(
                f"the {name} is {_shown(array[rows[0]])} ({len(rows)} such rows from here on)",
                where=self._place(chunk, rows[0], name, ~np.isfinite(array[rows[0]])),
                hint=f"correct the {name} in the source, or leave those episodes out of it",
            )

    def _refuse_unknown(self, chunk: Chunk, name: str, space: gym.Space[Any]) -> None:
        """Observations that are choices must be among them, final ones too; others have bounds that nobody keeps."""
        array = chunk.block.columns[name]
        low, high, _ = _bounds(space)
        rows = np.flatnonzero(((array < low) | (array > high)).reshape(len(array), -1).any(axis=1))
        if len(rows):
            self._log.problem(
                f"the {name} {_shown(array[rows[0]])} lies outside {space} ({len(rows)} such rows from here on)",
                where=self._place(chunk, rows[0], name),
                hint="give the environment that the data was made in",
            )

    def _refuse_early_ends(self, chunk: Chunk) -> None:
        block = chunk.block
        ended = block.columns[schema.TERMINATED] | block.columns[schema.TRUNCATED]
        if np.count_nonzero(ended) > len(block.lengths):
            row = int(np.setdiff1d(np.flatnonzero(ended), block.final_rows - 1)[0])
            self._log.problem(
                "a step is terminated or truncated, but its episode goes on",
                where=f"{self._label}, {chunk.locate(row)}",
                hint="correct the flag, or split the episode there",
            )

    def _refuse_impossible(self, chunk: Chunk) -> None:
        """The probability of a discrete action is at most 1; a density has no such limit."""
        logged = chunk.block.columns.get(schema.BEHAVIOR_LOG_PROB)
        if logged is None or any(isinstance(space, spaces.Box) for space in self._actions.values()):
            return
        rows = np.flatnonzero(logged > _ROUNDING)
        if len(rows):
            self._log.problem(
                f"the {schema.BEHAVIOR_LOG_PROB} is {_shown(logged[rows[0]])}, a probability of more than 1 "
                f"({len(rows)} such rows from here on)",
                where=self._place(chunk, rows[0], schema.BEHAVIOR_LOG_PROB),
                hint="map probabilities as behavior_prob, and their logarithms as behavior_log_prob",
            )

    def _refuse_wrong_masks(self, chunk: Chunk) -> None:
        block = chunk.block
        taken = [forbidden_choices(block.columns, block.final_rows, space) for space in self._actions.values()]
        for what, rows in (("every action", rows_without_choice(block)), ("the action taken", np.concatenate(taken))):
            if len(rows):
                self._log.problem(
                    f"the {schema.ACTION_MASK} forbids {what} ({len(rows)} such rows from here on)",
                    where=self._place(chunk, rows[0], schema.ACTION_MASK),
                    hint="a mask is True where an action is allowed: check that it isn't the other way round in the "
                    f"source, or leave it out where actions were taken all the same: --map {schema.ACTION_MASK}=",
                )

    def _bounded(self, chunk: Chunk, name: str, space: gym.Space[Any]) -> NDArray[Any]:
        array: NDArray[Any] = chunk.block.columns[name]
        low, high, slack = _bounds(space)
        outside = ((array < low - slack) | (array > high + slack)) & np.isfinite(array)  # others are refused as such
        outside.reshape(len(array), -1)[chunk.block.final_rows] = False  # padding
        rows = np.flatnonzero(outside.reshape(len(array), -1).any(axis=1))
        if not len(rows):
            return array
        where = self._place(chunk, rows[0], name, outside[rows[0]])
        if self._out_of_bounds == "keep" and isinstance(space, spaces.Box):
            self._log.warn(f"the {name} lies outside its bounds; kept as it is", len(rows), where)
            return array
        if self._out_of_bounds == "clip" and isinstance(space, spaces.Box):
            self._log.warn(f"the {name} lies outside its bounds; clipped to them", len(rows), where)
            array = np.clip(array, low, high).astype(array.dtype, copy=False)
            array[chunk.block.final_rows] = 0
            return array
        self._log.problem(
            f"the {name} {_shown(array[rows[0]])} lies outside {space} ({len(rows)} such rows from here on)",
            where=where,
            hint="give the right bounds (--env ID or --action-bounds LOW,HIGH), or say --out-of-bounds clip or keep"
            if isinstance(space, spaces.Box)
            else "give the environment that the data was made in",
        )
        return array


def _with(block: EpisodeBlock, columns: Mapping[str, NDArray[Any]]) -> EpisodeBlock:
    """The same episodes with these columns."""
    return EpisodeBlock(dict(columns), block.lengths, block.seeds, block.sources)


def _not_finite(array: NDArray[Any]) -> NDArray[np.int64]:
    """Rows with a NaN or an infinity; the sum tells cheaply that there are none."""
    if array.dtype.kind != "f":
        return np.empty(0, np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):
            return np.empty(0, np.int64)
    return np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))


def _bounds(space: gym.Space[Any]) -> tuple[Any, Any, Any]:
    match space:
        case spaces.Box():
            with np.errstate(invalid="ignore"):
                span = space.high.astype(np.float64) - space.low
            slack = np.where(np.isfinite(span), span * _ROUNDING, 0.0).astype(space.dtype)
            return space.low, space.high, slack
        case spaces.Discrete():
            return int(space.start), int(space.start + space.n - 1), 0
        case spaces.MultiDiscrete():
            return space.start, space.start + space.nvec - 1, 0
    return 0, 1, 0


def _shown(value: Any) -> str:
    return np.array2string(value, precision=6, threshold=8) if np.ndim(value) else str(value)
