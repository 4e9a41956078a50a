"""Bootstrap over episodes: estimates computed anew from resampled episodes, all of them by matrix products.

A resample is a row of counts: how often each episode was drawn. The sums that an estimator is made of are the counts
times matrices with one row per episode, so 1,000 resamples cost a few products, and no loop over episodes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from offrl.ope.log import Array
from offrl.ope.sums import WeightedSum
from offrl.ope.weights import StepWeights, finite

COUNTS_AT_ONCE = 2_000_000
RESAMPLES_AT_ONCE = 128
COLUMNS_AT_ONCE = 512
"""Products of these sizes stay in the processor's cache."""
DRAWS_AT_ONCE = 1 << 17
_HEADROOM = 600.0
"""Weights are scaled so that the largest of a step is exp(600): the smaller ones have more room before they vanish."""


def counts(episodes: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each episode is drawn in each resample, float64 [b, N], `resamples` rows in all.

    Some rows at a time have a generator of their own, so what is drawn doesn't depend on how many threads draw.
    """
    at_once = min(RESAMPLES_AT_ONCE, max(1, COUNTS_AT_ONCE // episodes))
    rows = min(at_once, max(1, DRAWS_AT_ONCE // episodes))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for first in range(0, resamples, at_once):
            drawn = np.empty((min(at_once, resamples - first), episodes))
            starts = range(0, len(drawn), rows)
            parts = [drawn[start : start + rows] for start in starts]
            seeds = [(seed, first + start) for start in starts]
            # Handing one part to a thread would cost small logs more than counting it.
            list((threads.map if len(parts) > 1 else map)(_count, parts, seeds))
            yield drawn


def _count(part: Array, seed: tuple[int, int]) -> None:
    """Fill rows with counts of uniform draws."""
    resamples, episodes = part.shape
    picked = _picks(np.random.SFC64(seed), part.size, episodes).reshape(part.shape)
    picked += np.arange(resamples)[:, np.newaxis] * episodes
    part[:] = np.bincount(picked.reshape(-1), minlength=part.size).reshape(part.shape)


def _picks(bits: np.random.SFC64, size: int, episodes: int) -> NDArray[np.int64]:
    """Uniform among 0 … N - 1, to within N / 2³²: two from each 64 random bits, for drawing is half of the work."""
    drawn = bits.random_raw(-(-size // 2)).view(np.uint32)[:size]
    picks = np.multiply(drawn, np.uint64(episodes), dtype=np.uint64)
    picks >>= np.uint64(32)
    return picks.view(np.int64)


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
    products = _merged(_pieces(sums, order))
    values = []
    for drawn in counts(len(order), resamples, seed):
        part = np.zeros((len(drawn), len(sums)))
        for matrix, pieces in products:
            product = drawn[:, : len(matrix)] @ matrix
            place = 0
            for piece in pieces:
                width = piece.matrix.shape[1]
                piece.add_to(part, product[:, place : place + width], drawn)
                place += width
        values.append(part)
    return np.concatenate(values)


class _Piece(Protocol):
    """What the counts are multiplied by, and what becomes of the product.

    Attributes:
        matrix: [n, c]; rows are the n longest episodes, longest first.
    """

    matrix: Array

    def add_to(self, values: Array, product: Array, drawn: Array) -> None:
        """Add to the estimates [b, k] what comes of `drawn[:, :n] @ matrix`, [b, c]."""


@dataclass(eq=False)
class _Means:
    """Means over episodes: all of the plain sums, and the others' b; [N, k]."""

    matrix: Array

    def add_to(self, values: Array, product: Array, drawn: Array) -> None:
        values += product / len(self.matrix)


@dataclass(eq=False)
class _Ratios:
    """Some steps of self-normalised sums that share weights.

    Attributes:
        matrix: [n, (1 + m) · width]; scaled weights, then these times the terms of each of m sums.
        members: which m of the k sums.
        ended: [N - n]; the scaled weights of the episodes that have ended.
        ended_factor: [width]; what those are multiplied by to be on the same scale.
    """

    matrix: Array
    members: list[int]
    ended: Array
    ended_factor: Array

    def add_to(self, values: Array, product: Array, drawn: Array) -> None:
        products = product.reshape(len(drawn), 1 + len(self.members), -1)
        weight = products[:, :1]
        if len(self.ended):
            ended = drawn[:, -len(self.ended) :] @ self.ended
            weight = weight + np.multiply.outer(ended, self.ended_factor)[:, np.newaxis]
        with np.errstate(invalid="ignore"):
            values[:, self.members] += (products[:, 1:] / weight).sum(axis=2)


def _merged(pieces: Sequence[_Piece]) -> list[tuple[Array, list[_Piece]]]:
    """Pieces of the same rows side by side, `COLUMNS_AT_ONCE` together: narrow products are slow."""
    merged: list[list[_Piece]] = []
    width = 0
    for piece in sorted(pieces, key=lambda piece: -len(piece.matrix)):
        width += piece.matrix.shape[1]
        if merged and width <= COLUMNS_AT_ONCE and len(merged[-1][0].matrix) == len(piece.matrix):
            merged[-1].append(piece)
        else:
            merged.append([piece])
            width = piece.matrix.shape[1]
    return [
        (part[0].matrix if len(part) == 1 else np.hstack([piece.matrix for piece in part]), part) for part in merged
    ]


def _pieces(sums: Sequence[WeightedSum], order: NDArray[np.int64]) -> list[_Piece]:
    means = np.column_stack([item.base if item.is_ratio else item.contributions for item in sums])[order]
    pieces: list[_Piece] = [_Means(means)]
    for weights, members in _by_weights(sums):
        pieces += _ratios(weights, members, [sums[i].terms for i in members])
    return pieces


def _by_weights(sums: Sequence[WeightedSum]) -> list[tuple[StepWeights, list[int]]]:
    """The self-normalised ones, those that share weights together: their sums of weights are computed once."""
    groups: dict[int, tuple[StepWeights, list[int]]] = {}
    for position, item in enumerate(sums):
        if item.is_ratio and item.weights is not None:
            groups.setdefault(id(item.weights), (item.weights, []))[1].append(position)
    return list(groups.values())


def _ratios(weights: StepWeights, members: list[int], terms: Sequence[Array]) -> Iterator[_Ratios]:
    final = weights.log_final[weights.order]
    at_once = max(1, COLUMNS_AT_ONCE // (1 + len(members)))
    for block in weights.blocks:
        ended = final[len(block.log_weight) :]
        largest = finite(np.max(ended, initial=-np.inf))
        centre = finite(weights.log_max[block.start : block.stop])
        scaled = np.exp(block.log_weight - centre + _HEADROOM)
        weighted = [scaled, *(scaled * block.values(rows) for rows in terms)]
        # No ended weight is above the step's largest, unless all of them are 0.
        factor = np.exp(np.minimum(largest - centre, 0.0))
        for first in range(0, block.stop - block.start, at_once):
            part = slice(first, first + at_once)
            matrix = np.hstack([columns[:, part] for columns in weighted])
            yield _Ratios(matrix, members, np.exp(ended - largest + _HEADROOM), factor[part])
