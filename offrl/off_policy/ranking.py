"""Which of several policies is best, as far as one log can tell; and how right such a ranking was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.errors import RequestError
from offrl.off_policy.bootstrap import resample_means
from offrl.off_policy.episode_log import Array
from offrl.off_policy.estimator import Estimate
from offrl.off_policy.intervals import standard_error


@dataclass(frozen=True)
class Place:
    """One policy's.

    Attributes:
        policy: its position among the policies.
        value: its estimate.
        low, high: all policies' intervals together hold their values with the ranking's confidence; None where the
            estimator has no intervals.
        may_be_best: False where the same confidence, over all comparisons with the first, says that it is worse; None
            where the estimator's interval doesn't cover its own errors, or there is none.
    """

    policy: int
    value: float
    low: float | None
    high: float | None
    may_be_best: bool | None


@dataclass(frozen=True)
class Ranking:
    """Policies from best to worst, by one estimator.

    Attributes:
        estimator: its name.
        confidence: of all intervals at once.
        places: the best first.
    """

    estimator: str
    confidence: float
    places: tuple[Place, ...]

    @property
    def has_intervals(self) -> bool:
        """Whether the estimator has any."""
        return self.places[0].low is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Agreement:
    """A ranking beside the truth.

    Attributes:
        rank_correlation: Spearman's; None where all true values, or all estimates, are equal.
        regret: of each k, how much the best of the k policies that were ranked first falls short of the best of all.
    """

    rank_correlation: float | None
    regret: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rank_correlation": self.rank_correlation,
            "regret": {str(k): value for k, value in enumerate(self.regret, start=1)},
        }


def rank(
    estimates: Sequence[Estimate], *, confidence: float, resamples: int = 1_000, seed: int = 0, sure: bool = True
) -> Ranking:
    """Order policies by their estimates, with simultaneous intervals by the bootstrap of the largest |t|.

    All policies are valued on the same episodes, so their errors go together: resampling the episodes for all of them
    at once makes the intervals no wider than that needs (Romano & Wolf, 2005). Without contributions there are no
    intervals, and values alone are ordered.

    Args:
        estimates: of one estimator, one for each policy, on one log.
        confidence: of all intervals together.
        resamples: of the bootstrap.
        seed: of its drawing.
        sure: whether the contributions hold all of an estimate's error; those of fitted values alone don't.

    Raises:
        RequestError: a policy has no estimate.
    """
    if any(each.value is None for each in estimates):
        raise RequestError(
            f"the policies can't be ranked by {estimates[0].name}: not all of them have a value",
            hint="rank by an estimator that gives all of them one",
        )
    values = np.array([each.value for each in estimates], np.float64)
    order = np.argsort(-values, kind="stable")
    if any(len(each.contributions) < 2 for each in estimates):
        alone = [Place(int(each), float(values[each]), None, None, None) for each in order]
        return Ranking(estimates[0].name, confidence, tuple(alone))
    contributions = np.stack([each.contributions for each in estimates], axis=1)
    centered = contributions - contributions.mean(axis=0)
    drawn = resample_means(centered, resamples=resamples, seed=seed)
    error, factor = _largest_deviation(centered, drawn, confidence)
    best = int(order[0])
    gap_error, gap_factor = _largest_deviation(
        centered[:, [best]] - centered, drawn[:, [best]] - drawn, confidence, one_sided=True
    )
    gap = values[best] - values
    places = [
        Place(
            policy=int(each),
            value=float(values[each]),
            low=float(values[each] - factor * error[each]),
            high=float(values[each] + factor * error[each]),
            may_be_best=bool(gap[each] <= gap_factor * gap_error[each]) if sure else None,
        )
        for each in order
    ]
    return Ranking(estimates[0].name, confidence, tuple(places))


def agreement(ranking: Ranking, truth: Sequence[float], most: int = 3) -> Agreement:
    """How right a ranking was.

    Args:
        ranking: of P policies.
        truth: their true values, by position.
        most: regret is told up to this many policies.
    """
    true = np.asarray(truth, np.float64)
    order = [place.policy for place in ranking.places]
    estimated = np.empty(len(true))
    estimated[order] = [place.value for place in ranking.places]
    regret = [float(true.max() - true[order[:k]].max()) for k in range(1, min(most, len(true)) + 1)]
    return Agreement(rank_correlation(estimated, true), tuple(regret))


def rank_correlation(one: Array, other: Array) -> float | None:
    """Spearman's: the correlation of the ranks, ties having their mean rank; None where one of them is constant."""
    ranks = [_ranks(values) for values in (one, other)]
    spreads = [float(values.std()) for values in ranks]
    if len(one) < 2 or min(spreads) == 0.0:
        return None
    first, second = (values - values.mean() for values in ranks)
    return float((first * second).mean() / (spreads[0] * spreads[1]))


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse])


def _largest_deviation(
    contributions: Array, drawn: Array, confidence: float, *, one_sided: bool = False
) -> tuple[NDArray[np.float64], float]:
    """Standard errors [P], and how many of them all deviations together stay within."""
    error = np.array([standard_error(column) for column in contributions.T])
    moving = error > 1e-12 * max(float(error.max()), 1e-300)
    if not moving.any():
        return error, 0.0
    scaled = drawn[:, moving] / error[moving]
    largest = (scaled if one_sided else np.abs(scaled)).max(axis=1)
    return error, float(np.quantile(largest, confidence))
