"""Importance weights in log space, step by step, over episodes of any lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offrl.ope.log import Array, EpisodeLog


@dataclass(frozen=True, eq=False)
class TimeBlock:
    """The steps `start` … `stop` - 1 of the n longest episodes, which are those longer than `start`.

    Attributes:
        log_weight: [n, stop - start]; behind an episode's end it stays what it was there.
        rows: int64 [n, stop - start]; where each step stands among the log's rows.
        running: bool [n, stop - start]; False behind an episode's end.
    """

    start: int
    stop: int
    log_weight: Array
    rows: NDArray[np.int64]
    running: NDArray[np.bool_]

    def values(self, rows: Array) -> Array:
        """Row values [R] as a block, [n, stop - start], 0 behind each episode's end."""
        return np.where(self.running, rows[self.rows], 0.0)


@dataclass(frozen=True, eq=False)
class StepWeights:
    """log w_t = Σ_{k ≤ t} log π(a_k | s_k) / μ(a_k | s_k) of N episodes.

    An episode that has ended goes on in a state where nothing is earned and both policies do the same: its weight stays
    what it was, and it goes on counting where weights are normalised by their sum at each step.

    Attributes:
        offsets: int64 [N + 1]; where each episode's rows begin.
        order: int64 [N]; the episodes, longest first.
        blocks: all steps, in blocks of which at least half is no padding: as many as log₂ N at most.
        clipped_share: of the weights, how many were above the threshold.
    """

    offsets: NDArray[np.int64]
    order: NDArray[np.int64]
    blocks: tuple[TimeBlock, ...]
    clipped_share: float = 0.0

    @classmethod
    def of(cls, log: EpisodeLog, *, clip: float | None = None) -> StepWeights:
        """Cumulative weights of a log; none above `clip`."""
        log_ratio = log.target_log_prob - log.behavior_log_prob
        blocks = tuple(_cumulative_blocks(log_ratio, log.offsets, log.lengths, log.longest_first))
        return cls(log.offsets, log.longest_first, blocks)._clipped(clip)

    def at_end(self, *, clip: float | None = None) -> StepWeights:
        """The weights of whole episodes: one step for each; none above `clip`."""
        episodes = np.arange(self.episodes + 1)
        log_weight = self.log_final[self.order, np.newaxis]
        rows = self.order[:, np.newaxis]
        block = TimeBlock(0, 1, log_weight, rows, np.ones_like(rows, dtype=bool))
        return StepWeights(episodes, self.order, (block,))._clipped(clip)

    def _clipped(self, clip: float | None) -> StepWeights:
        if clip is None or clip == np.inf:
            return self
        bound = np.log(clip)
        above = sum(int(np.sum((block.log_weight > bound) & block.running)) for block in self.blocks)
        blocks = tuple(
            TimeBlock(block.start, block.stop, np.minimum(block.log_weight, bound), block.rows, block.running)
            for block in self.blocks
        )
        return StepWeights(self.offsets, self.order, blocks, above / int(self.offsets[-1]))

    @property
    def episodes(self) -> int:
        """N."""
        return len(self.order)

    @property
    def steps(self) -> int:
        """T, of the longest episode."""
        return self.blocks[-1].stop

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each episode, int64 [N]."""
        return np.diff(self.offsets)

    @cached_property
    def step(self) -> NDArray[np.int64]:
        """Each row's time within its episode, int64 [R]."""
        return np.arange(int(self.offsets[-1])) - np.repeat(self.offsets[:-1], self.lengths)

    @cached_property
    def log_weight(self) -> Array:
        """Of each row, [R]."""
        weights = np.empty(int(self.offsets[-1]))
        for block in self.blocks:
            weights[block.rows[block.running]] = block.log_weight[block.running]
        return weights

    @cached_property
    def log_final(self) -> Array:
        """At each episode's end, [N]."""
        final = np.empty(self.episodes)
        for block in self.blocks:
            final[self.order[: len(block.log_weight)]] = block.log_weight[:, -1]
        return final

    @cached_property
    def log_max(self) -> Array:
        """The largest weight of each step over all episodes, those that have ended included, [T]."""
        final = self.log_final[self.order]
        parts = []
        for block in self.blocks:
            ended = np.max(final[len(block.log_weight) :], initial=-np.inf)
            parts.append(np.maximum(block.log_weight.max(axis=0), ended))
        return np.concatenate(parts)

    @cached_property
    def log_sum(self) -> Array:
        """log Σ_i w_{i,t} over all episodes, those that have ended included, [T]; -inf where all weights are 0."""
        return self._log_sum_of_powers(1)

    @cached_property
    def log_sum_of_squares(self) -> Array:
        """log Σ_i w²_{i,t}, likewise."""
        return self._log_sum_of_powers(2)

    def _log_sum_of_powers(self, power: int) -> Array:
        final = self.log_final[self.order]
        parts = []
        for block in self.blocks:
            centre = finite(self.log_max[block.start : block.stop])
            ended = final[len(block.log_weight) :]
            total = np.exp(power * (block.log_weight - centre)).sum(axis=0)
            if len(ended):
                largest = finite(ended.max())
                total += np.exp(power * (ended - largest)).sum() * np.exp(power * (largest - centre))
            with np.errstate(divide="ignore"):
                parts.append(np.log(total) + power * centre)
        return np.concatenate(parts)

    @cached_property
    def relative(self) -> Array:
        """w_{i,t} over its mean at step t, of each row, [R]; NaN where all weights of the step are 0."""
        mean = self.log_sum - np.log(self.episodes)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.exp(self.log_weight - mean[self.step]))

    @property
    def vanish(self) -> bool:
        """Whether there is a step where all weights are 0."""
        return bool(np.isneginf(self.log_sum).any())


def _cumulative_blocks(
    log_ratio: Array, offsets: NDArray[np.int64], lengths: NDArray[np.int64], order: NDArray[np.int64]
) -> Iterator[TimeBlock]:
    ordered = lengths[order]
    carried = np.zeros(len(order))
    start = 0
    while start < ordered[0]:
        count = int(np.searchsorted(-ordered, -start))
        stop = int(ordered[(count - 1) // 2])
        time = np.arange(start, stop)
        last = ordered[:count, np.newaxis] - 1
        running = time <= last
        rows = offsets[order[:count], np.newaxis] + np.minimum(time, last)
        log_weight = np.where(running, log_ratio[rows], 0.0)
        log_weight[:, 0] += carried[:count]
        np.cumsum(log_weight, axis=1, out=log_weight)
        carried[:count] = log_weight[:, -1]
        yield TimeBlock(start, stop, log_weight, rows, running)
        start = stop


def finite(values: ArrayLike) -> Array:
    """With 0 for -inf, so that it can be subtracted from -inf."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isneginf(numbers), 0.0, numbers)
