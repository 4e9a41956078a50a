"""Large blocks of memory that cost few page faults, which otherwise dominate big gathers."""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_HUGE_PAGE = 2 * 2**20
_POOLED_BYTES = 2**20
"""Smaller blocks are left to PyTorch's allocator, which keeps them."""


def empty_rows(rows: int, width: int) -> Tensor:
    """An uninitialized float32 matrix in main memory, on huge pages where the system has them."""
    return torch.from_numpy(_as_floats(_allocate(4 * rows * width), rows * width)).view(rows, width)


class RowPool:
    """Float matrices whose memory is used again, but only once no tensor refers to it any more."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def empty(self, rows: int, width: int) -> Tensor:
        """An uninitialized float32 matrix [rows, width] in main memory."""
        size = 4 * rows * width
        if size < _POOLED_BYTES:
            return torch.empty(rows, width)
        block = next((block for block in self._free if size <= len(block) <= 2 * size), None)
        # Blocks of other sizes go: callers ask for the same size again and again.
        self._free = [other for other in self._free if block is not None and other is not block]
        if block is None:
            block = _allocate(size)
        floats = _as_floats(block, rows * width)
        # The tensor keeps `floats` alive, and views of the tensor keep the tensor's storage.
        weakref.finalize(floats, self._free_again, block).atexit = False
        return torch.from_numpy(floats).view(rows, width)

    def _free_again(self, block: NDArray[np.uint8]) -> None:
        self._free.append(block)


def _as_floats(block: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
    return np.frombuffer(block.data, np.float32, count)


def _allocate(size: int) -> NDArray[np.uint8]:
    """Zeroed bytes that start at a huge page's boundary."""
    if not hasattr(mmap, "MAP_PRIVATE") or size < _POOLED_BYTES:
        return np.zeros(size, np.uint8)
    padded = math.ceil(max(size, 1) / _HUGE_PAGE) * _HUGE_PAGE + _HUGE_PAGE
    memory = mmap.mmap(-1, padded, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # a hint, which not every system takes
        memory.madvise(mmap.MADV_HUGEPAGE)
    block = np.frombuffer(memory, np.uint8)
    start = -block.ctypes.data % _HUGE_PAGE
    return block[start : start + size]
