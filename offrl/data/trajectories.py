"""The reading interface that stores and selections from them share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from offrl.data import schema
from offrl.data.block import EpisodeBlock
from offrl.data.pandas_table import to_pandas
from offrl.data.schema import ColumnSpec, StoreMetadata, has_final_row, unflatten_value
from offrl.data.shard import to_arrow
from offrl.data.statistics import ColumnStatistics
from offrl.errors import RequestError
from offrl.types import Spec

if TYPE_CHECKING:
    import pandas as pd

    from offrl.data.episode import Episode


@dataclass(frozen=True)
class EpisodeTable:
    """What is known of each episode, by position.

    Attributes:
        first_row: int64 [episodes]; the row of its first transition. It has `length` + 1 rows.
        length: int64 [episodes]; transitions.
        return_: float64 [episodes]; undiscounted sum of rewards.
        seed: int64 [episodes]; -1 where it is not known.
        sources: Arrow text array [episodes]; null where it is not known.
    """

    first_row: NDArray[np.int64]
    length: NDArray[np.int64]
    return_: NDArray[np.float64]
    seed: NDArray[np.int64]
    sources: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.length)

    def source(self, index: int) -> str | None:
        """Where one episode came from ("file.hdf5#17"); None where it is not known."""
        text: str | None = self.sources[index].as_py()
        return text


class Trajectories(ABC):
    """The reading interface of a store and of a selection of its episodes.

    Rows are numbered from 0 over all episodes, T + 1 rows each, without gaps.

    Attributes:
        metadata: spaces, columns, where it is from.
        num_episodes: episodes.
        num_rows: rows: one for each transition, and one more for each episode's final observation.
        rows_at_once: how many are read together, where all are.

    Example:
        >>> store = open_dataset("hopper-medium")
        >>> len(store), [episode.length for episode in store[-3:]]
        (250, [281, 289, 310])
        >>> best = store[store.episodes.return_ > 1200]
    """

    metadata: StoreMetadata
    num_episodes: int
    num_rows: int
    rows_at_once: ClassVar[int] = 100_000

    def __len__(self) -> int:
        """Episodes."""
        return self.num_episodes

    def __iter__(self) -> Iterator[Episode]:
        return map(self.episode, range(self.num_episodes))

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> Episode: ...
    @overload
    def __getitem__(self, key: slice | Sequence[int] | NDArray[Any]) -> StoreView: ...

    def __getitem__(self, key: int | np.integer[Any] | slice | Sequence[int] | NDArray[Any]) -> Episode | StoreView:
        """One episode by its position, or a selection: by a slice, positions, or a mask; -1 is the last.

        Raises:
            RequestError: there is no such episode.

        Example:
            >>> store[3].length, len(store[:100]), len(store[[5, 2]])
            (285, 100, 2)
        """
        if isinstance(key, slice):
            return self.select(np.arange(self.num_episodes)[key])
        if isinstance(key, int | np.integer):
            return self.episode(int(key) + (self.num_episodes if -self.num_episodes <= key < 0 else 0))
        chosen = np.asarray(key)
        if chosen.dtype != np.bool_:
            from_the_end = (chosen < 0) & (chosen >= -self.num_episodes)
            chosen = np.where(from_the_end, chosen + self.num_episodes, chosen)
        return self.select(chosen)

    def __repr__(self) -> str:
        spec, name = self.spec, self.metadata.name
        facts = {
            "environment": self.metadata.environment or "not named",
            "observation": spec.observation_space,
            "action": spec.action_space,
            "columns": ", ".join(
                f"{column.name} {column.dtype}{list(column.shape) or ''}" for column in self.metadata.columns
            ),
        }
        lines = [
            f"{type(self).__name__} '{name}': {self.num_episodes:,} episodes, {self.num_steps:,} steps, "
            f"{self.num_bytes / 1e6:,.1f} MB",
            *(f"  {key:<13}{value}" for key, value in facts.items()),
        ]
        return "\n".join(lines)

    def to_pandas(self, *, final: bool = False) -> pd.DataFrame:
        """A table in memory with one row per time step, behind its `episode` and `step`, both counted from 0.

        A vector has a column for each component, `observation.0` and so on. An image, like all that has more
        dimensions, is one array in each cell.

        Args:
            final: have a row for each episode's final observation too, in which actions, rewards and flags are missing.

        Example:
            >>> store[3:5].to_pandas().groupby("episode").reward.sum()
        """
        return to_pandas(self, final=final)

    @cached_property
    def episodes(self) -> EpisodeTable:
        """The table of episodes."""
        raise NotImplementedError

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Names the data and its order; the same wherever the store lies."""

    @cached_property
    def statistics(self) -> dict[str, ColumnStatistics]:
        """By column, over transition rows; `return` and `length` over episodes."""
        described = (schema.OBSERVATION, schema.ACTION, schema.REWARD)
        return {
            **self.column_statistics([name for name in self.columns if name.split(".")[0] in described]),
            "return": ColumnStatistics.of(self.episodes.return_),
            "length": ColumnStatistics.of(self.episodes.length),
        }

    def column_statistics(self, columns: Sequence[str]) -> dict[str, ColumnStatistics]:
        """Those of some columns, over transition rows; only these are read."""
        final, total = self.episodes.first_row + self.episodes.length, dict[str, ColumnStatistics]()
        for start in range(0, self.num_rows, self.rows_at_once):
            stop = min(start + self.rows_at_once, self.num_rows)
            low, high = np.searchsorted(final, (start, stop))
            for name, values in self.gather_columns(columns, np.arange(start, stop)).items():
                part = ColumnStatistics.of(values, skip=final[low:high] - start)
                total[name] = total[name].merge(part) if name in total else part
        return total

    @abstractmethod
    def read(self, column: str, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` (exclusive) of a column: [stop - start, ...], read-only and without a copy if it can.

        Raises:
            RequestError: there is no such column, or no such rows.
        """

    @abstractmethod
    def gather_columns(self, columns: Sequence[str], rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The rows named by an int64 array [n] of several columns, each [n, ...]; only their pages are touched.

        Raises:
            RequestError: there is no such column, or no such row.
        """

    def gather(self, column: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """`gather_columns` for a single column."""
        return self.gather_columns([column], rows)[column]

    @property
    def spec(self) -> Spec:
        """The observation and action spaces."""
        return self.metadata.spec

    @property
    def num_steps(self) -> int:
        """Transitions."""
        return self.num_rows - self.num_episodes

    @property
    def num_bytes(self) -> int:
        """Bytes that all rows take."""
        return self.num_rows * sum(column.row_bytes for column in self.metadata.columns)

    @property
    def columns(self) -> dict[str, ColumnSpec]:
        """The columns by name, in the order they have on disk: dtypes, and shapes of one row.

        Example:
            >>> store.columns["observation"].shape
            (11,)
        """
        return {column.name: column for column in self.metadata.columns}

    @property
    def column_names(self) -> list[str]:
        """The columns in the order they have on disk."""
        return [column.name for column in self.metadata.columns]

    def select(self, episodes: NDArray[Any]) -> StoreView:
        """Only these episodes, in this order: nothing is copied.

        Args:
            episodes: int [k] positions (repeats are allowed), or bool [episodes].

        Raises:
            RequestError: a position is out of range.
        """
        positions = np.asarray(episodes)
        if positions.dtype == np.bool_:
            if positions.shape != (self.num_episodes,):
                raise RequestError(f"a mask of {positions.shape} can't select from {self.num_episodes} episodes")
            positions = np.flatnonzero(positions)
        return StoreView(self, check_rows(positions.astype(np.int64), self.num_episodes, "episode"))

    def episode(self, index: int) -> Episode:
        """One episode, nested as the spaces are."""
        from offrl.data.episode import Episode

        table = self.episodes
        check_rows(np.array([index]), len(table), "episode")
        first, length = int(table.first_row[index]), int(table.length[index])
        columns = {name: self.read(name, first, first + length + 1) for name in self.column_names}
        steps = {name: array if has_final_row(name) else array[:length] for name, array in columns.items()}
        described = (schema.OBSERVATION, schema.ACTION, schema.REWARD, schema.TERMINATED, schema.TRUNCATED)
        return Episode(
            observation=unflatten_value(self.spec.observation_space, steps, schema.OBSERVATION),
            action=unflatten_value(self.spec.action_space, steps, schema.ACTION),
            reward=steps[schema.REWARD],
            terminated=steps[schema.TERMINATED],
            truncated=steps[schema.TRUNCATED],
            extras={name: array for name, array in steps.items() if name.split(".")[0] not in described},
            seed=int(table.seed[index]),
            source=table.source(index),
            return_=float(table.return_[index]),
        )

    def iterate_blocks(self, max_rows: int) -> Iterator[EpisodeBlock]:
        """Whole episodes in order, at most `max_rows` rows at a time (more only where one episode is longer)."""
        table = self.episodes
        ends = np.cumsum(table.length + 1)
        start = 0
        while start < len(table):
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + max_rows, side="right")))
            yield EpisodeBlock(
                columns={name: self.read(name, done, int(ends[stop - 1])) for name in self.column_names},
                lengths=table.length[start:stop],
                seeds=table.seed[start:stop],
                sources=[text or "" for text in table.sources.slice(start, stop - start).to_pylist()],
            )
            start = stop

    def normalized_score(self, returns: float | NDArray[Any]) -> float | NDArray[Any]:
        """100 (R - random) / (expert - random), with the references that came with the data.

        Raises:
            RequestError: the store has no reference scores, or equal ones.
        """
        scores = self.metadata.reference_scores
        if "random" not in scores or "expert" not in scores:
            raise RequestError(
                f"the dataset '{self.metadata.name}' has no reference scores",
                hint="measure a random and an expert policy, and write both into its reference scores",
            )
        span = float(scores["expert"]) - float(scores["random"])
        if span == 0.0:
            raise RequestError(
                f"the dataset '{self.metadata.name}' has equal reference scores for both policies: they make no scale",
                hint="measure a random and an expert policy again, and write both into its reference scores",
            )
        return 100.0 * (returns - float(scores["random"])) / span


class StoreView(Trajectories):
    """Some episodes of a store, in an order of their own."""

    def __init__(self, parent: Trajectories, selected: NDArray[np.int64]) -> None:
        self.parent, self.selected = parent, selected
        self.metadata, table = parent.metadata, parent.episodes
        length, sources = table.length[selected], table.sources.take(to_arrow(selected))
        first_row = np.cumsum(length + 1) - (length + 1)
        self.episodes = EpisodeTable(first_row, length, table.return_[selected], table.seed[selected], sources)
        self.num_episodes, self.num_rows = len(selected), int(length.sum()) + len(selected)
        # Where each run of episodes that are neighbors in the parent too starts: rows here, rows in the parent.
        breaks = np.flatnonzero(np.diff(selected, prepend=-2) != 1)
        self._runs = first_row[breaks], table.first_row[selected[breaks]]

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.parent.fingerprint.encode() + self.selected.tobytes()).hexdigest()

    def read(self, column: str, start: int, stop: int) -> NDArray[Any]:
        check_range(start, stop, self.num_rows)
        here, there = self._runs
        first, last = np.searchsorted(here, [start, stop - 1], side="right") - 1
        if first == last:
            shift = int(there[first] - here[first]) if len(here) else 0
            return self.parent.read(column, start + shift, stop + shift)
        return self.parent.gather(column, self.parent_rows(np.arange(start, stop)))

    def gather_columns(self, columns: Sequence[str], rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return self.parent.gather_columns(columns, self.parent_rows(check_rows(rows, self.num_rows, "row")))

    def parent_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same rows as the parent numbers them."""
        here, there = self._runs
        if len(here) == 0:
            return rows
        run = np.searchsorted(here, rows, side="right") - 1
        return rows + (there - here)[run]


def merge_statistics(parts: Iterator[Mapping[str, ColumnStatistics]]) -> dict[str, ColumnStatistics]:
    """Statistics of several blocks as one."""
    total: dict[str, ColumnStatistics] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name].merge(value) if name in total else value
    return total


def check_range(start: int, stop: int, rows: int) -> None:
    """Raises RequestError unless 0 <= start <= stop <= rows."""
    if not 0 <= start <= stop <= rows:
        raise RequestError(f"rows {start} to {stop} don't lie within the {rows} rows there are")


def check_rows(positions: NDArray[np.int64], count: int, what: str) -> NDArray[np.int64]:
    """Return the positions; raises RequestError unless 0 <= position < count for each."""
    if positions.size and (positions.min() < 0 or positions.max() >= count):
        raise RequestError(f"{what} {_first_outside(positions, count)} is out of range: there are {count}")
    return positions


def _first_outside(positions: NDArray[np.int64], count: int) -> int:
    return int(positions[(positions < 0) | (positions >= count)][0])
