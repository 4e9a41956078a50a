"""One block of memory for everything that a replay computes on its way, each part used again as soon as it is free."""

from __future__ import annotations

from dataclasses import dataclass

import torch

ALIGNMENT = 64


@dataclass
class Span:
    """A buffer's size in bytes, and the first and the last step that touch it."""

    size: int
    first: int
    last: int


def arranged(spans: list[Span]) -> tuple[list[int], int]:
    """An offset for each buffer, so that no two that live at the same time overlap; and the bytes for all of them.

    The largest ones are placed first, each as low as it fits.
    """
    offsets = [0] * len(spans)
    placed: list[int] = []
    total = 0
    for index in sorted(range(len(spans)), key=lambda n: (-spans[n].size, spans[n].first)):
        span, offset = spans[index], 0
        for other in sorted(placed, key=lambda n: offsets[n]):
            together = spans[other].first <= span.last and span.first <= spans[other].last
            if together and offset + span.size > offsets[other]:
                offset = max(offset, _aligned(offsets[other] + spans[other].size))
        offsets[index] = offset
        placed.append(index)
        total = max(total, offset + span.size)
    return offsets, total


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def block_of(size: int) -> torch.Tensor:
    """Uninitialized bytes whose first address is aligned."""
    block = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
    return block[-block.data_ptr() % ALIGNMENT :][:size]
