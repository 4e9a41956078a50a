"""The newest k observations in place of the last one, so that a policy sees motion."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.data import schema
from offrl.data.schema import ColumnSpec
from offrl.data.trajectories import Trajectories, check_range, check_rows


def newest(columns: Mapping[str, NDArray[Any]], frames: int) -> dict[str, NDArray[Any]]:
    """The last one of stacked observations, [N, k, …] each, by column; as they are where k is 1, and not stacked."""
    return {name: values[:, -1] if frames > 1 else values for name, values in columns.items()}


class StackedFrames(Trajectories):
    """Episodes whose every observation is the newest k ones, oldest first, [k, …].

    Before the k-th step of an episode its first observation is repeated, as Gymnasium's `FrameStackObservation` does.
    Nothing is copied until it is read.

    Args:
        parent: the episodes as they are.
        frames: k.
    """

    rows_at_once = 20_000

    def __init__(self, parent: Trajectories, frames: int) -> None:
        self.parent, self.frames = parent, frames
        columns = tuple(
            ColumnSpec(column.name, column.dtype, (frames, *column.shape)) if _is_observation(column.name) else column
            for column in parent.metadata.columns
        )
        spec = parent.spec.stacked(frames)
        self.metadata = dataclasses.replace(parent.metadata, spec=spec, columns=columns, statistics={})
        self.episodes, self.num_episodes, self.num_rows = parent.episodes, parent.num_episodes, parent.num_rows

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.parent.fingerprint} x {self.frames}".encode()).hexdigest()

    def read(self, column: str, start: int, stop: int) -> NDArray[Any]:
        check_range(start, stop, self.num_rows)
        if not _is_observation(column):
            return self.parent.read(column, start, stop)
        sources = self._sources(np.arange(start, stop))
        first = int(sources.min(initial=start))
        stacked: NDArray[Any] = self.parent.read(column, first, stop)[sources - first]
        return stacked

    def gather_columns(self, columns: Sequence[str], rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        rows = check_rows(np.asarray(rows, np.int64), self.num_rows, "row")
        observed = [column for column in columns if _is_observation(column)]
        others = [column for column in columns if not _is_observation(column)]
        sources = self._sources(rows)
        stacked = self.parent.gather_columns(observed, sources.reshape(-1)) if observed else {}
        gathered = {name: values.reshape(*sources.shape, *values.shape[1:]) for name, values in stacked.items()}
        return gathered | (self.parent.gather_columns(others, rows) if others else {})

    def _sources(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows that each row's stack is made of, [n, k]."""
        starts = self.episodes.first_row
        first = starts[np.searchsorted(starts, rows, side="right") - 1] if len(starts) else rows
        sources: NDArray[np.int64] = np.maximum(rows[:, None] - np.arange(self.frames - 1, -1, -1), first[:, None])
        return sources


def _is_observation(column: str) -> bool:
    return column.split(".")[0] == schema.OBSERVATION
