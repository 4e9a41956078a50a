"""Importance weights in log space, step by step, over episodes of any lengths."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offrl.off_policy.episode_log import Array, EpisodeLog, tensor


@dataclass(frozen=True, eq=False)
class TimeBlock:
    """The steps `start` … `stop` - 1 of the n longest episodes, which are those longer than `start`.

    Attributes:
        log_weight: [n, stop - start]; behind an episode's end it stays what it was there.
        ended: [N - n]; what the other episodes' log-weights were at their ends.
        rows: int64 [n, stop - start]; where each step stands among the log's rows. None where the block holds all of
            the log as it is.
        running: bool [n, stop - start]; False behind an episode's end. None where no episode of the block ends in it.
    """

    start: int
    stop: int
    log_weight: Array
    ended: Array
    rows: NDArray[np.int64] | None = None
    running: NDArray[np.bool_] | None = None

    def values(self, rows: Array) -> Array:
        """Row values [R] as a block, [n, stop - start], 0 behind each episode's end."""
        values = rows.reshape(self.log_weight.shape) if self.rows is None else rows[self.rows]
        return np.asarray(values if self.running is None else np.where(self.running, values, 0.0))

    def write_log_weight(self, rows: Array) -> None:
        """Put the block's log-weights where they belong among all rows' [R]."""
        if self.rows is None:
            rows[:] = self.log_weight.reshape(-1)
        else:
            steps = ... if self.running is None else self.running
            rows[self.rows[steps]] = self.log_weight[steps]

    def clipped(self, bound: float) -> TimeBlock:
        """The same with no log-weight above the bound."""
        return replace(self, log_weight=np.minimum(self.log_weight, bound), ended=np.minimum(self.ended, bound))

    @cached_property
    def log_max(self) -> Array:
        """The largest log-weight of each step over all N episodes, [stop - start]."""
        largest = tensor(self.log_weight).amax(dim=0).numpy()
        return np.asarray(np.maximum(largest, np.max(self.ended, initial=-np.inf)))

    @cached_property
    def scaled(self) -> Array:
        """w over the largest of its step, [n, stop - start]; 0 where all are 0."""
        return self.scaled_by(0.0)

    def scaled_by(self, log_factor: float) -> Array:
        """exp(log_factor) times `scaled`, without the loss of what is too small before it is multiplied."""
        shift = tensor(log_factor - finite(self.log_max))
        return np.asarray((tensor(self.log_weight) + shift).exp_().numpy())

    @cached_property
    def least(self) -> float:
        """The smallest of `scaled` that stands for a weight other than 0, ended ones included; at most 1."""
        least = float(tensor(self.scaled).min())
        if least == 0.0:
            least = float(np.min(self.scaled, where=self.log_weight > -np.inf, initial=1.0))
        ended = float(np.min(self.scaled_ended, where=self.ended > -np.inf, initial=1.0))
        return min(least, ended * float(self.ended_factor.min()))

    @cached_property
    def scaled_ended(self) -> Array:
        """w of the others over the largest of theirs, [N - n]."""
        return self.scaled_ended_by(0.0)

    def scaled_ended_by(self, log_factor: float) -> Array:
        """exp(log_factor) times `scaled_ended`."""
        return np.asarray(np.exp(self.ended - self._log_max_ended + log_factor))

    @cached_property
    def ended_factor(self) -> Array:
        """What `scaled_ended` is to be multiplied by to be over the largest of each step, [stop - start]."""
        # No ended weight is above the step's largest, unless all of them are 0.
        return np.asarray(np.exp(np.minimum(self._log_max_ended - finite(self.log_max), 0.0)))

    @property
    def _log_max_ended(self) -> Array:
        return finite(np.max(self.ended, initial=-np.inf))

    @cached_property
    def scaled_sum(self) -> Array:
        """Σ_i w over the largest w, over all N episodes, [stop - start]; at least 1, or 0 where all are 0."""
        running = tensor(self.scaled).sum(dim=0).numpy()
        return np.asarray(running + self.scaled_ended.sum() * self.ended_factor)

    @cached_property
    def scaled_sum_of_squares(self) -> Array:
        """Σ_i w² over the largest w², likewise."""
        running = np.einsum("nt,nt->t", self.scaled, self.scaled)
        return np.asarray(running + (self.scaled_ended**2).sum() * self.ended_factor**2)


@dataclass(frozen=True, eq=False)
class StepWeights:
    """log w_t = Σ_{k ≤ t} log π(a_k | s_k) / μ(a_k | s_k) of N episodes.

    An episode that has ended goes on in a state where nothing is earned and both policies do the same: its weight stays
    what it was, and it goes on counting where weights are normalized by their sum at each step.

    Attributes:
        offsets: int64 [N + 1]; where each episode's rows begin.
        order: int64 [N]; the episodes, longest first.
        blocks: all steps, in blocks of which at least half is no padding: as many as log₂ N at most.
    """

    offsets: NDArray[np.int64]
    order: NDArray[np.int64]
    blocks: tuple[TimeBlock, ...]

    @classmethod
    def of(cls, log: EpisodeLog, *, clip: float | None = None) -> StepWeights:
        """Cumulative weights of a log; none above `clip`.

        Raises:
            RequestError: the log doesn't say how probable its actions are under both policies.
        """
        blocks = _whole_block(log.log_ratio, log) if log.equal_lengths else _cumulative_blocks(log.log_ratio, log)
        return cls(log.offsets, log.longest_first, tuple(blocks))._clipped(clip)

    def at_end(self, *, clip: float | None = None) -> StepWeights:
        """The weights of whole episodes: one step for each; none above `clip`."""
        episodes = np.arange(self.episodes + 1)
        log_weight = self.log_final[self.order, np.newaxis]
        block = TimeBlock(0, 1, log_weight, np.empty(0), self.order[:, np.newaxis])
        return StepWeights(episodes, self.order, (block,))._clipped(clip)

    def _clipped(self, clip: float | None) -> StepWeights:
        if clip is None or clip == np.inf:
            return self
        return StepWeights(self.offsets, self.order, tuple(block.clipped(np.log(clip)) for block in self.blocks))

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
    def running(self) -> NDArray[np.int64]:
        """How many episodes have each step, int64 [T]."""
        ended = np.cumsum(np.bincount(self.lengths, minlength=self.steps + 1))
        return self.episodes - ended[: self.steps]

    @cached_property
    def step(self) -> NDArray[np.int64]:
        """Each row's time within its episode, int64 [R]."""
        return np.arange(int(self.offsets[-1])) - np.repeat(self.offsets[:-1], self.lengths)

    @cached_property
    def log_weight(self) -> Array:
        """Of each row, [R]."""
        weights = np.empty(int(self.offsets[-1]))
        for block in self.blocks:
            block.write_log_weight(weights)
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
        return np.concatenate([block.log_max for block in self.blocks])

    @cached_property
    def log_sum(self) -> Array:
        """log Σ_i w_{i,t} over all episodes, those that have ended included, [T]; -inf where all weights are 0."""
        with np.errstate(divide="ignore"):
            return np.concatenate([np.log(block.scaled_sum) for block in self.blocks]) + finite(self.log_max)

    @cached_property
    def log_sum_of_squares(self) -> Array:
        """log Σ_i w²_{i,t}, likewise."""
        with np.errstate(divide="ignore"):
            sums = np.concatenate([np.log(block.scaled_sum_of_squares) for block in self.blocks])
        return np.asarray(sums + 2.0 * finite(self.log_max))

    @cached_property
    def relative(self) -> Array:
        """w_{i,t} over its mean at step t, of each row, [R]; NaN where all weights of the step are 0."""
        mean = self.log_sum - np.log(self.episodes)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.exp(self.log_weight - mean[self.step]))

    @cached_property
    def mean_final(self) -> tuple[float | None, float | None]:
        """Mean weight at the episodes' ends and its standard error; None where they are no numbers."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.exp(self.log_final)
            mean = float(np.mean(values))
            error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else np.nan
        return (mean if np.isfinite(mean) else None), (error if np.isfinite(error) else None)

    @property
    def vanish(self) -> bool:
        """Whether there is a step where all weights are 0."""
        return bool(np.isneginf(self.log_sum).any())


def _whole_block(log_ratio: Array, log: EpisodeLog) -> Iterator[TimeBlock]:
    """Of a log whose episodes are all equally long: nothing is padded, and nothing moved."""
    ratio = tensor(log_ratio.reshape(log.episodes, -1))
    yield TimeBlock(0, ratio.shape[1], ratio.cumsum_(dim=1).numpy(), np.empty(0))


def _cumulative_blocks(log_ratio: Array, log: EpisodeLog) -> Iterator[TimeBlock]:
    order = log.longest_first
    ordered = log.lengths[order]
    carried = np.zeros(len(order))
    start = 0
    while start < ordered[0]:
        count = int(np.searchsorted(-ordered, -start))
        stop = int(ordered[(count - 1) // 2])
        time = np.arange(start, stop)
        last = ordered[:count, np.newaxis] - 1
        running = time <= last
        rows = log.offsets[order[:count], np.newaxis] + np.minimum(time, last)
        log_weight = np.where(running, log_ratio[rows], 0.0)
        log_weight[:, 0] += carried[:count]
        tensor(log_weight).cumsum_(dim=1)
        carried[:count] = log_weight[:, -1]
        yield TimeBlock(start, stop, log_weight, carried[count:].copy(), rows, running)
        start = stop


def finite(values: ArrayLike) -> Array:
    """With 0 for -inf, so that it can be subtracted from -inf."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.isneginf(numbers), 0.0, numbers)
