"""Rows of a store that is too large to be packed in memory: gathered from disk as they are asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data.trajectories import Trajectories
from offrl.replay.row_layout import RowLayout, Transforms


class MappedRows:
    """Rows left in the store's memory map: only the columns and pages that are asked for are touched.

    Columns of the layout that neither the store has nor `computed`, float32 [rows] each and in memory, are zero.
    """

    def __init__(
        self,
        store: Trajectories,
        layout: RowLayout,
        transforms: Transforms,
        device: torch.device,
        computed: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self.store, self.layout, self.transforms, self.device = store, layout, transforms, device
        self.computed = computed

    def take(self, rows: Tensor, start: int, stop: int) -> Tensor:
        # In the order that they have on disk, rows next to each other share pages.
        positions, order = np.unique(rows.cpu().numpy().astype(np.int64), return_inverse=True)
        ordered = np.zeros((len(positions), stop - start), np.float32)
        for step, shift in ((0, 0), (1, self.layout.width)):
            places = {
                name: slice(place.start + shift - start, place.stop + shift - start)
                for name, place in self.layout.slices.items()
                if start <= place.start + shift and place.stop + shift <= stop
            }
            stored = [name for name in places if name in self.store.columns]
            for name, values in self.store.gather_columns(stored, positions + step).items():
                ordered[:, places[name]] = self.transforms.apply(name, values)
            for name in places.keys() & self.computed.keys():
                ordered[:, places[name].start] = self.computed[name][positions + step]
        return torch.from_numpy(ordered.take(order, axis=0)).to(self.device)

    def take_images(self, rows: Tensor) -> dict[str, Tensor]:
        names = [name for name, _ in self.layout.images]
        gathered = self.store.gather_columns(names, rows.cpu().numpy().astype(np.int64)) if names else {}
        return {name: torch.from_numpy(image).to(self.device) for name, image in gathered.items()}
