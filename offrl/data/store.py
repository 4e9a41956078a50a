"""The trajectory store: memory-mapped Arrow shards, named by a metadata file that is only ever replaced whole.

On disk: `metadata.json`, `shards/NNNNN.arrow` (rows) and `episodes/NNNNN.arrow` (the episode table of each shard).
A shard is written under a temporary name, synced and renamed, and only then named in `metadata.json`, which is
replaced likewise. So a process killed at any moment leaves a store that opens with every committed episode.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from offrl.checksums import changed_files
from offrl.data.block import EpisodeBlock, fix_columns, prepare_block
from offrl.data.metadata_file import read_metadata, write_metadata
from offrl.data.schema import FINGERPRINT_VERSION, ColumnSpec, ShardRecord, StoreMetadata
from offrl.data.shard import (
    EPISODE_COLUMNS,
    HINT,
    check_size,
    map_episodes,
    map_rows,
    misalignment,
    write_episodes,
    write_rows,
)
from offrl.data.space_encoding import space_to_json
from offrl.data.statistics import ColumnStatistics
from offrl.data.store_folder import lock_store, prepare_folder, remove_unnamed_shards
from offrl.data.trajectories import (
    EpisodeTable,
    StoreView,
    Trajectories,
    check_range,
    check_rows,
    merge_statistics,
)
from offrl.errors import (
    CorruptStoreError,
    RequestError,
    SpaceMismatchError,
    StoreError,
    listed,
)
from offrl.types import Spec

__all__ = ["EpisodeBlock", "EpisodeTable", "StoreView", "StoreWriter", "Trajectories", "TrajectoryStore"]


class TrajectoryStore(Trajectories):
    """A store on disk, opened for reading. It shows what was committed when it was opened.

    Each file's checksum is compared when the file is first read, and not again as long as the file isn't touched.

    Args:
        path: its folder.
        metadata: what stands there.
        verify: whether to compare checksums.
    """

    def __init__(self, path: Path, metadata: StoreMetadata, *, verify: bool = True) -> None:
        self.path = path
        self.metadata = metadata
        self._verifies = verify
        self._mapped: dict[int, dict[str, NDArray[Any]]] = {}
        self._first_rows = np.cumsum([0, *(shard.rows for shard in metadata.shards)])
        self.num_episodes, self.num_rows = sum(shard.episodes for shard in metadata.shards), int(self._first_rows[-1])

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TrajectoryStore:
        """Open a store: its metadata is read and the size of every file compared; no data is touched.

        Raises:
            DatasetNotFoundError: there is no store at `path`.
            SchemaVersionError: another version of offrl wrote it.
            CorruptStoreError: the metadata can't be read or has been changed, or a shard is missing or cut short.
        """
        folder = Path(path)
        metadata = read_metadata(folder)
        row_bytes = sum(column.row_bytes for column in metadata.columns)
        for shard in metadata.shards:
            _check_rows(folder, shard, row_bytes)
            check_size(folder / shard.rows_file, shard.rows_bytes)
            check_size(folder / shard.episodes_file, shard.episodes_bytes)
        return cls(folder, metadata)

    def verify(self) -> None:
        """Compare the checksums of all files with those that were committed, before anything is made of the data.

        Raises:
            CorruptStoreError: a file's content has changed, or it can't be read.
        """
        self._require_unchanged(*((shard.rows_file, shard.rows_sha256) for shard in self.metadata.shards))
        self._require_unchanged(*((shard.episodes_file, shard.episodes_sha256) for shard in self.metadata.shards))

    def _require_unchanged(self, *files: tuple[str, str]) -> None:
        if not self._verifies:
            return
        try:
            changed = changed_files((self.path / name, digest) for name, digest in files)
        except OSError as error:
            raise CorruptStoreError(
                f"a file of the store can't be read ({error.strerror})", where=str(self.path), hint=HINT
            ) from error
        if changed:
            raise CorruptStoreError(
                "the file's checksum isn't the one that was committed: its content has changed",
                where=str(changed[0]),
                hint=HINT,
            )

    @property
    def fingerprint(self) -> str:
        return self.metadata.fingerprint

    @cached_property
    def statistics(self) -> dict[str, ColumnStatistics]:
        return self.metadata.statistics

    def column_statistics(self, columns: Sequence[str]) -> dict[str, ColumnStatistics]:
        return {name: self.metadata.statistics[name] for name in columns}

    @cached_property
    def episodes(self) -> EpisodeTable:
        self._require_unchanged(*((shard.episodes_file, shard.episodes_sha256) for shard in self.metadata.shards))
        tables = [self._episodes_of(index) for index in range(len(self.metadata.shards))]
        sources = pa.chunked_array([source for _, source in tables], pa.string())
        columns = {
            column.name: _joined([table[column.name] for table, _ in tables], column) for column in EPISODE_COLUMNS
        }
        return EpisodeTable(columns["first_row"], columns["length"], columns["return"], columns["seed"], sources)

    def read(self, column: str, start: int, stop: int) -> NDArray[Any]:
        spec = self._column(column)
        check_range(start, stop, self.num_rows)
        low = max(0, int(np.searchsorted(self._first_rows, start, side="right")) - 1)
        high = int(np.searchsorted(self._first_rows, stop, side="left"))
        pieces = []
        for shard in range(low, max(high, low + 1) if start < stop else low):
            first = int(self._first_rows[shard])
            pieces.append(self.shard(shard)[column][max(0, start - first) : stop - first])
        return _joined(pieces, spec)

    def gather_columns(self, columns: Sequence[str], rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        specs = [self._column(name) for name in columns]
        check_rows(rows, self.num_rows, "row")
        out = {spec.name: np.empty((len(rows), *spec.shape), spec.dtype) for spec in specs}
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        bounds = np.searchsorted(ordered, self._first_rows)
        for shard in np.flatnonzero(np.diff(bounds)):
            part = slice(bounds[shard], bounds[shard + 1])
            arrays, local = self.shard(int(shard)), ordered[part] - self._first_rows[shard]
            for name, values in out.items():
                values[order[part]] = arrays[name].take(local, axis=0)
        return out

    def shard(self, index: int) -> dict[str, NDArray[Any]]:
        """Column name to [rows, ...] of one shard, over its memory map."""
        if index not in self._mapped:
            record = self.metadata.shards[index]
            self._require_unchanged((record.rows_file, record.rows_sha256))
            self._mapped[index] = map_rows(self.path / record.rows_file, self.metadata.columns, record.rows)
        return self._mapped[index]

    def shard_block(self, index: int) -> EpisodeBlock:
        """The episodes of one shard, without their seeds and sources."""
        record = self.metadata.shards[index]
        self._require_unchanged((record.episodes_file, record.episodes_sha256))
        table, _ = self._episodes_of(index)
        return EpisodeBlock(self.shard(index), table["length"])

    def _episodes_of(self, index: int) -> tuple[dict[str, NDArray[Any]], pa.Array]:
        """The episode table of one shard and its sources, which fit the shard's rows."""
        record = self.metadata.shards[index]
        path = self.path / record.episodes_file
        table, sources = map_episodes(path, record.episodes)
        wrong = misalignment(table["length"], table["first_row"], record.rows, int(self._first_rows[index]))
        if wrong is not None:
            raise CorruptStoreError(wrong, where=str(path), hint=HINT)
        return table, sources

    def _column(self, name: str) -> ColumnSpec:
        for column in self.metadata.columns:
            if column.name == name:
                return column
        raise RequestError(
            f"there is no column '{name}'", where=str(self.path), hint=f"it has {listed(self.column_names)}"
        )


def _joined(pieces: list[NDArray[Any]], column: ColumnSpec) -> NDArray[Any]:
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate([np.empty((0, *column.shape), column.dtype), *pieces])


class StoreWriter:
    """Writes a store, or appends to one. A context manager: leaving it well closes, an error drops what is buffered.

    Episodes are buffered until a shard's worth is there, so memory is bounded by `shard_bytes`, whatever is appended.
    Each shard is committed when it is written; `commit` writes what is buffered as a shard of its own.

    Args:
        path: the store's folder; made if need be, with its parents.
        spec: the observation and action spaces.
        environment: the environment's id.
        provenance: how the data came to be; JSON values.
        reference_scores: {"random": float, "expert": float, "measured_on": str, ...}.
        shard_bytes: rows of about this size make a shard.
        name: what people call the dataset; the folder's name unless given.
        append: go on with the store at `path` if there is one. Its name, environment, provenance and reference
            scores then stay as they are, save those that are given.
        fingerprint_version: what a new store's fingerprint is made of: that of a store which it is made from.

    Raises:
        StoreError: there is a store at `path` already (without `append`), something else is there, or another
            process is writing to it.
        SpaceMismatchError: the store to append to has other spaces.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: Spec,
        *,
        environment: str | None = None,
        provenance: dict[str, Any] | None = None,
        reference_scores: dict[str, Any] | None = None,
        shard_bytes: int = 64 * 2**20,
        name: str | None = None,
        append: bool = False,
        fingerprint_version: int = FINGERPRINT_VERSION,
    ) -> None:
        self.path = Path(path)
        self._shard_bytes = shard_bytes
        exists = prepare_folder(self.path, append)
        self._lock: int | None = lock_store(self.path)
        try:
            fresh = StoreMetadata(spec, name=self.path.name, fingerprint_version=fingerprint_version)
            metadata = TrajectoryStore.open(self.path).metadata if exists else fresh
            _check_same_spaces(metadata.spec, spec, self.path)
            given: dict[str, Any] = {
                "environment": environment,
                "provenance": provenance,
                "reference_scores": reference_scores,
                "name": name,
            }
            self._metadata = replace(metadata, **{key: item for key, item in given.items() if item is not None})
            remove_unnamed_shards(self.path, self._metadata)
            write_metadata(self.path, self._metadata)
        except BaseException:
            self._release()
            raise
        self._buffer: dict[str, NDArray[Any]] = {}
        self._pending: list[EpisodeBlock] = []
        self._pending_rows = 0

    def append(self, block: EpisodeBlock) -> None:
        """Add whole episodes; the arrays may be reused afterwards.

        Raises:
            DataError: the block is misaligned or doesn't fit the spaces; none of it is written.
            DiskFullError: there is no room; the shards written before stay committed.
        """
        self._check_open()
        if not len(block.lengths):
            return
        columns = self._metadata.columns or fix_columns(self._metadata.spec, block)
        block = prepare_block(columns, block)
        self._metadata = replace(self._metadata, columns=columns)
        start, ends = 0, block.final_rows + 1
        while start < len(ends):
            done = int(ends[start - 1]) if start else 0
            room = self._capacity - self._pending_rows
            stop = int(np.searchsorted(ends, done + room, side="right"))
            if self._pending_rows and stop < len(ends):
                self._hold(block, start, stop)
                self.commit()
            elif stop < len(ends):
                # The rest overflows an empty buffer: a shard is written from the block itself. One episode that is
                # larger than a shard becomes a larger shard.
                stop = max(stop, start + 1)
                self._write_shard(block.slice(start, stop))
            else:
                self._hold(block, start, stop)
            start = stop

    def commit(self) -> None:
        """Write the buffered episodes as a shard and name it in the metadata: from now on they survive a kill.

        Raises:
            DiskFullError: there is no room; the buffer is kept, so that `commit` can be tried again.
        """
        self._check_open()
        if not self._pending:
            return
        columns = {name: array[: self._pending_rows] for name, array in self._buffer.items()}
        self._write_shard(_buffered(columns, self._pending))
        self._pending, self._pending_rows = [], 0

    def keep(self, episodes: int) -> None:
        """Take out what was written behind the first so many episodes, with which a commit must have ended.

        Raises:
            StoreError: no commit ended there.
        """
        self._check_open()
        ends = np.cumsum([0, *(shard.episodes for shard in self._metadata.shards)])
        count = int(np.searchsorted(ends, episodes))
        if self._pending or count == len(ends) or ends[count] != episodes:
            raise StoreError(
                f"the first {episodes} of the {self.num_episodes} episodes can't be kept: no commit ended there",
                where=str(self.path),
                hint="give the store back the shards that it had",
            )
        if count == len(self._metadata.shards):
            return
        kept = replace(self._metadata, shards=self._metadata.shards[:count])
        store = TrajectoryStore(self.path, kept)
        statistics = merge_statistics(store.shard_block(i).statistics() for i in range(count))
        self._metadata = replace(kept, statistics=statistics)
        write_metadata(self.path, self._metadata)
        remove_unnamed_shards(self.path, self._metadata)

    def close(self) -> TrajectoryStore:
        """Commit, give the lock back, and open the store for reading."""
        if self._lock is not None:
            self.commit()
            self._release()
        return TrajectoryStore.open(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._lock is not None:
                self.commit()
        finally:
            self._release()

    @property
    def num_episodes(self) -> int:
        """Episodes appended so far, buffered ones and those from before among them."""
        committed = sum(shard.episodes for shard in self._metadata.shards)
        return committed + sum(len(block.lengths) for block in self._pending)

    @property
    def _capacity(self) -> int:
        row_bytes = sum(column.row_bytes for column in self._metadata.columns)
        return max(1, self._shard_bytes // row_bytes)

    def _hold(self, block: EpisodeBlock, start: int, stop: int) -> None:
        if start == stop:
            return
        part = block.slice(start, stop)
        rows = slice(self._pending_rows, self._pending_rows + part.num_rows)
        for column in self._metadata.columns:
            if column.name not in self._buffer:
                self._buffer[column.name] = np.empty((self._capacity, *column.shape), column.dtype)
            self._buffer[column.name][rows] = part.columns[column.name]
        self._pending.append(EpisodeBlock({}, part.lengths.copy(), _seeds(part), part.sources))
        self._pending_rows = rows.stop

    def _write_shard(self, block: EpisodeBlock) -> None:
        name = f"{len(self._metadata.shards):05d}"
        first_row = sum(shard.rows for shard in self._metadata.shards)
        rows_bytes, rows_sha256 = write_rows(
            self.path / "shards" / f"{name}.arrow", self._metadata.columns, block.columns
        )
        table = {
            "first_row": block.first_rows + first_row,
            "length": block.lengths,
            "return": block.returns(),
            "seed": _seeds(block),
        }
        sources = [source or None for source in block.sources or [""] * len(block.lengths)]
        episodes_bytes, episodes_sha256 = write_episodes(self.path / "episodes" / f"{name}.arrow", table, sources)
        record = ShardRecord(
            name, block.num_rows, len(block.lengths), rows_bytes, rows_sha256, episodes_bytes, episodes_sha256
        )
        metadata = replace(
            self._metadata,
            shards=(*self._metadata.shards, record),
            statistics=merge_statistics(iter((self._metadata.statistics, block.statistics()))),
        )
        write_metadata(self.path, metadata)
        self._metadata = metadata

    def _check_open(self) -> None:
        if self._lock is None:
            raise StoreError("the writer is closed", where=str(self.path), hint="open the store with append=True")

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _buffered(columns: dict[str, NDArray[Any]], parts: list[EpisodeBlock]) -> EpisodeBlock:
    lengths = np.concatenate([part.lengths for part in parts])
    seeds = np.concatenate([_seeds(part) for part in parts])
    sources = [source for part in parts for source in part.sources or [""] * len(part.lengths)]
    return EpisodeBlock(columns, lengths, seeds, sources if any(sources) else None)


def _seeds(block: EpisodeBlock) -> NDArray[np.int64]:
    return np.full(len(block.lengths), -1, np.int64) if block.seeds is None else np.array(block.seeds, np.int64)


def _check_rows(folder: Path, shard: ShardRecord, row_bytes: int) -> None:
    """Shards aren't compressed: what is declared must be there, or a few bytes would be read as gigabytes."""
    if shard.rows * row_bytes > shard.rows_bytes:
        raise CorruptStoreError(
            f"the file has {shard.rows_bytes:,} bytes, and {shard.rows:,} rows of {row_bytes:,} are declared",
            where=str(folder / shard.rows_file),
            hint=HINT,
        )


def _check_same_spaces(stored: Spec, given: Spec, path: Path) -> None:
    for what in ("observation_space", "action_space"):
        if space_to_json(getattr(stored, what)) != space_to_json(getattr(given, what)):
            raise SpaceMismatchError(
                f"the store's {what} is {getattr(stored, what)}, the episodes' is {getattr(given, what)}",
                where=str(path),
                hint="write them to a store of their own",
            )
