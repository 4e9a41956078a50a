"""Minari's HDF5 files: a group per episode, read through HDF5's own calls (h5py's objects cost more than the data)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5s, h5t
from numpy.typing import NDArray

from offrl.data.convert.episodes import BlockBuilder
from offrl.data.convert.hdf5 import open_hdf5
from offrl.data.convert.minari_parts import Layout, Leaf, Part, can_hold, decode_image, fill_missing, info_leaf, leaf_of
from offrl.data.convert.report import Chunk, Log
from offrl.errors import DataError, SourceError

_FILE = "main_data.hdf5"
_MEND = "write the dataset again with minari, or leave such episodes out"


def tuple_key(index: int) -> str:
    """How a position in a Tuple space is named in the file."""
    return f"_index_{index}"


def read_layout(folder: Path, parts: list[Part], mapping: Mapping[str, str], log: Log) -> Layout:
    """Find the episodes, and what the first of them holds.

    Raises:
        SourceError: the file can't be read, holds no episodes, or lacks a part.
    """
    path = _file(folder)
    with open_hdf5(path) as file:
        numbers = sorted(int(match[1]) for name in file if (match := re.fullmatch(r"episode_(\d+)", name)))
        if not numbers:
            raise SourceError("there are no episodes", where=str(path), mend="give a dataset with at least one")
        episode = file[f"episode_{numbers[0]}"]
        leaves = [leaf_of(part, _dataset(episode, part, path).dtype) for part in parts]
        steps = len(episode["rewards"])
        if "infos" in episode:
            leaves += _info_leaves(episode["infos"], steps, mapping, log)
    return Layout(leaves, numbers)


def _file(folder: Path) -> Path:
    path = folder / _FILE
    if not path.is_file():
        raise SourceError("the dataset's data file is missing", where=str(path), mend="fetch the dataset again")
    return path


def _dataset(episode: h5py.Group, part: Part, path: Path) -> h5py.Dataset:
    name = "/".join(part.keys)
    if not isinstance(episode.get(name), h5py.Dataset):
        raise SourceError(
            f"the first episode has no '{name}', which the spaces call for",
            where=f"{path}, {episode.name}",
            mend="fetch the dataset again, or write it again with minari",
        )
    return episode[name]


def _info_leaves(group: h5py.Group, steps: int, mapping: Mapping[str, str], log: Log) -> list[Leaf]:
    found: list[Leaf | None] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            keys = ("infos", *name.split("/"))
            found.append(info_leaf(keys, item.dtype, item.shape, steps, mapping, log))

    group.visititems(visit)
    return [leaf for leaf in found if leaf is not None]


def chunks(folder: Path, layout: Layout, label: str, log: Log) -> Iterator[Chunk]:
    """Read all episodes in order.

    Raises:
        SourceError: the file can't be read, or an episode lacks a part.
        DataError: an array has another length or dtype than it should.
    """
    path = _file(folder)
    builder = BlockBuilder(layout.columns, lambda number: f"episode {number}", label)
    with open_hdf5(path) as file:
        reader = _Reader(file, layout, path, log)
        for number in layout.numbers:
            steps, seed = reader.begin(number)
            if not builder.has_room(steps):
                yield builder.take()
            reader.read(builder.begin(number, steps, seed))
        yield builder.take()


@dataclass(frozen=True)
class _Stored:
    """A leaf with the handles that HDF5 needs, made once."""

    leaf: Leaf
    path: bytes
    memory_type: h5t.TypeID


class _Reader:
    """Reads one episode after the other into rows that are given."""

    def __init__(self, file: h5py.File, layout: Layout, path: Path, log: Log) -> None:
        self._root = file.id
        self._path = path
        self._log = log
        self._stored = [_Stored(leaf, leaf.name.encode(), h5t.py_create(leaf.info.dtype)) for leaf in layout.leaves]
        self._types: dict[bytes, h5t.TypeID] = {}
        self._spaces: dict[tuple[int, ...], h5s.SpaceID] = {}
        self._seed_type = h5t.py_create(np.dtype(np.uint64))
        self._number = -1

    def begin(self, number: int) -> tuple[int, int]:
        """Open an episode; returns its steps and its seed."""
        self._number = number
        self._group = h5g.open(self._root, b"episode_%d" % number)
        steps = int(h5d.open(self._group, b"rewards").get_space().get_simple_extent_npoints())
        if steps < 1:
            raise DataError("the episode has no steps", where=self._where(), mend=_MEND)
        return steps, self._seed()

    def read(self, rows: dict[str, NDArray[Any]]) -> None:
        """Fill these rows with the episode's arrays."""
        for stored in self._stored:
            out = rows[stored.leaf.column]
            try:
                dataset = h5d.open(self._group, stored.path)
            except KeyError:
                self._miss(stored.leaf, out)
                continue
            if stored.leaf.jpeg:
                self._read_images(dataset, stored.leaf, out)
            else:
                self._read_numbers(dataset, stored, out)

    def _read_numbers(self, dataset: h5d.DatasetID, stored: _Stored, out: NDArray[Any]) -> None:
        if dataset.get_space().get_simple_extent_npoints() != out.size:
            self._refuse_shape(dataset, stored.leaf, len(out))
        if self._types.get(stored.path) is None or not dataset.get_type().equal(self._types[stored.path]):
            self._check_type(dataset, stored)
            if stored.leaf.info.dtype == np.bool_:  # HDF5 itself doesn't turn whole numbers into flags
                out[...] = h5py.Dataset(dataset)[()].reshape(out.shape) != 0
                return
        if out.shape not in self._spaces:
            self._spaces[out.shape] = h5s.create_simple(out.shape)
        dataset.read(self._spaces[out.shape], h5s.ALL, out, stored.memory_type)

    def _refuse_shape(self, dataset: h5d.DatasetID, leaf: Leaf, rows: int) -> None:
        raise DataError(
            f"'{leaf.name}' has the shape {dataset.shape}, {rows} rows of {leaf.info.shape} are expected",
            where=self._where(),
            mend=f"leave it out with --map {leaf.column}=" if leaf.optional else _MEND,
        )

    def _check_type(self, dataset: h5d.DatasetID, stored: _Stored) -> None:
        """Numbers must keep their values: HDF5 would shorten them without a word."""
        found, wanted = dataset.dtype, stored.leaf.info.dtype
        if not can_hold(wanted, found):
            raise DataError(
                f"'{stored.leaf.name}' holds {found}, earlier episodes {wanted}", where=self._where(), mend=_MEND
            )
        if wanted != np.bool_ or found == np.bool_:
            self._types[stored.path] = dataset.get_type()

    def _read_images(self, dataset: h5d.DatasetID, leaf: Leaf, out: NDArray[Any]) -> None:
        encoded = h5py.Dataset(dataset)[()]
        if len(encoded) != len(out):
            raise DataError(
                f"'{leaf.name}' has {len(encoded)} images, {len(out)} are expected", where=self._where(), mend=_MEND
            )
        for row, data in enumerate(encoded):
            out[row] = decode_image(data.tobytes()).reshape(leaf.info.shape)

    def _miss(self, leaf: Leaf, out: NDArray[Any]) -> None:
        if not leaf.optional:
            raise SourceError(f"the episode has no '{leaf.name}'", where=self._where(), mend=_MEND)
        fill_missing(out)
        self._log.warn(f"episodes without '{leaf.name}' get NaN, or 0 where it holds whole numbers", 1, self._where())

    def _seed(self) -> int:
        if not h5a.exists(self._group, b"seed"):
            return -1
        value = np.empty((), np.uint64)
        h5a.open(self._group, b"seed").read(value, self._seed_type)
        if value > np.iinfo(np.int64).max:
            self._log.note("seeds of 2^63 and more can't be recorded: they are marked unknown")
            return -1
        return int(value)

    def _where(self) -> str:
        return f"{self._path}, episode {self._number}"
