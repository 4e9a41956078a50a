"""What off-policy evaluation found out: one policy's value by each estimator, the behavior's own, and a ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from offrl.off_policy.behavior_policy import BehaviorEstimate
from offrl.off_policy.diagnostics import Diagnostics
from offrl.off_policy.estimator import Estimate
from offrl.off_policy.intervals import Interval
from offrl.off_policy.ranking import Agreement, Ranking


@dataclass(frozen=True)
class Truth:
    """What a policy earned where it acted itself: the mean discounted return, its standard error, over how many."""

    value: float
    standard_error: float | None
    episodes: int


@dataclass(frozen=True)
class PolicyResult:
    """What is known of one policy's value.

    Attributes:
        name: the policy.
        estimates: one for each estimator.
        diagnostics: of its weights; None where no estimator used any.
        truth: None where nobody tried.
        spread: of fitted values, the standard deviation over their networks; None without them.
        smoothing_bias: fitted value of the smoothed policy less that of the policy itself; None without smoothing.
        warnings: on the policy as a whole.
    """

    name: str
    estimates: tuple[Estimate, ...]
    diagnostics: Diagnostics | None
    truth: Truth | None
    spread: float | None
    smoothing_bias: float | None
    warnings: tuple[str, ...]

    def estimate(self, name: str) -> Estimate | None:
        """By the name of the estimator."""
        return next((each for each in self.estimates if each.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "estimates": [each.to_dict() for each in self.estimates],
            "truth": None if self.truth is None else vars(self.truth).copy(),
            "diagnostics": None if self.diagnostics is None else self.diagnostics.to_dict(),
            "fqe_spread": self.spread,
            "smoothing_bias": self.smoothing_bias,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class BehaviorResult:
    """The policy that acted.

    Attributes:
        probabilities: where those of its actions are from; "none" where no estimator needed them.
        value: mean discounted return of the logged episodes.
        interval: Student's, of it; None for a single episode.
        estimated: the check of estimated probabilities.
    """

    probabilities: Literal["logged", "estimated", "none"]
    value: float
    interval: Interval | None
    estimated: BehaviorEstimate | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        facts = None
        if self.estimated is not None:
            facts = {name: item for name, item in vars(self.estimated).items() if name != "log_prob"}
        return {
            "probabilities": self.probabilities,
            "value": self.value,
            "interval": None if self.interval is None else vars(self.interval).copy(),
            "estimated": facts,
        }


@dataclass(frozen=True)
class Evaluation:
    """Everything that `evaluate` found out.

    Attributes:
        dataset: the log's name.
        episodes, steps: of the log.
        discount, horizon, confidence, clip: as they were asked for.
        behavior: the policy that acted.
        policies: in the order of the targets.
        ranking: of several policies; None for one, or where they can't be ranked.
        agreement: of the ranking with the truth, where that is known.
        notes: what was left out, and why.
    """

    dataset: str
    episodes: int
    steps: int
    discount: float
    horizon: int | None
    confidence: float
    clip: float | None
    behavior: BehaviorResult
    policies: tuple[PolicyResult, ...]
    ranking: Ranking | None
    agreement: Agreement | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, none of them NaN or infinite."""
        plain = ("dataset", "episodes", "steps", "discount", "horizon", "confidence", "clip")
        return {
            **{name: vars(self)[name] for name in plain},
            "behavior": self.behavior.to_dict(),
            "policies": [each.to_dict() for each in self.policies],
            "ranking": None if self.ranking is None else self.ranking.to_dict(),
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
            "notes": list(self.notes),
        }
