"""Estimators for logs of single decisions: contextual bandits.

IPS, SNIPS, DM and DR are IS, WIS, DM and DR of episodes of one step (Swaminathan and Joachims, 2015; Dudík et al.,
2011, https://arxiv.org/abs/1103.4601). Here is what has no counterpart in longer episodes.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from offrl.errors import RequestError
from offrl.off_policy.doubly_robust import doubly_robust
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.weighted_sums import WeightedSum, WeightedTerms
from offrl.off_policy.weights import StepWeights


def require_one_step(log: EpisodeLog, name: str) -> None:
    """Refuse logs of longer episodes.

    Raises:
        RequestError: an episode has more than one step.
    """
    if not log.is_one_step:
        raise RequestError(
            f"{name} is for logs of single decisions, and these episodes have up to {int(log.lengths.max())} steps",
            hint="ask for is, wis, pdis, wpdis, dr, wdr or magic",
        )


def default_threshold(log: EpisodeLog) -> float:
    """√N: grows slowly enough to cut the variance, and fast enough that the bias vanishes (Ionides, 2008)."""
    return math.sqrt(log.episodes)


def switch_doubly_robust(log: EpisodeLog, weights: StepWeights, threshold: float) -> WeightedSum:
    """SWITCH-DR = 1/N Σ_i [V̂(x_i) + w_i 1{w_i ≤ τ} (r_i - Q̂(x_i, a_i))] (Wang et al., 2017).

    https://arxiv.org/abs/1612.01205. Where a weight is above τ the model is believed.
    """
    full = doubly_robust(log, weights, "switch-dr")
    assert full.weighted is not None
    terms = np.where(weights.log_weight <= math.log(threshold), full.weighted.terms, 0.0)
    return replace(full, weighted=WeightedTerms(weights, terms))
