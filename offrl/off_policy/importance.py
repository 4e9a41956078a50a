"""Importance sampling: the logged rewards, weighed by how much likelier the target policy makes what led to them.

With ρ_t = π(a_t | s_t) / μ(a_t | s_t), w_t = Π_{k ≤ t} ρ_k, w_{-1} = 1, G = Σ_t γ^t r_t, N episodes i (Precup et al.,
2000). An episode that has ended keeps its weight at all later steps and adds nothing there.
"""

from __future__ import annotations

import numpy as np

from offrl.off_policy.estimator import Estimator
from offrl.off_policy.weighted_sums import WeightedSum, WeightedTerms


def trajectory(returns: WeightedTerms) -> WeightedSum:
    """IS = 1/N Σ_i w_i G_i, with the weight of the whole episode; unbiased.

    Args:
        returns: G by the weights of whole episodes.
    """
    return _without_base(returns, self_normalized=False)


def weighted_trajectory(returns: WeightedTerms) -> WeightedSum:
    """WIS = Σ_i w_i G_i / Σ_i w_i; biased by O(1/N), of less variance, and within the range of the returns.

    Args:
        returns: as of `trajectory`.
    """
    return _without_base(returns, self_normalized=True)


def per_decision(rewards: WeightedTerms) -> WeightedSum:
    """PDIS = 1/N Σ_i Σ_t γ^t w_{i,t} r_{i,t}; unbiased: a reward needs no weight for what came after it.

    Args:
        rewards: γ^t r_t by the weights up to each step.
    """
    return _without_base(rewards, self_normalized=False)


def weighted_per_decision(rewards: WeightedTerms) -> WeightedSum:
    """WPDIS = Σ_t γ^t Σ_i w_{i,t} r_{i,t} / Σ_i w_{i,t}; the sums of weights go over all N episodes at every step.

    Were ended episodes left out of the sums below, later rewards would be averaged over the survivors only, as if
    no episode ended. Consistent (Thomas, 2015, "Safe Reinforcement Learning": CWPDIS).

    Args:
        rewards: as of `per_decision`.
    """
    return _without_base(rewards, self_normalized=True)


def _without_base(weighted: WeightedTerms, *, self_normalized: bool) -> WeightedSum:
    return WeightedSum(np.zeros(weighted.weights.episodes), weighted, self_normalized)


IS = Estimator("importance sampling", lambda ask: trajectory(ask.returns), per_step=False, unbiased=True)
WIS = Estimator("weighted importance sampling", lambda ask: weighted_trajectory(ask.returns), per_step=False)
PDIS = Estimator("per-decision importance sampling", lambda ask: per_decision(ask.rewards), unbiased=True)
WPDIS = Estimator("weighted per-decision importance sampling", lambda ask: weighted_per_decision(ask.rewards))
