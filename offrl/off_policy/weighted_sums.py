"""The one form that all the estimators here have: a mean over episodes plus a weighted sum for each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from offrl.off_policy.episode_log import Array, tensor
from offrl.off_policy.weights import StepWeights, TimeBlock, finite

_SINGLE_LEAST = math.exp(-40.0)
_SINGLE_RANGE = 1e-6, 1e12
_SINGLE_CANCELLATION = 50.0
"""What float32 is good for: see `single_will_do`."""


@dataclass(frozen=True, eq=False)
class WeightedTerms:
    """w_{i,t} y_{i,t}: what estimators of the same terms by the same weights share.

    Attributes:
        weights: w.
        terms: y, one for each row of `weights`, [R]; 0 behind an episode's end.
    """

    weights: StepWeights
    terms: Array

    @cached_property
    def means(self) -> tuple[Array, ...]:
        """ȳ_t = Σ_i w_{i,t} y_{i,t} / Σ_i w_{i,t} of each block's steps, [stop - start]; 0 where all weights are 0."""
        return tuple(mean for mean, _ in self._by_block)

    @cached_property
    def centered(self) -> tuple[Array, ...]:
        """w_{i,t} (y_{i,t} - ȳ_t) for each block, [n, stop - start], w as in `TimeBlock.scaled`."""
        return tuple(centered for _, centered in self._by_block)

    @cached_property
    def _by_block(self) -> list[tuple[Array, Array]]:
        return [_centered(block, block.values(self.terms)) for block in self.weights.blocks]


def _centered(block: TimeBlock, values: Array) -> tuple[Array, Array]:
    scaled = tensor(block.scaled)
    product = scaled * tensor(values)
    total = product.sum(dim=0).numpy()
    mean = np.divide(total, block.scaled_sum, out=np.zeros_like(total), where=block.scaled_sum > 0.0)
    return mean, product.addcmul_(scaled, tensor(mean), value=-1.0).numpy()


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """V̂ = 1/N Σ_i b_i + Σ_t Σ_i w_{i,t} y_{i,t} / n_t, with n_t = N, or Σ_i w_{i,t} where self-normalized.

    Attributes:
        base: b, [N].
        weighted: w and y; None where there is no sum over steps.
        self_normalized: which n_t.
    """

    base: Array
    weighted: WeightedTerms | None = None
    self_normalized: bool = False

    @property
    def weights(self) -> StepWeights | None:
        """w."""
        return None if self.weighted is None else self.weighted.weights

    @property
    def is_ratio(self) -> bool:
        """Whether it has to be computed anew for each resample, since it isn't a mean over episodes."""
        return self.weighted is not None and self.self_normalized

    @cached_property
    def value(self) -> float | None:
        """V̂; None where it is no number: the weights of a step are all 0, or one is too large for one."""
        terms = self.contributions
        value = float(np.mean(terms)) if len(terms) else np.nan
        return value if np.isfinite(value) else None

    @cached_property
    def contributions(self) -> Array:
        """Terms whose mean is V̂, one for each episode, [N]; empty where there is no value.

        Where self-normalized, V̂ + b_i - mean(b) + Σ_t w_{i,t} / w̄_t · (y_{i,t} - ȳ_t): V̂ and the episode's
        influence on it, ȳ_t the weighted mean and w̄_t the mean weight.
        """
        if self.weighted is None:
            return self.base
        if self.self_normalized and self.weighted.weights.vanish:
            return np.empty(0)
        with np.errstate(over="ignore", invalid="ignore"):
            terms = (_linearized if self.self_normalized else _plain)(self.base, self.weighted)
        return terms if np.isfinite(terms).all() else np.empty(0)


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


def _plain(base: Array, weighted: WeightedTerms) -> Array:
    """b_i + Σ_t w_{i,t} y_{i,t} of each episode, [N]."""
    order, terms = weighted.weights.order, base.copy()
    for block, mean, centered in zip(weighted.weights.blocks, weighted.means, weighted.centered, strict=True):
        largest = np.exp(finite(block.log_max))
        terms[order[: len(centered)]] += _dot(centered, largest) + _dot(block.scaled, largest * mean)
    return terms


def _linearized(base: Array, weighted: WeightedTerms) -> Array:
    """V̂ and each episode's influence on it, [N]; no step's weights are all 0."""
    order, episodes = weighted.weights.order, weighted.weights.episodes
    influence = np.zeros(episodes)
    for block, mean, centered in zip(weighted.weights.blocks, weighted.means, weighted.centered, strict=True):
        share = episodes / block.scaled_sum
        influence[order[: len(centered)]] += _dot(centered, share)
        # An episode that has ended only weighs in the means of the later steps.
        influence[order[len(centered) :]] -= block.scaled_ended * np.sum(block.ended_factor * mean * share)
    value = np.mean(base) + sum(float(np.sum(mean)) for mean in weighted.means)
    return np.asarray(value + base - np.mean(base) + influence - influence.mean())


def _dot(matrix: Array, vector: Array) -> Array:
    return np.asarray(torch.mv(tensor(matrix), tensor(vector)).numpy())
