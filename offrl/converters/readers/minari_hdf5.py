"""Minari's HDF5 files: a group for each episode."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5o
from numpy.typing import NDArray

from offrl.converters.expansion import check_expansion
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.block_builder import BlockBuilder
from offrl.converters.readers.hdf5 import open_unseen, own_member, refuse_links
from offrl.converters.readers.hdf5_index import DirectFile, UnusualLayout
from offrl.converters.readers.minari_layout import (
    Layout,
    Leaf,
    Part,
    can_hold,
    decode_image,
    fill_missing,
    info_leaf,
    leaf_of,
)
from offrl.converters.report import Chunk, Log
from offrl.errors import DataError, SourceError

_FILE = "main_data.hdf5"
_HINT = "write the dataset again with minari, or leave such episodes out"


def tuple_key(index: int) -> str:
    """How a position in a Tuple space is named in the file."""
    return f"_index_{index}"


def read_layout(folder: Path, parts: list[Part], options: ConvertOptions, log: Log) -> Layout:
    """Find the episodes, and what the first of them holds.

    Raises:
        SourceError: the file can't be read, holds no episodes, or lacks a part.
    """
    path = _file(folder)
    with open_unseen(path) as file:
        refuse_links(file, path)
        numbers = sorted(int(match[1]) for name in file if (match := re.fullmatch(r"episode_(\d+)", name)))
        if not numbers:
            raise SourceError("there are no episodes", where=str(path), hint="give a dataset with at least one")
        episode = file[f"episode_{numbers[0]}"]
        leaves = [leaf_of(part, _dataset(episode, part, path).dtype) for part in parts]
        steps = len(episode["rewards"])
        infos = own_member(episode, "infos", path)
        if isinstance(infos, h5py.Group):
            leaves += _info_leaves(infos, steps, options.mapping, log)
    return Layout(leaves, numbers, options.max_expansion)


def _file(folder: Path) -> Path:
    path = folder / _FILE
    if not path.is_file():
        raise SourceError("the dataset's data file is missing", where=str(path), hint="fetch the dataset again")
    return path


def _dataset(episode: h5py.Group, part: Part, path: Path) -> h5py.Dataset:
    name = "/".join(part.keys)
    found = own_member(episode, name, path)
    if not isinstance(found, h5py.Dataset):
        raise SourceError(
            f"the first episode has no '{name}', which the spaces call for",
            where=f"{path}, {episode.name}",
            hint="fetch the dataset again, or write it again with minari",
        )
    return found


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
    builder = BlockBuilder(layout.columns, lambda number: f"episode {number}", label, layout.keys)
    row_bytes, declared = sum(info.row_bytes for info in layout.columns.values()), 0
    with open_unseen(path) as file, DirectFile(path) as direct:
        reader = _Reader(file, direct, layout, path, log)
        for number in layout.numbers:
            episode = reader.open(number)
            declared += episode.steps * row_bytes
            check_expansion(declared, [path], layout.max_expansion)
            if not builder.has_room(episode.steps):
                yield builder.take()
            reader.read(episode, builder.begin(number, episode.steps, episode.seed))
        yield builder.take()


@dataclass(frozen=True)
class _Episode:
    """An episode that is about to be read: `addresses` holds those of its arrays that are known without the library."""

    number: int
    steps: int
    seed: int
    addresses: dict[str, int]


class _Reader:
    """Reads one episode after the other into rows that are given.

    Arrays are copied straight out of the file where its layout is the usual one and their type is exactly the
    column's. The library reads the others: other layouts, types and lengths, compressed images.
    """

    def __init__(self, file: h5py.File, direct: DirectFile, layout: Layout, path: Path, log: Log) -> None:
        self._file = file
        self._direct = direct
        self._leaves = layout.leaves
        self._groups = _groups(layout.leaves)
        self._path = path
        self._log = log
        self._datatypes: dict[str, bytes] = {}

    def open(self, number: int) -> _Episode:
        """Find an episode's length, seed and arrays."""
        address = h5o.get_info(self._file.id, b"episode_%d" % number).addr
        try:
            addresses = self._members(address)
            seed = self._direct.integer_attribute(address, "seed")
            rewards = self._direct.array(addresses["rewards"], "rewards")
        except (UnusualLayout, KeyError):
            return self._open_slowly(number)
        return self._episode(number, rewards.shape[0], seed, addresses)

    def read(self, episode: _Episode, rows: dict[str, NDArray[Any]]) -> None:
        """Fill these rows with the episode's arrays."""
        for leaf in self._leaves:
            out = rows[leaf.column]
            if leaf.jpeg or not self._read_directly(episode, leaf, out):
                self._read_slowly(episode, leaf, out)

    def _members(self, address: int) -> dict[str, int]:
        """The addresses of an episode's arrays and groups, those in nested groups among them."""
        found = self._direct.members(address, "")
        for group in self._groups:
            if group in found:
                below = self._direct.members(found[group], group)
                found.update({f"{group}/{name}": item for name, item in below.items()})
        return found

    def _episode(self, number: int, steps: int, seed: int | None, addresses: dict[str, int]) -> _Episode:
        if steps < 1:
            raise DataError("the episode has no steps", where=self._where(number), hint=_HINT)
        if seed is not None and seed > np.iinfo(np.int64).max:
            self._log.note("seeds of 2^63 and more can't be recorded: they are marked unknown")
            seed = None
        return _Episode(number, steps, -1 if seed is None else seed, addresses)

    def _open_slowly(self, number: int) -> _Episode:
        group = self._file[f"episode_{number}"]
        rewards = own_member(group, "rewards", self._path)
        if not isinstance(rewards, h5py.Dataset):
            raise SourceError("the episode has no 'rewards'", where=self._where(number), hint=_HINT)
        seed = group.attrs.get("seed")
        return self._episode(number, len(rewards), seed if seed is None else int(seed), {})

    def _read_directly(self, episode: _Episode, leaf: Leaf, out: NDArray[Any]) -> bool:
        """Whether the array could be copied out of the file."""
        address = episode.addresses.get(leaf.name)
        if address is None:
            return False
        try:
            array = self._direct.array(address, leaf.name)
            if leaf.name not in self._datatypes:
                stored = self._array(episode, leaf)
                known = stored is not None and stored.dtype == leaf.info.dtype
                self._datatypes[leaf.name] = array.datatype if known else b""
            if array.shape != out.shape or array.datatype != self._datatypes[leaf.name]:
                return False
            self._direct.read(array, out)
        except UnusualLayout:
            return False
        return True

    def _read_slowly(self, episode: _Episode, leaf: Leaf, out: NDArray[Any]) -> None:
        where = self._where(episode.number)
        dataset = self._array(episode, leaf)
        if dataset is None:
            if not leaf.optional:
                raise SourceError(f"the episode has no '{leaf.name}'", where=where, hint=_HINT)
            fill_missing(leaf.column, out)
            self._log.warn(f"episodes without '{leaf.name}' get NaN, or 0 where it holds whole numbers", 1, where)
            return
        if dataset.shape[0] != len(out) or (dataset.size != out.size and not leaf.jpeg):
            raise DataError(
                f"'{leaf.name}' has the shape {dataset.shape}, {len(out)} rows of {leaf.info.shape} are expected",
                where=where,
                hint=f"leave it out with --map {leaf.column}=" if leaf.optional else _HINT,
            )
        if leaf.jpeg:
            for row, data in enumerate(dataset[()]):
                out[row] = decode_image(data.tobytes(), leaf.info.shape, where)
            return
        if not can_hold(leaf.info.dtype, dataset.dtype):
            raise DataError(
                f"'{leaf.name}' holds {dataset.dtype}, earlier episodes {leaf.info.dtype}", where=where, hint=_HINT
            )
        out[...] = dataset[()].reshape(out.shape)

    def _array(self, episode: _Episode, leaf: Leaf) -> h5py.Dataset | None:
        found = own_member(self._file[f"episode_{episode.number}"], leaf.name, self._path)
        return found if isinstance(found, h5py.Dataset) else None

    def _where(self, number: int) -> str:
        return f"{self._path}, episode {number}"


def _groups(leaves: list[Leaf]) -> list[str]:
    """The groups that leaves lie in, outer ones first."""
    prefixes = {"/".join(leaf.keys[:depth]) for leaf in leaves for depth in range(1, len(leaf.keys))}
    return sorted(prefixes, key=lambda group: group.count("/"))
