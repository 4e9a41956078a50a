"""Bootstrap over episodes: estimates computed anew from resampled episodes, all of them by matrix products.

A resample is a row of counts: how often each episode was drawn. The sums that an estimator is made of are the counts
times matrices with one row per episode, so 1,000 resamples cost a few products, and no loop over episodes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.off_policy.draws import draw_counts
from offrl.off_policy.episode_log import Array, tensor
from offrl.off_policy.weighted_sums import WeightedSum, WeightedTerms
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
_SINGLE_LEAST = math.exp(-40.0)
_SINGLE_RANGE = 1e-6, 1e12
_SINGLE_CANCELLATION = 50.0
"""What float32 is good for: see `single_will_do`."""


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


def single_will_do(item: WeightedSum) -> bool:
    """Whether float32 loses far less of a resampled estimate than such estimates differ by.

    What is resampled is Σ_t Σ_i c_i w_{i,t} (y_{i,t} - ȳ_t) / Σ_i c_i w_{i,t}, weights over the largest of their step.
    It is so where

    * no weight other than 0 is below exp(-40): whatever is drawn, the sum of weights is then far above what underflows;
    * the products in the numerator are of sizes of which those that underflow are too small to count;
    * the steps' standard errors, and that of the base, add up to no more than 50 times the estimate's. Rounding leaves
      some 10⁻⁶ of each step's, and 10⁻⁴ where terms rise all along the log: sums are over some thousands of episodes at
      a time, and of terms around 0. What it leaves of them doesn't cancel, even where they do.
    """
    if not item.is_ratio or item.weighted is None:
        return True
    weighted = item.weighted
    if any(block.least < _SINGLE_LEAST for block in weighted.weights.blocks):
        return False
    sizes = [np.sqrt(np.einsum("nt,nt->t", centered, centered)) for centered in weighted.centered]
    largest = max(size.max() for size in sizes)
    if not _SINGLE_RANGE[0] <= largest <= _SINGLE_RANGE[1]:
        return False
    spreads = sum(
        float(np.sum(size / block.scaled_sum)) for size, block in zip(sizes, weighted.weights.blocks, strict=True)
    )
    whole = float(np.linalg.norm(item.contributions - np.mean(item.contributions))) / len(item.base)
    base = float(np.linalg.norm(item.base - np.mean(item.base))) / len(item.base)
    return spreads + base <= _SINGLE_CANCELLATION * whole
