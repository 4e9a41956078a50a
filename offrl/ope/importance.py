"""Importance sampling: the logged rewards, weighed by how much likelier the target policy makes what led to them.

With ρ_t = π(a_t | s_t) / μ(a_t | s_t), w_t = Π_{k ≤ t} ρ_k, w_{-1} = 1, G = Σ_t γ^t r_t, N episodes i (Precup et al.,
2000). An episode that has ended keeps its weight at all later steps and adds nothing there.
"""

from __future__ import annotations

import numpy as np

from offrl.ope.log import EpisodeLog
from offrl.ope.sums import WeightedSum
from offrl.ope.weights import StepWeights


def trajectory(log: EpisodeLog, weights: StepWeights) -> WeightedSum:
    """IS = 1/N Σ_i w_i G_i, with the weight of the whole episode; unbiased."""
    return WeightedSum(np.zeros(log.episodes), weights, log.returns)


def weighted_trajectory(log: EpisodeLog, weights: StepWeights) -> WeightedSum:
    """WIS = Σ_i w_i G_i / Σ_i w_i; biased by O(1/N), of less variance, and within the range of the returns."""
    return WeightedSum(np.zeros(log.episodes), weights, log.returns, self_normalised=True)


def per_decision(log: EpisodeLog, weights: StepWeights) -> WeightedSum:
    """PDIS = 1/N Σ_i Σ_t γ^t w_{i,t} r_{i,t}; unbiased: a reward needs no weight for what came after it."""
    return WeightedSum(np.zeros(log.episodes), weights, log.discounts * log.reward)


def weighted_per_decision(log: EpisodeLog, weights: StepWeights) -> WeightedSum:
    """WPDIS = Σ_t γ^t Σ_i w_{i,t} r_{i,t} / Σ_i w_{i,t}; the sums of weights go over all N episodes at every step.

    Were ended episodes left out of the sums below, later rewards would be averaged over the survivors only, as if
    no episode ended. Consistent (Thomas, 2015, "Safe Reinforcement Learning": CWPDIS).
    """
    return WeightedSum(np.zeros(log.episodes), weights, log.discounts * log.reward, self_normalised=True)
