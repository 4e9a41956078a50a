"""What a sampler's transitions come from: one interface, over a store or a ring."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from offrl.replay.row_layout import RowLayout

Integers = NDArray[np.int64]


@runtime_checkable
class TransitionSource(Protocol):
    """Transitions of S seeds, each with its own numbering from 0; transitions lie in rows, each behind the one before.

    Attributes:
        layout: what the floats of a row mean.
    """

    layout: RowLayout

    def counts(self) -> NDArray[np.int64]:
        """int64 [S]: how many transitions each seed may draw."""

    def locate(self, index: Tensor) -> Tensor:
        """Transitions, int64 [K, S, B] and below `counts` for each seed, to their rows: integers [K, S, B]."""

    def follow(self, rows: Tensor) -> Tensor:
        """Rows [N] of transitions to those of the next ones in their episodes; the same row where there is none."""

    def take(self, rows: Tensor, start: int, stop: int) -> Tensor:
        """Floats `start` to `stop` of the pairs at rows [N]: float32 [N, stop - start]."""

    def take_images(self, rows: Tensor) -> dict[str, Tensor]:
        """The images at rows [N] (also those of final observations): column name to uint8 [N, ...]."""

    def num_places(self) -> int:
        """How many places a seed has; unlike its index, a transition's place is its own while it can be drawn."""

    def locate_places(self, place: Tensor) -> Tensor:
        """Transitions, by place, int64 [K, S, B], to their rows."""

    def written(self) -> Integers:
        """Counters that tell `renewed` what has changed since they were read."""

    def renewed(self, since: Integers) -> tuple[Integers, Integers, NDArray[np.bool_]]:
        """What changed since `written` was read (zeros: since the start): seeds, places, and whether each holds one."""


@runtime_checkable
class EpisodeSource(TransitionSource, Protocol):
    """A source that knows its episodes, so that windows can be cut from it."""

    def episode_counts(self) -> NDArray[np.int64]:
        """int64 [S]: how many episodes each seed may draw."""

    def locate_episodes(self, index: Tensor) -> Tensor:
        """Episodes, int64 [K, S, B], to the rows of their first transitions."""

    def first_rows(self, rows: Tensor) -> Tensor:
        """Rows [...] of transitions to the rows of their episodes' first transitions."""

    def last_rows(self, rows: Tensor) -> Tensor:
        """Rows [...] of transitions to the rows of their episodes' last transitions."""
