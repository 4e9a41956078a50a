"""What a reader of one format hands to the conversion: spaces, facts, and a stream of episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offrl.converters.flags import read_flags
from offrl.converters.report import Chunk
from offrl.data import schema
from offrl.errors import SourceError
from offrl.types import Spec

BLOCK_BYTES = 16 * 2**20
"""Rows of about this size are read, checked and written at a time; a longer episode makes a larger block."""


@dataclass(frozen=True)
class Source:
    """A source that has been understood, before its bulk is read.

    Attributes:
        spec: the spaces of its data.
        rows: time steps in it; None where only reading it tells.
        chunks: starts one pass over its episodes.
        environment: the environment's id, if known.
        keys: column of the store to what the source calls it, for messages; its own name where it isn't there.
        provenance: what the source says of its origin; JSON values.
        reference_scores: returns of a random and an expert policy, if known.
    """

    spec: Spec
    rows: int | None
    chunks: Callable[[], Iterator[Chunk]]
    environment: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    reference_scores: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ColumnInfo:
    """What is known of a column before it is read: its dtype, and the shape of one row."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return int(self.dtype.itemsize * np.prod(self.shape, dtype=np.int64))


def check_kinds(columns: Mapping[str, ColumnInfo], keys: Mapping[str, str], where: str) -> None:
    """Whether a dataset can hold such columns.

    Raises:
        SourceError: one has no components, or numbers of a precision that no dataset has.
    """
    for name, info in columns.items():
        key, root = keys.get(name, name), name.split(".")[0]
        if not info.row_bytes:
            raise SourceError(
                f"rows of '{key}' have the shape {info.shape}: there are no components in the {name}",
                where=where,
                hint=f"say which key holds them, with --map {name}=KEY"
                if root in (schema.OBSERVATION, schema.ACTION)
                else f"leave it out: --map {name}=",
            )
        if info.dtype.kind == "f" and info.dtype.itemsize > np.dtype(np.float64).itemsize:
            raise SourceError(
                f"'{key}' holds {info.dtype.name}, and a dataset has float64 at most",
                where=where,
                hint="save it as float64",
            )


class Rows(Protocol):
    """Named columns of the same length, one row per time step."""

    @property
    def count(self) -> int:
        """Rows."""

    @property
    def columns(self) -> Mapping[str, ColumnInfo]:
        """The columns by name: the store's names, and `next_observation`."""

    @property
    def keys(self) -> Mapping[str, str]:
        """What the source calls each column, for messages; a column that isn't there goes by its own name."""

    def slices(self, bounds: Sequence[tuple[int, int]], names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
        """For each (start, stop) in turn, which ascend, those rows of the columns: writable arrays."""


def read_whole(rows: Rows, name: str) -> NDArray[Any]:
    """One column in full; for small ones, such as flags."""
    return next(iter(rows.slices([(0, rows.count)], [name])))[name]


def flags_of(rows: Rows, name: str, where: str) -> NDArray[np.bool_]:
    """A column of flags in full: bool [rows].

    Raises:
        DataError: one is neither yes nor no.
    """
    key = rows.keys.get(name, name)
    return read_flags(read_whole(rows, name).reshape(-1), field=name, key=key, where=where)


@dataclass(frozen=True)
class MemoryRows:
    """Columns that are in memory already."""

    arrays: Mapping[str, NDArray[Any]]
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def columns(self) -> Mapping[str, ColumnInfo]:
        return {name: ColumnInfo(array.dtype, array.shape[1:]) for name, array in self.arrays.items()}

    def slices(self, bounds: Sequence[tuple[int, int]], names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
        for start, stop in bounds:
            yield {name: self.arrays[name][start:stop].copy() for name in names}
