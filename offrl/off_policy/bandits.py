"""Estimators for logs of single decisions: contextual bandits.

IPS, SNIPS, DM and DR are IS, WIS, DM and DR of episodes of one step (Swaminathan and Joachims, 2015; Dudík et al.,
2011, https://arxiv.org/abs/1103.4601). Here is what has no counterpart in longer episodes.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from offrl.off_policy.doubly_robust import MODEL_AND_WEIGHTS, doubly_robust
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimator import Estimator, Question
from offrl.off_policy.importance import trajectory, weighted_trajectory
from offrl.off_policy.weighted_sums import WeightedSum, WeightedTerms
from offrl.off_policy.weights import StepWeights


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


def _clip_threshold(ask: Question) -> float:
    return default_threshold(ask.log) if ask.clip is None else ask.clip


def _clipped(ask: Question) -> WeightedSum:
    weights = ask.whole if ask.clip is not None else ask.whole.at_end(clip=_clip_threshold(ask))
    return trajectory(WeightedTerms(weights, ask.log.returns))


def _switch_threshold(ask: Question) -> float:
    return default_threshold(ask.log) if ask.switch is None else ask.switch


def _switch_or_clip(ask: Question) -> float:
    return min(ask.clip or math.inf, _switch_threshold(ask))


IPS = Estimator(
    "inverse propensity scores", lambda ask: trajectory(ask.returns), per_step=False, unbiased=True, one_step=True
)
SNIPS = Estimator(
    "self-normalized inverse propensity scores",
    lambda ask: weighted_trajectory(ask.returns),
    per_step=False,
    one_step=True,
)
CLIPPED = Estimator(
    "inverse propensity scores, clipped", _clipped, per_step=False, one_step=True, threshold=_clip_threshold
)
SWITCH_DR = Estimator(
    "switch doubly robust",
    lambda ask: switch_doubly_robust(ask.log, ask.steps, _switch_threshold(ask)),
    needs=MODEL_AND_WEIGHTS,
    one_step=True,
    threshold=_switch_or_clip,
)
