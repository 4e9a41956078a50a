"""What an evaluation is asked for: the policies to be valued, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from offrl.off_policy.behavior_policy import BehaviorConfig
from offrl.off_policy.choices import Choices
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.intervals import Bounds, IntervalKind


@dataclass(frozen=True)
class Target:
    """A policy to be valued.

    Attributes:
        name: what results call it.
        choices: what it does at the log's rows.
        unsmoothed: of a policy smoothed by a kernel, what it did before.
        could_sample: whether the policy has a density where it is asked to sample, which it wasn't.
        true_returns: discounted returns of episodes in which it acted itself, float64 [n]; None where nobody tried.
    """

    name: str
    choices: Choices
    unsmoothed: Choices | None = None
    could_sample: bool = False
    true_returns: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        estimators: names in `offrl.plugins.estimators`; None takes all usual ones that the log and the policies allow.
        discount, horizon: see `EpisodeLog`; they hold in place of the log's.
        confidence, interval, resamples, seed, clip, bounds: see `offrl.off_policy.estimate.estimate`.
        may_estimate_behavior: whether the probabilities of logged actions may be estimated where the log has none.
        rank_by: the estimator that several policies are ranked by; None takes the first usual one there is.
        fqe: how values are fitted.
        behavior: how the behavior policy is.
    """

    estimators: Sequence[str] | None = None
    discount: float = 0.99
    horizon: int | None = None
    confidence: float = 0.95
    interval: IntervalKind | None = "bootstrap-bca"
    resamples: int = 1_000
    seed: int = 0
    clip: float | None = None
    bounds: Bounds | None = None
    may_estimate_behavior: bool = False
    rank_by: str | None = None
    fqe: FQEConfig = field(default_factory=FQEConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
