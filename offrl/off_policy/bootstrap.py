"""Bootstrap over episodes: estimates computed anew from resampled episodes, all of them by matrix products.

A resample is a row of counts: how often each episode was drawn. The sums that an estimator is made of are the counts
times matrices with one row per episode, so 1,000 resamples cost a few products, and no loop over episodes.

Counts are independent Poisson draws, filled up to the number of draws: of one mean they are multinomial once their sum
is given, and uniform draws added to them leave them so. A mean of a little less than 1 keeps the sum below the number
of draws nearly always; rows in which it is above are drawn again, which takes nothing from the others, as it depends on
the sum alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.off_policy.episode_log import Array, tensor
from offrl.off_policy.weighted_sums import WeightedSum, WeightedTerms, single_will_do
from offrl.off_policy.weights import StepWeights, TimeBlock

COUNTS_AT_ONCE = 1 << 24
RESAMPLES_AT_ONCE = 1_024
EPISODES_AT_ONCE = 4_096
COLUMNS_AT_ONCE = 2_048
"""Products of these sizes are fast, and what they are made of stays in the processor's cache."""
NARROW = 64
"""Matrices of fewer columns are put side by side: of wider ones that would cost more than narrow products do."""
DRAWS_AT_ONCE = 1 << 19
_HEADROOM = 600.0
"""In float64, weights are scaled so that the largest of a step is exp(600): small ones have more room to vanish in."""
DEVIATIONS = 3.0
"""How many standard deviations the mean sum of a row is below the number of draws."""
AT_ONCE = 1 << 17
"""Counts for which all that it takes stays in a core's cache."""
_COMMON = 6
"""Smaller counts are told by comparisons; the others are too rare for that."""
_LARGEST = 60


def counts(episodes: int, resamples: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """How often each episode is drawn in each resample, uint8 [b, N], `resamples` rows in all.

    Some rows at a time have a generator of their own, so what is drawn doesn't depend on how many threads draw.
    """
    at_once = min(RESAMPLES_AT_ONCE, max(1, COUNTS_AT_ONCE // episodes))
    rows = max(1, DRAWS_AT_ONCE // episodes)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for first in range(0, resamples, at_once):
            drawn = np.empty((min(at_once, resamples - first), episodes), np.uint8)
            starts = range(0, len(drawn), rows)
            parts = [drawn[start : start + rows] for start in starts]
            seeds = [(seed, first + start) for start in starts]
            # Handing one part to a thread would cost small logs more than drawing it.
            list((threads.map if len(parts) > 1 else map)(draw_counts, parts, seeds))
            yield drawn


def resample_means(columns: Array, *, resamples: int, seed: int) -> Array:
    """Mean of each column over resampled rows, [B, k]; the same rows as `resample`'s for columns in its order.

    Args:
        columns: [N, k].
    """
    matrix = tensor(np.array(columns, dtype=np.float64))
    sums = [_products(drawn, [matrix], torch.float64)[0].numpy() for drawn in counts(len(columns), resamples, seed)]
    return np.concatenate(sums) / len(columns)


def resample(sums: Sequence[WeightedSum], order: NDArray[np.int64], *, resamples: int, seed: int) -> Array:
    """The estimates of each sum on the same resamples of episodes, [B, k]; NaN where all weights drawn are 0.

    In float32 where what that loses is far less than what the estimates differ by, and else in float64.

    Args:
        sums: k, of one log; they have values.
        order: int64 [N]; the episodes, longest first, as the weights have them.
        resamples: B.
        seed: of the drawing.
    """
    resampler = Resampler(sums, order)
    return np.concatenate([resampler.estimates(drawn) for drawn in counts(len(order), resamples, seed)])


class Resampler:
    """Computes estimates from counts.

    Args:
        sums: k, of one log; they have values.
        order: int64 [N]; the episodes, longest first, as the weights have them.
        dtype: of the products; left out, float32 where that will do.
    """

    def __init__(self, sums: Sequence[WeightedSum], order: NDArray[np.int64], dtype: torch.dtype | None = None) -> None:
        if dtype is None:
            dtype = torch.float32 if all(map(single_will_do, sums)) else torch.float64
        self.dtype = dtype
        self._values = [item.value for item in sums]
        self._pieces = _pieces(sums, order, dtype)
        self._matrices = _side_by_side([matrix for piece in self._pieces for matrix in piece.matrices])

    def estimates(self, drawn: NDArray[np.uint8]) -> Array:
        """The estimates [b, k] of episodes that were drawn as often as this, uint8 [b, N]."""
        products: dict[int, Tensor] = {}
        merged = _products(drawn, [matrix for matrix, _ in self._matrices], self.dtype)
        for product, (_, places) in zip(merged, self._matrices, strict=True):
            products |= zip(places, product.split(list(places.values()), dim=1), strict=True)
        in_order = iter(products[place] for place in range(len(products)))
        values = np.tile(np.array(self._values, np.float64), (len(drawn), 1))
        for piece in self._pieces:
            piece.add_to(values, [next(in_order) for _ in piece.matrices])
        return values


def _products(drawn: NDArray[np.uint8], matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """`drawn[:, :n] @ matrix` for each matrix [n, c], all of that dtype."""
    results = [matrix.new_empty((len(drawn), matrix.shape[1])) for matrix in matrices]
    for first in range(0, drawn.shape[1], EPISODES_AT_ONCE):
        part = tensor(drawn[:, first : first + EPISODES_AT_ONCE]).to(dtype)
        for matrix, result in zip(matrices, results, strict=True):
            rows = matrix[first : first + EPISODES_AT_ONCE]
            if len(rows):
                torch.addmm(result, part[:, : len(rows)], rows, beta=min(first, 1), out=result)
    return results


def _side_by_side(matrices: Sequence[Tensor]) -> list[tuple[Tensor, dict[int, int]]]:
    """Those of few columns and as many rows put together, with the places and the widths of what each consists of."""
    groups: dict[tuple[int, int], dict[int, int]] = {}
    for place, matrix in enumerate(matrices):
        rows, width = matrix.shape
        alone = place if width >= NARROW else -1
        groups.setdefault((rows, alone), {})[place] = width
    return [
        # By columns, which products of few of them are faster with.
        (matrices[min(group)] if alone >= 0 else torch.vstack([matrices[place].t() for place in group]).t(), group)
        for (_, alone), group in groups.items()
    ]


class _Piece(Protocol):
    """What the counts are multiplied by, and what becomes of the products.

    Attributes:
        matrices: [n, c] each; rows are the n longest episodes, longest first.
    """

    matrices: Sequence[Tensor]

    def add_to(self, values: Array, products: Sequence[Tensor]) -> None:
        """Add to the estimates [b, k] what comes of the counts times the matrices, [b, c] each."""


@dataclass(eq=False)
class _Means:
    """Means over episodes, less those of the log: of the plain sums, and of the others' b.

    Attributes:
        matrices: one of [N, m], each column over its scale.
        members: which m of the k sums.
        scale: [m].
    """

    matrices: Sequence[Tensor]
    members: list[int]
    scale: Array

    def add_to(self, values: Array, products: Sequence[Tensor]) -> None:
        values[:, self.members] += products[0].double().numpy() * (self.scale / len(self.matrices[0]))


@dataclass(eq=False)
class _Ratios:
    """Some steps of self-normalized sums that share weights, less what they are in the log.

    Attributes:
        matrices: [n, (1 + m) · width], scaled weights, then these times the centered terms of each of m sums; and,
            where episodes have ended, [N, 1], the scaled weights of those and 0 for the others.
        members: which m of the k sums.
        ended_factor: [width]; what the weights of ended episodes are multiplied by to be on the same scale.
        means: [m, width]; what the terms are centered by, so that an ended episode's term is the negative of it.
    """

    matrices: Sequence[Tensor]
    members: list[int]
    ended_factor: Tensor
    means: Tensor

    def add_to(self, values: Array, products: Sequence[Tensor]) -> None:
        product = products[0].unflatten(1, (1 + len(self.members), -1))
        weight, terms = product[:, :1], product[:, 1:]
        if len(products) > 1:
            ended = (products[1] * self.ended_factor).unsqueeze(1)
            weight, terms = weight + ended, terms - ended * self.means
        values[:, self.members] += (terms / weight).sum(dim=2).double().numpy()


def _pieces(sums: Sequence[WeightedSum], order: NDArray[np.int64], dtype: torch.dtype) -> list[_Piece]:
    pieces: list[_Piece] = []
    means = np.column_stack([item.base if item.is_ratio else item.contributions for item in sums])[order]
    means -= means.mean(axis=0)
    scale = np.abs(means).max(axis=0)
    if members := np.flatnonzero(scale).tolist():
        matrix = tensor(means[:, members] / scale[members]).to(dtype)
        pieces.append(_Means([matrix], members, scale[members]))
    for weights, members in _by_weights(sums):
        terms = [sums[i].weighted for i in members]
        pieces += _ratios(weights, members, [item for item in terms if item is not None], dtype)
    return pieces


def _by_weights(sums: Sequence[WeightedSum]) -> list[tuple[StepWeights, list[int]]]:
    """The self-normalized ones, those that share weights together: their sums of weights are computed once."""
    groups: dict[int, tuple[StepWeights, list[int]]] = {}
    for position, item in enumerate(sums):
        if item.is_ratio and item.weights is not None:
            groups.setdefault(id(item.weights), (item.weights, []))[1].append(position)
    return list(groups.values())


def _ratios(
    weights: StepWeights, members: list[int], terms: Sequence[WeightedTerms], dtype: torch.dtype
) -> Iterator[_Ratios]:
    at_once = max(1, COLUMNS_AT_ONCE // (1 + len(members)))
    for index, block in enumerate(weights.blocks):
        means = tensor(np.stack([item.means[index] for item in terms])).to(dtype)
        factor = tensor(block.ended_factor).to(dtype)
        columns = [tensor(column) for column in _columns(block, terms, index, dtype)]
        ended = [_ended(block, dtype)] if len(block.ended) else []
        for part in torch.arange(block.stop - block.start).split(at_once):
            chosen = slice(int(part[0]), int(part[-1]) + 1)
            matrix = torch.empty((len(columns[0]), len(columns) * len(part)), dtype=dtype)
            for target, column in zip(matrix.split(len(part), dim=1), columns, strict=True):
                target.copy_(column[:, chosen])
            yield _Ratios([matrix, *ended], members, factor[chosen], means[:, chosen])


def _columns(block: TimeBlock, terms: Sequence[WeightedTerms], index: int, dtype: torch.dtype) -> list[Array]:
    """Scaled weights, and these times the centered terms of each sum, float64 [n, stop - start] each."""
    if dtype == torch.float32:
        return [block.scaled, *(item.centered[index] for item in terms)]
    scaled = block.scaled_by(_HEADROOM)
    return [scaled, *(scaled * (block.values(item.terms) - item.means[index]) for item in terms)]


def _ended(block: TimeBlock, dtype: torch.dtype) -> Tensor:
    """Scaled weights of the episodes that have ended, 0 for the others, [N, 1]."""
    scaled = block.scaled_ended_by(0.0 if dtype == torch.float32 else _HEADROOM)
    return tensor(np.append(np.zeros(len(block.log_weight)), scaled)).to(dtype).unsqueeze(1)


def draw_counts(counts: NDArray[np.uint8], seed: tuple[int, ...]) -> None:
    """Fill each row with how often each of N things comes up in N uniform draws.

    No count is above 255: the chance of one is below 10⁻⁴⁹⁹ in a row of 10⁵.

    Args:
        counts: uint8 [B, N], contiguous; written to.
        seed: of SFC64.
    """
    rows, things = counts.shape
    generator = np.random.Generator(np.random.SFC64(seed))
    poisson = _poisson(1.0 - DEVIATIONS / math.sqrt(things + DEVIATIONS**2))
    missing = _fill(counts, poisson, generator)
    for row in np.flatnonzero(missing < 0):
        while missing[row] < 0:
            missing[row : row + 1] = _fill(counts[row : row + 1], poisson, generator)
    picks = generator.integers(things, size=int(missing.sum()))
    picks += np.repeat(np.arange(rows) * things, missing)
    np.add.at(counts.reshape(-1), picks, np.uint8(1))


def _fill(counts: NDArray[np.uint8], poisson: _Poisson, generator: np.random.Generator) -> NDArray[np.int64]:
    """Independent counts [B, N]; returns how many draws each row lacks, int64 [B]."""
    poisson.fill(counts.reshape(-1), generator)
    return np.asarray(counts.shape[1] - counts.sum(axis=1, dtype=np.uint32).astype(np.int64))


@dataclass(frozen=True, eq=False)
class _Poisson:
    """A Poisson distribution, split so that a draw takes 16 random bits, and a few of 10,000 draws more.

    With p_k the chances, a 16-bit number below `thresholds[-1]` tells k by how many thresholds it reaches: the k-th is
    reached by the sum of ⌊2¹⁶ p_j⌋ over j < k. Any other number stands for the chances that this rounding and the
    counts above leave, and k is drawn from those by itself.

    Attributes:
        thresholds: uint16 [K].
        rest: float64 [60]; the cumulative distribution of what is left.
    """

    thresholds: NDArray[np.uint16]
    rest: Array

    def fill(self, counts: NDArray[np.uint8], generator: np.random.Generator) -> None:
        """Draw independent counts, [n]."""
        reaches = np.empty(AT_ONCE, np.bool_)
        for first in range(0, len(counts), AT_ONCE):
            part = counts[first : first + AT_ONCE]
            reached = reaches[: len(part)]
            number = generator.bit_generator.random_raw(-(-len(part) // 4)).view(np.uint16)[: len(part)]
            np.greater_equal(number, self.thresholds[0], out=part.view(np.bool_))
            for threshold in self.thresholds[1:]:
                np.greater_equal(number, threshold, out=reached)
                np.add(part, reached.view(np.uint8), out=part)
            last = np.flatnonzero(number >= self.thresholds[-1])
            part[last] = np.searchsorted(self.rest, generator.random(len(last)), side="right")


@cache
def _poisson(mean: float) -> _Poisson:
    chances = np.array([math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(_LARGEST)])
    exact = chances * 2.0**16
    whole = np.floor(exact[:_COMMON])
    whole = whole[whole > 0.0]
    exact[: len(whole)] -= whole
    return _Poisson(np.cumsum(whole).astype(np.uint16), np.cumsum(exact)[:-1] / exact.sum())
