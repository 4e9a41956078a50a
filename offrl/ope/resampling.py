"""Bootstrap over episodes: estimates computed anew from resampled episodes, all of them by matrix products.

A resample is a row of counts: how often each episode was drawn. The sums that an estimator is made of are the counts
times matrices with one row per episode, so 1,000 resamples cost a few products, and no loop over episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offrl.ope.log import Array
from offrl.ope.sums import WeightedSum
from offrl.ope.weights import StepWeights, finite

COUNTS_AT_ONCE = 4_000_000
RESAMPLES_AT_ONCE = 128
COLUMNS_AT_ONCE = 256
"""Products of these sizes stay in the processor's cache."""
DRAWS_AT_ONCE = 1 << 17
_HEADROOM = 600.0
"""Weights are scaled so that the largest of a step is exp(600): the smaller ones have more room before they vanish."""


def counts(episodes: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each episode is drawn in each resample, float64 [b, N], `resamples` rows in all."""
    generator = np.random.default_rng(seed)
    at_once = min(RESAMPLES_AT_ONCE, max(1, COUNTS_AT_ONCE // episodes))
    together = max(1, DRAWS_AT_ONCE // episodes)
    for first in range(0, resamples, at_once):
        drawn = np.empty((min(at_once, resamples - first), episodes))
        for start in range(0, len(drawn), together):
            part = drawn[start : start + together]
            picked = _picks(generator, part.size, episodes).reshape(part.shape)
            picked += np.arange(len(part))[:, np.newaxis] * episodes
            part[:] = np.bincount(picked.reshape(-1), minlength=part.size).reshape(part.shape)
        yield drawn


def _picks(generator: np.random.Generator, size: int, episodes: int) -> NDArray[np.int64]:
    """Uniform among 0 … N - 1, to within N / 2³²: two from each 64 random bits, for drawing is half of the work."""
    bits = generator.bit_generator.random_raw(-(-size // 2)).view(np.uint32)[:size]
    return ((bits.astype(np.uint64) * np.uint64(episodes)) >> np.uint64(32)).view(np.int64)


def resample_means(columns: Array, *, resamples: int, seed: int) -> Array:
    """Mean of each column over resampled rows, [B, k]; the same rows as `resample`'s for columns in its order.

    Args:
        columns: [N, k].
    """
    return np.concatenate([drawn @ columns for drawn in counts(len(columns), resamples, seed)]) / len(columns)


def resample(sums: Sequence[WeightedSum], order: NDArray[np.int64], *, resamples: int, seed: int) -> Array:
    """The estimates of each sum on the same resamples of episodes, [B, k]; NaN where all weights drawn are 0.

    Args:
        sums: k, of one log; they have values.
        order: int64 [N]; the episodes, longest first, as the weights have them.
        resamples: B.
        seed: of the drawing.
    """
    episodes = len(order)
    means = np.column_stack([item.base if item.is_ratio else item.contributions for item in sums])[order]
    groups = _by_weights(sums)
    prepared = [(members, _Ratios(weights, [sums[i].terms for i in members])) for weights, members in groups]
    values = []
    for drawn in counts(episodes, resamples, seed):
        part = drawn @ means / episodes
        for members, ratios in prepared:
            part[:, members] += ratios.of(drawn)
        values.append(part)
    return np.concatenate(values)


def _by_weights(sums: Sequence[WeightedSum]) -> list[tuple[StepWeights, list[int]]]:
    """The self-normalised ones, those that share weights together: their sums of weights are computed once."""
    groups: dict[int, tuple[StepWeights, list[int]]] = {}
    for position, item in enumerate(sums):
        if item.is_ratio and item.weights is not None:
            groups.setdefault(id(item.weights), (item.weights, []))[1].append(position)
    return list(groups.values())


@dataclass(frozen=True, eq=False)
class _Columns:
    """Some steps of one block.

    Attributes:
        matrix: [n, (1 + k) · width]; scaled weights, then these times the terms of each of k sums.
        ended_factor: [width]; what the ended episodes' sum of weights is multiplied by to be on the same scale.
    """

    matrix: Array
    ended_factor: Array


class _Ratios:
    """Matrices of k self-normalised sums that share weights; rows are episodes, longest first."""

    def __init__(self, weights: StepWeights, terms: Sequence[Array]) -> None:
        self.sums = len(terms)
        final = weights.log_final[weights.order]
        self.blocks: list[tuple[Array, list[_Columns]]] = []
        for block in weights.blocks:
            ended = final[len(block.log_weight) :]
            largest = finite(np.max(ended, initial=-np.inf))
            centre = finite(weights.log_max[block.start : block.stop])
            scaled = np.exp(block.log_weight - centre + _HEADROOM)
            weighted = [scaled * block.values(rows) for rows in terms]
            # No ended weight is above the step's largest, unless all of them are 0.
            factor = np.exp(np.minimum(largest - centre, 0.0))
            columns = []
            for first in range(0, block.stop - block.start, COLUMNS_AT_ONCE):
                part = slice(first, first + COLUMNS_AT_ONCE)
                columns.append(_Columns(np.hstack([scaled[:, part], *(w[:, part] for w in weighted)]), factor[part]))
            self.blocks.append((np.exp(ended - largest + _HEADROOM), columns))

    def of(self, drawn: Array) -> Array:
        """The sums in these resamples, [b, k]."""
        totals = np.zeros((len(drawn), self.sums))
        for scaled_ended, block in self.blocks:
            ended = drawn[:, drawn.shape[1] - len(scaled_ended) :] @ scaled_ended
            for columns in block:
                products = drawn[:, : len(columns.matrix)] @ columns.matrix
                products = products.reshape(len(drawn), 1 + self.sums, -1)
                weight = products[:, 0]
                weight += ended[:, np.newaxis] * columns.ended_factor
                with np.errstate(invalid="ignore"):
                    products[:, 1:] /= weight[:, np.newaxis]
                totals += products[:, 1:].sum(axis=2)
        return totals
