"""A block under construction: episodes are read straight into arrays that are used again for later blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.converters.flags import read_flags
from offrl.converters.report import Chunk
from offrl.converters.source import BLOCK_BYTES, ColumnInfo
from offrl.data import schema
from offrl.data.block import EpisodeBlock

_WITH_FINAL_ROW = (schema.OBSERVATION, schema.INFO, schema.ACTION_MASK)
_FILLED_TO_THE_END = (*_WITH_FINAL_ROW, schema.BEHAVIOR_LOG_PROB)  # Minari's infos have T + 1 rows, all of them


class BlockBuilder:
    """Collects episodes of T + 1 rows.

    Args:
        columns: the columns of the block.
        describe: turns an episode's number in the source into words ("episode 7").
        label: the source, as it is named in the episode table.
        keys: column to what the source calls it, for messages.
    """

    def __init__(
        self,
        columns: Mapping[str, ColumnInfo],
        describe: Callable[[int], str],
        label: str,
        keys: Mapping[str, str],
    ) -> None:
        self._columns = columns
        self._describe = describe
        self._label = label
        self._keys = keys
        self._longer = {name: name.split(".")[0] in _FILLED_TO_THE_END for name in columns}
        self._capacity = max(1, BLOCK_BYTES // sum(info.row_bytes for info in columns.values()))
        self._arrays: dict[str, NDArray[Any]] = {}
        self._spare: dict[str, NDArray[Any]] = {}
        self._lengths: list[int] = []
        self._seeds: list[int] = []
        self._numbers: list[int] = []
        self._rows = 0

    def has_room(self, steps: int) -> bool:
        """Whether an episode of this many steps fits; an empty builder makes room for any."""
        return not self._lengths or self._rows + steps < len(self._arrays[schema.REWARD])

    def begin(self, number: int, steps: int, seed: int = -1) -> dict[str, NDArray[Any]]:
        """Start an episode: for each column the rows to fill, one more where a final row belongs to it."""
        if not self._lengths and (not self._arrays or steps >= len(self._arrays[schema.REWARD])):
            rows = max(self._capacity, steps + 1)
            self._arrays = {name: np.empty((rows, *info.shape), info.dtype) for name, info in self._columns.items()}
        start, stop = self._rows, self._rows + steps
        self._lengths.append(steps)
        self._seeds.append(seed)
        self._numbers.append(number)
        self._rows = stop + 1
        return {name: array[start : stop + self._longer[name]] for name, array in self._arrays.items()}

    def take(self) -> Chunk:
        """What was collected. Its arrays are good until the next block is taken: two sets take turns.

        Padding is zeroed, and an episode without a flag at its end is marked truncated.

        Raises:
            DataError: a flag is neither yes nor no.
        """
        lengths = np.array(self._lengths, np.int64)
        final = np.cumsum(lengths + 1) - 1
        columns = {name: array[: self._rows] for name, array in self._arrays.items()}
        for name, array in columns.items():
            if name.split(".")[0] not in _WITH_FINAL_ROW:
                array[final] = 0
        numbers, firsts = self._numbers, final - lengths

        def locate(row: int) -> str:
            index = int(np.searchsorted(final, row))
            return f"{self._describe(numbers[index])}, step {row - int(firsts[index])}"

        for name in (schema.TERMINATED, schema.TRUNCATED):
            key = self._keys.get(name, name)
            columns[name] = read_flags(columns[name], field=name, key=key, where=self._label, locate=locate)
        open_ended = ~(columns[schema.TERMINATED][final - 1] | columns[schema.TRUNCATED][final - 1])
        columns[schema.TRUNCATED][final - 1] |= open_ended
        sources = [f"{self._label}#{number}" for number in numbers]
        block = EpisodeBlock(columns, lengths, np.array(self._seeds, np.int64), sources)
        self._lengths, self._seeds, self._numbers, self._rows = [], [], [], 0
        self._arrays, self._spare = self._spare, self._arrays
        return Chunk(block, locate, int(np.count_nonzero(open_ended)))
