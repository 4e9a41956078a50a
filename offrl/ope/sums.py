"""The one form that all the estimators here have: a mean over episodes plus a weighted sum for each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from offrl.ope.log import Array
from offrl.ope.weights import StepWeights


@dataclass(frozen=True, eq=False)
class WeightedSum:
    """V̂ = 1/N Σ_i b_i + Σ_t Σ_i w_{i,t} y_{i,t} / n_t, with n_t = N, or Σ_i w_{i,t} where self-normalised.

    Attributes:
        base: b, [N].
        weights: w; None where there is no sum over steps.
        terms: y, one for each row of `weights`, [R]; 0 behind an episode's end.
        self_normalised: which n_t.
    """

    base: Array
    weights: StepWeights | None = None
    terms: Array = field(default_factory=lambda: np.empty(0))
    self_normalised: bool = False

    @property
    def is_ratio(self) -> bool:
        """Whether it has to be computed anew for each resample, since it isn't a mean over episodes."""
        return self.weights is not None and self.self_normalised

    @cached_property
    def value(self) -> float | None:
        """V̂; None where it is no number: the weights of a step are all 0, or one is too large for one."""
        terms = self.contributions
        value = float(np.mean(terms)) if len(terms) else np.nan
        return value if np.isfinite(value) else None

    @cached_property
    def contributions(self) -> Array:
        """Terms whose mean is V̂, one for each episode, [N]; empty where there is no value.

        Where self-normalised, V̂ + b_i - mean(b) + Σ_t w_{i,t} / w̄_t · (y_{i,t} - ȳ_t): V̂ and the episode's
        influence on it, ȳ_t the weighted mean and w̄_t the mean weight.
        """
        if self.weights is None:
            return self.base
        with np.errstate(over="ignore", invalid="ignore"):
            if not self.self_normalised:
                products = np.exp(self.weights.log_weight) * self.terms
                terms = self.base + np.add.reduceat(products, self.weights.offsets[:-1])
            elif self.weights.vanish:
                return np.empty(0)
            else:
                terms = self._linearised(self.weights)
        return terms if np.isfinite(terms).all() else np.empty(0)

    def _linearised(self, weights: StepWeights) -> Array:
        weighted = weights.relative * self.terms
        means = np.bincount(weights.step, weighted, minlength=weights.steps) / weights.episodes
        influence = weighted - weights.relative * means[weights.step]
        after = _influence_after_the_end(weights, means)
        value = np.mean(self.base) + np.sum(means)
        influence_of_episode = np.add.reduceat(influence, weights.offsets[:-1]) + after
        centred: Array = influence_of_episode - influence_of_episode.mean()
        return np.asarray(value + self.base - np.mean(self.base) + centred)


def _influence_after_the_end(weights: StepWeights, means: Array) -> Array:
    """-w_i Σ_{t ≥ T_i} ȳ_t / w̄_t of each episode, [N]: it only weighs in the means of the later steps."""
    if weights.steps == weights.lengths.min():
        return np.zeros(weights.episodes)
    log_mean = weights.log_sum - np.log(weights.episodes)
    total = np.zeros(weights.episodes)
    for sign in (1.0, -1.0):
        with np.errstate(divide="ignore"):
            log_part = np.log(np.maximum(sign * means, 0.0)) - log_mean
        # In log space: 1 / w̄_t alone can be too large for a number where w_i / w̄_t isn't.
        later = np.logaddexp.accumulate(log_part[::-1])[::-1]
        total -= sign * np.exp(weights.log_final + np.append(later, -np.inf)[weights.lengths])
    return total
