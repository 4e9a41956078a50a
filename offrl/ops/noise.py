"""Standard normal draws for updates and exploration; each seed has a generator of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from offrl.types import Noise

AHEAD = 64
"""Steps that are drawn for at once: enough to make their cost per step small."""


class NoiseSource:
    """Draws on the CPU, so that every device sees the same ones.

    Args:
        seeds: one stream for each.
        device: where the draws go.
        stream: tells apart the sources of one run.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device, stream: int) -> None:
        self.device = device
        # A generator seed of its own for each pair; small seeds alone would give related first draws.
        mixed = ((seed * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9 + 1) % 2**63 for seed in seeds)
        self.generators = [torch.Generator().manual_seed(seed) for seed in mixed]
        self._ahead: Iterator[Tensor] = iter(())
        self._shape: tuple[int, ...] | None = None

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal draws, float32 [S, *shape]."""
        draws = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(draws).to(self.device, non_blocking=True)

    def next(self, shape: tuple[int, ...]) -> Tensor:
        """As `draw`, but those of several steps are drawn together."""
        if shape != self._shape:
            self.forget()
            self._shape = shape
        draws = next(self._ahead, None)
        if draws is None:
            draws, *ahead = self.draw((AHEAD, *shape)).unbind(1)
            self._ahead = iter(ahead)
        return draws

    def forget(self) -> None:
        """Skip what `next` has drawn ahead: no checkpoint holds it, and who goes on from one can't know it."""
        self._ahead = iter(())

    def draw_updates(self, shapes: Mapping[str, tuple[int, ...]], updates: int) -> list[Noise]:
        """The draws of several updates at once: for each, name to [S, *shape]."""
        blocks = {name: self.draw((updates, *shape)).unbind(1) for name, shape in shapes.items()}
        return [{name: block[i] for name, block in blocks.items()} for i in range(updates)]

    def named_tensors(self) -> dict[str, Tensor]:
        """The generators' states, for a checkpoint."""
        return {str(i): generator.get_state() for i, generator in enumerate(self.generators)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue where `named_tensors` was taken; what was drawn ahead by then is skipped."""
        self.forget()
        for i, generator in enumerate(self.generators):
            generator.set_state(tensors[str(i)])
