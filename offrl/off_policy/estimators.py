"""The estimators by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from offrl.off_policy.bandits import default_threshold, switch_doubly_robust
from offrl.off_policy.diagnostics import mean_weight
from offrl.off_policy.doubly_robust import direct_method, doubly_robust, weighted_doubly_robust
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.importance import per_decision, trajectory, weighted_per_decision, weighted_trajectory
from offrl.off_policy.weighted_sums import WeightedSum, WeightedTerms
from offrl.off_policy.weights import StepWeights


@dataclass(frozen=True)
class Question:
    """A log, and how its weights are to be cut; weights are computed once for all estimators.

    Attributes:
        clip: no weight counts as more; None cuts none.
        switch: above it, switch-dr believes the model.
    """

    log: EpisodeLog
    clip: float | None = None
    switch: float | None = None

    @cached_property
    def steps(self) -> StepWeights:
        """Weights up to each step."""
        return StepWeights.of(self.log, clip=self.clip)

    @cached_property
    def whole(self) -> StepWeights:
        """Weights of whole episodes."""
        unclipped = self.steps if self.clip is None else StepWeights.of(self.log)
        return unclipped.at_end(clip=self.clip)

    @cached_property
    def rewards(self) -> WeightedTerms:
        """Discounted rewards by the weights up to their steps."""
        return WeightedTerms(self.steps, self.log.discounted_reward)

    @cached_property
    def returns(self) -> WeightedTerms:
        """Returns by the weights of whole episodes."""
        return WeightedTerms(self.whole, self.log.returns)

    @cached_property
    def truncated(self) -> WeightedTerms:
        """The same with weights as `clipped` cuts them."""
        weights = self.whole if self.clip is not None else self.whole.at_end(clip=self.threshold("clipped"))
        return WeightedTerms(weights, self.log.returns)

    @cached_property
    def weighted(self) -> WeightedSum:
        """WDR, which MAGIC blends the parts of."""
        return weighted_doubly_robust(self.log, self.steps)

    @cached_property
    def uncut(self) -> Question:
        """The same with no weight cut and the model never believed instead."""
        return Question(self.log, math.inf, math.inf)

    @cached_property
    def mean_weight(self) -> tuple[float | None, float | None]:
        """Of whole episodes, nothing cut, and its standard error; None where they are no numbers."""
        return mean_weight(self.whole if self.clip is None else self.uncut.whole)

    @property
    def switch_threshold(self) -> float:
        """Above it, switch-dr believes the model."""
        return default_threshold(self.log) if self.switch is None else self.switch

    def threshold(self, name: str) -> float | None:
        """Where an estimator cuts its weights, or switches; None where it doesn't."""
        if name == "switch-dr":
            return self.switch_threshold if self.clip is None else min(self.clip, self.switch_threshold)
        return default_threshold(self.log) if name == "clipped" and self.clip is None else self.clip


@dataclass(frozen=True)
class Estimator:
    """One way to answer.

    Attributes:
        title: its name in full.
        build: what it sums up.
        per_step: whether each step has a weight of its own; else one holds for the whole episode.
        unbiased: whether its expectation is the policy's value where the behavior's probabilities are right.
        values: whether it needs V̂, and Q̂ unless it is the direct method.
        one_step: whether it is for logs of single decisions only.
    """

    title: str
    build: Callable[[Question], WeightedSum]
    per_step: bool = True
    unbiased: bool = False
    values: bool = False
    one_step: bool = False


ESTIMATORS: dict[str, Estimator] = {
    "is": Estimator("importance sampling", lambda ask: trajectory(ask.returns), per_step=False, unbiased=True),
    "wis": Estimator("weighted importance sampling", lambda ask: weighted_trajectory(ask.returns), per_step=False),
    "pdis": Estimator("per-decision importance sampling", lambda ask: per_decision(ask.rewards), unbiased=True),
    "wpdis": Estimator("weighted per-decision importance sampling", lambda ask: weighted_per_decision(ask.rewards)),
    "dm": Estimator("direct method", lambda ask: direct_method(ask.log), values=True),
    "dr": Estimator("doubly robust", lambda ask: doubly_robust(ask.log, ask.steps), unbiased=True, values=True),
    "wdr": Estimator("weighted doubly robust", lambda ask: ask.weighted, values=True),
    "magic": Estimator("model and guided importance sampling combined", lambda ask: ask.weighted, values=True),
    "ips": Estimator(
        "inverse propensity scores",
        lambda ask: trajectory(ask.returns),
        per_step=False,
        unbiased=True,
        one_step=True,
    ),
    "snips": Estimator(
        "self-normalized inverse propensity scores",
        lambda ask: weighted_trajectory(ask.returns),
        per_step=False,
        one_step=True,
    ),
    "clipped": Estimator(
        "inverse propensity scores, clipped",
        lambda ask: trajectory(ask.truncated),
        per_step=False,
        one_step=True,
    ),
    "switch-dr": Estimator(
        "switch doubly robust",
        lambda ask: switch_doubly_robust(ask.log, ask.steps, ask.switch_threshold),
        values=True,
        one_step=True,
    ),
}
"""Every estimator that needs nothing but an `EpisodeLog`, by the name that people give."""
