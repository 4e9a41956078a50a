"""Confidence intervals of a mean over episodes, and of what behaves like one; and the bounds that some of them need."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np

from offrl.errors import DataError, RequestError
from offrl.off_policy.episode_log import Array, EpisodeLog
from offrl.ops.student_t import student_t_quantile

IntervalKind = Literal["bootstrap-percentile", "bootstrap-bca", "bootstrap-studentized", "t", "hoeffding", "bernstein"]
INTERVALS: tuple[IntervalKind, ...] = get_args(IntervalKind)

Ends = tuple[float, float]
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """Where the policy's value lies, with the confidence named.

    Attributes:
        low, high: its ends, in units of the return.
        confidence: nominal coverage, as 0.95.
        method: how it was made, as "bootstrap-bca".
    """

    low: float
    high: float
    confidence: float
    method: str


def percentile(resampled: Array, confidence: float) -> Ends:
    """Quantiles of the resampled estimates (Efron, 1979); coverage is right to O(1/√N).

    Args:
        resampled: [B].
    """
    return _quantiles(resampled, (1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0)


def bca(contributions: Array, resampled: Array, confidence: float) -> Ends:
    """Quantiles moved for median bias and acceleration (Efron, 1987); coverage is right to O(1/N).

    The acceleration is the skewness of the episodes' influence on the estimate (infinitesimal jackknife).

    Args:
        contributions: [N]; their mean is the estimate.
        resampled: [B].
    """
    value = float(np.mean(contributions))
    below = np.mean(resampled < value) + np.mean(resampled == value) / 2.0
    shift = _NORMAL.inv_cdf(float(np.clip(below, 1.0 / (len(resampled) + 1), 1.0 - 1.0 / (len(resampled) + 1))))
    influence = contributions - value
    # Over the largest: a cube of what heavy weights contribute may be too large for a number.
    influence /= max(float(np.abs(influence).max()), np.finfo(np.float64).tiny)
    spread = float(np.sum(influence**2)) ** 1.5
    acceleration = float(np.sum(influence**3)) / (6.0 * spread) if spread > 0.0 else 0.0

    def moved(share: float) -> float:
        deviate = shift + _NORMAL.inv_cdf(share)
        stretch = 1.0 - acceleration * deviate
        return _NORMAL.cdf(shift + deviate / stretch) if stretch > 0.0 else float(deviate > 0.0)

    return _quantiles(resampled, moved((1.0 - confidence) / 2.0), moved((1.0 + confidence) / 2.0))


def studentized(contributions: Array, resampled: Array, resampled_errors: Array, confidence: float) -> Ends:
    """Quantiles of (resampled - value) / its standard error, times the estimate's own (Efron, 1982; Hall, 1988).

    Args:
        contributions: [N]; their mean is the estimate.
        resampled, resampled_errors: [B]; resamples of no spread are left out.
    """
    value, error = float(np.mean(contributions)), standard_error(contributions)
    usable = resampled_errors > 0.0
    if not usable.any():
        return value, value
    low, high = percentile((resampled[usable] - value) / resampled_errors[usable], confidence)
    return value - high * error, value - low * error


def student_t(contributions: Array, confidence: float) -> Ends:
    """Mean ± t_{N-1} standard errors (Student, 1908); right where the mean is about normal.

    Args:
        contributions: [N], N ≥ 2.
    """
    half = student_t_quantile(len(contributions) - 1, confidence) * standard_error(contributions)
    return _around(contributions, half)


def hoeffding(contributions: Array, low: float, high: float, confidence: float) -> Ends:
    """Mean ± (high - low) √(ln(2/α) / 2N) (Hoeffding, 1963); holds for every N.

    Args:
        contributions: [N], independent, of one distribution within [low, high].
    """
    count = len(contributions)
    return _around(contributions, (high - low) * math.sqrt(math.log(2.0 / (1.0 - confidence)) / (2.0 * count)))


def empirical_bernstein(contributions: Array, low: float, high: float, confidence: float) -> Ends:
    """Mean ± √(2 s² ln(4/α) / N) + 7 (high - low) ln(4/α) / 3(N - 1), for every N (Maurer and Pontil, 2009).

    https://arxiv.org/abs/0907.3740; theorem 4 on both sides. Narrower than Hoeffding's where the variance s² is small.

    Args:
        contributions: [N], N ≥ 2, independent, of one distribution within [low, high].
    """
    count = len(contributions)
    deviation = math.log(4.0 / (1.0 - confidence))
    first = math.sqrt(2.0 * deviation) * standard_error(contributions)
    return _around(contributions, first + 7.0 * (high - low) * deviation / (3.0 * (count - 1)))


BOUNDED: dict[str, Callable[[Array, float, float, float], Ends]] = {
    "hoeffding": hoeffding,
    "bernstein": empirical_bernstein,
}
"""Intervals that hold for every number of episodes, of what has known bounds."""


def standard_error(contributions: Array) -> float:
    """Of their mean, from their spread, which is a number whenever they are.

    Args:
        contributions: [N], N ≥ 2.
    """
    # Over the largest: the square of what heavy weights contribute may be too large for a number.
    largest = float(np.abs(contributions).max())
    if largest == 0.0:
        return 0.0
    return float(np.std(contributions / largest, ddof=1)) * largest / math.sqrt(len(contributions))


def _quantiles(values: Array, low: float, high: float) -> Ends:
    ends = np.quantile(values, [low, high])
    return float(ends[0]), float(ends[1])


def _around(contributions: Array, half: float) -> Ends:
    mean = float(np.mean(contributions))
    return mean - half, mean + half


@dataclass(frozen=True)
class Bounds:
    """What is known before looking at the log.

    Attributes:
        reward: the lowest and the highest that a step can earn.
        weight: the largest that the product of an episode's ratios can be after any number of its steps; with logs of
            discrete actions (1 / the behavior's lowest probability) to the power of the horizon will do.
    """

    reward: tuple[float, float]
    weight: float

    def __post_init__(self) -> None:
        low, high = self.reward
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise RequestError(
                f"the bounds of the reward are {low} and {high}", hint="give the lowest, then the highest"
            )
        if not (math.isfinite(self.weight) and self.weight >= 1.0):
            raise RequestError(
                f"the bound of the weight is {self.weight}", hint="give at least 1: weights average 1, so one is above"
            )

    def of_return(self, log: EpisodeLog) -> Ends:
        """The range of Σ_t γ^t r_t, given that an episode may end at any step.

        Raises:
            RequestError: without a horizon and with γ = 1 there is none.
        """
        steps = _discounted_steps(log)
        low, high = self.reward
        return min(0.0, low) * steps, max(0.0, high) * steps

    def of_contribution(self, log: EpisodeLog, *, with_values: bool) -> Ends:
        """The range of an episode's term in IS or PDIS, or in DR.

        A weighted return lies between the weight's bound times the return's. In DR, V̂ and Q̂ have to lie within the
        return's range, and δ = r + γ V̂ - Q̂ then does in one that follows from theirs.

        Raises:
            RequestError: without a horizon and with γ = 1 there is none.
            DataError: a value lies outside of the return's range.
        """
        low, high = self.of_return(log)
        if not with_values:
            return self.weight * low, self.weight * high
        for name, values in (("v", log.v), ("q", log.q), ("v_final", log.v_final)):
            assert values is not None
            _require_within(values, low, high, name, "clip the values to the range of the return")
        steps = self.weight * _discounted_steps(log)
        least = self.reward[0] + log.discount * low - high
        most = self.reward[1] + log.discount * high - low
        return low + steps * least, high + steps * most

    def check(self, log: EpisodeLog, contributions: Array, ends: Ends) -> None:
        """Refuse bounds that the log itself breaks.

        Raises:
            DataError: a reward or a contribution lies outside.
        """
        _require_within(log.reward, *self.reward, "reward", "give the reward's true bounds")
        _require_within(contributions, *ends, "weight", "give the weight's true bound")


def _discounted_steps(log: EpisodeLog) -> float:
    """Σ_{t < horizon} γ^t; 1 where every episode is a single decision."""
    if log.is_one_step:
        return 1.0
    if log.discount < 1.0:
        cut = 0.0 if log.horizon is None else log.discount**log.horizon
        return (1.0 - cut) / (1.0 - log.discount)
    if log.horizon is not None:
        return float(log.horizon)
    raise RequestError(
        "the return has no bounds: nothing is discounted, and no horizon ends the episodes",
        where="horizon",
        hint="give a horizon, or a discount below 1",
    )


def _require_within(values: Array, low: float, high: float, name: str, hint: str) -> None:
    slack = 1e-9 * max(abs(low), abs(high), 1.0)
    if outside := int(np.sum((values < low - slack) | (values > high + slack))):
        raise DataError(
            f"{outside} of {len(values)} values go beyond the bounds that were given for them", where=name, hint=hint
        )
