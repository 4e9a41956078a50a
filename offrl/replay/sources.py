"""Stores as sources of transitions: rows packed in memory, or left on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data import schema
from offrl.data.trajectories import Trajectories
from offrl.replay.row_layout import OPTIONAL, RowLayout, Transforms
from offrl.types import RETURN_TO_GO

if TYPE_CHECKING:
    from offrl.replay.mapped_rows import MappedRows

Integers = NDArray[np.int64]
_PACK_ROWS = 65_536


class StoreSource:
    """A store or a selection from it, packed into one matrix in memory where that fits, else gathered from disk.

    Args:
        store: where the rows are.
        layout: the columns to hand out.
        transforms: applied once when packing, or after each gather.
        seeds: S.
        seed_episodes: for each seed the episodes (positions in `store`) that it may draw; None: all.
        memory_budget: bytes that the packed rows may take.
        device: where batches are wanted.
        discount: γ of returns to go, where the layout has them.
    """

    def __init__(
        self,
        store: Trajectories,
        layout: RowLayout,
        transforms: Transforms,
        seeds: int,
        seed_episodes: Sequence[NDArray[Any]] | None,
        memory_budget: int,
        device: torch.device,
        discount: float = 1.0,
    ) -> None:
        self.layout, self.device = layout, device
        computed: dict[str, NDArray[np.float32]] = {}
        if RETURN_TO_GO in layout.slices:
            from offrl.replay.returns_to_go import returns_of

            computed[RETURN_TO_GO] = returns_of(store, transforms, discount)
        self._rows: PackedRows | MappedRows
        if store.num_rows * layout.row_bytes <= memory_budget:
            self._rows = PackedRows(store, layout, transforms, device, computed)
        else:
            from offrl.replay.mapped_rows import MappedRows

            self._rows = MappedRows(store, layout, transforms, device, computed)
        self.take: Callable[[Tensor, int, int], Tensor] = self._rows.take
        self.take_images: Callable[[Tensor], dict[str, Tensor]] = self._rows.take_images
        self._table = table = store.episodes
        everything = np.arange(len(table.length))
        self._subsets = [everything] if seed_episodes is None else [np.asarray(chosen) for chosen in seed_episodes]
        rows = [_transition_rows(table.first_row, table.length, chosen) for chosen in self._subsets]
        self._transitions, self._offsets = _joined(rows, device)
        self._counts = np.broadcast_to(np.array([len(each) for each in rows], np.int64), (seeds,)).copy()

    @cached_property
    def _episodes(self) -> tuple[Tensor, Tensor]:
        return _joined([self._table.first_row[chosen] for chosen in self._subsets], self.device)

    @cached_property
    def _bounds(self) -> tuple[Tensor, Tensor]:
        """The rows of every episode's first and last transition."""
        first, length = self._table.first_row, self._table.length
        return torch.from_numpy(first.copy()).to(self.device), torch.from_numpy(first + length - 1).to(self.device)

    def counts(self) -> NDArray[np.int64]:
        return self._counts

    def locate(self, index: Tensor) -> Tensor:
        if len(self._subsets) > 1:
            index = index + self._offsets
        return self._transitions.index_select(0, index.reshape(-1)).view(index.shape)

    def follow(self, rows: Tensor) -> Tensor:
        flags = slice(self.layout.slices[schema.TERMINATED].start, self.layout.slices[schema.TRUNCATED].stop)
        ended = self.take(rows, flags.start, flags.stop).any(dim=-1)
        return rows + (~ended).to(rows.dtype)

    def num_places(self) -> int:
        return int(self.counts().max())

    def locate_places(self, place: Tensor) -> Tensor:
        return self.locate(place)

    def written(self) -> Integers:
        return self.counts()

    def renewed(self, since: Integers) -> tuple[Integers, Integers, NDArray[np.bool_]]:
        added = [np.arange(old, new) for old, new in zip(since, self.counts(), strict=True)]
        seed = np.repeat(np.arange(len(added)), [len(places) for places in added])
        return seed, np.concatenate(added), np.ones(len(seed), np.bool_)

    def episode_counts(self) -> NDArray[np.int64]:
        return np.broadcast_to(np.array([len(each) for each in self._subsets], np.int64), self._counts.shape)

    def locate_episodes(self, index: Tensor) -> Tensor:
        first_rows, offsets = self._episodes
        return first_rows[index + offsets]

    def first_rows(self, rows: Tensor) -> Tensor:
        first, _ = self._bounds
        return first[self._episode_of(rows)]

    def last_rows(self, rows: Tensor) -> Tensor:
        _, last = self._bounds
        return last[self._episode_of(rows)]

    def _episode_of(self, rows: Tensor) -> Tensor:
        first, _ = self._bounds
        return torch.searchsorted(first, rows.long(), right=True) - 1


def _joined(tables: list[NDArray[Any]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tables of rows, one for each seed or one that all share, as one; and where each begins, [seeds or 1, 1]."""
    sizes = np.array([len(table) for table in tables], np.int64)
    joined = torch.from_numpy(tables[0] if len(tables) == 1 else np.concatenate(tables))
    return joined.to(device), torch.from_numpy(np.cumsum(sizes) - sizes)[:, None].to(device)


def _transition_rows(first_row: NDArray[np.int64], length: NDArray[np.int64], chosen: NDArray[Any]) -> NDArray[Any]:
    """The rows of all transitions of the chosen episodes: int32 where that is wide enough."""
    sizes = length[chosen]
    top = int((first_row + length).max(initial=0))
    dtype = np.int32 if top < 2**31 else np.int64
    starts = np.cumsum(sizes) - sizes
    rows: NDArray[Any] = np.repeat((first_row[chosen] - starts).astype(dtype), sizes)
    rows += np.arange(len(rows), dtype=dtype)
    return rows


class PackedRows:
    """All rows in one float32 matrix, viewed as overlapping pairs: one gather gives s, a, r and s'.

    Columns of the layout that neither the store has nor `computed`, float32 [rows] each, are zero.
    """

    def __init__(
        self,
        store: Trajectories,
        layout: RowLayout,
        transforms: Transforms,
        device: torch.device,
        computed: Mapping[str, NDArray[np.float32]],
    ) -> None:
        there = [column.name for column in store.metadata.columns if column.name in layout.slices]
        complete = len(there) + len(computed) == len(layout.slices)
        matrix = (torch.empty if complete else torch.zeros)(store.num_rows, layout.width)
        for name, values in computed.items():
            matrix.numpy()[:, layout.slices[name].start] = values
        images = {name: torch.empty(store.num_rows, *shape, dtype=torch.uint8) for name, shape in layout.images}
        for start in range(0, store.num_rows, _PACK_ROWS):
            stop = min(start + _PACK_ROWS, store.num_rows)
            for name, values in store.gather_columns([*there, *images], np.arange(start, stop)).items():
                if name in images:
                    images[name].numpy()[start:stop] = values
                else:
                    matrix.numpy()[start:stop, layout.slices[name]] = transforms.apply(name, values)
        shape, stride = (max(0, store.num_rows - 1), layout.pair_width), (layout.width, 1)
        self.pairs = matrix.to(device).as_strided(shape, stride)
        self.images = {name: image.to(device) for name, image in images.items()}

    def take(self, rows: Tensor, start: int, stop: int) -> Tensor:
        return self.pairs[:, start:stop].index_select(0, rows)

    def take_images(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: image.index_select(0, rows) for name, image in self.images.items()}


def common_columns(stores: Sequence[Trajectories]) -> list[schema.ColumnSpec]:
    """The optional columns that all stores have alike."""
    found = [{column for column in store.metadata.columns if column.name in OPTIONAL} for store in stores]
    shapes = [{(column.name, column.shape) for column in columns} for columns in found]
    shared = set.intersection(*shapes) if shapes else set()
    return [column for column in (found[0] if found else ()) if (column.name, column.shape) in shared]
