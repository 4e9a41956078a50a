"""Confidence intervals of a mean over episodes, and of what behaves like one."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np

from offrl.off_policy.episode_log import Array

Ends = tuple[float, float]
_NORMAL = NormalDist()
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(64)


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
    value, error = float(np.mean(contributions)), _standard_error(contributions)
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
    half = student_t_quantile(len(contributions) - 1, confidence) * _standard_error(contributions)
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
    variance = float(np.var(contributions, ddof=1))
    first = math.sqrt(2.0 * variance * deviation / count)
    return _around(contributions, first + 7.0 * (high - low) * deviation / (3.0 * (count - 1)))


@cache
def student_t_quantile(freedom: int, confidence: float) -> float:
    """The t with P(|T| ≤ t) = confidence for `freedom` degrees of freedom."""
    low, high = 0.0, math.pi / 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _central_mass(freedom, middle) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _central_mass(freedom: int, angle: float) -> float:
    """P(|T| ≤ √ν tan(angle)): with t = √ν tan θ the density becomes proportional to cos^{ν-1} θ."""
    log_scale = math.lgamma((freedom + 1) / 2.0) - math.lgamma(freedom / 2.0) - math.log(math.pi) / 2.0
    angles = (_NODES + 1.0) * angle / 2.0
    mass = np.sum(_NODE_WEIGHTS * np.exp((freedom - 1) * np.log(np.cos(angles)) + log_scale)) * angle
    return float(mass)


def _standard_error(contributions: Array) -> float:
    return float(np.std(contributions, ddof=1)) / math.sqrt(len(contributions))


def _quantiles(values: Array, low: float, high: float) -> Ends:
    ends = np.quantile(values, [low, high])
    return float(ends[0]), float(ends[1])


def _around(contributions: Array, half: float) -> Ends:
    mean = float(np.mean(contributions))
    return mean - half, mean + half
