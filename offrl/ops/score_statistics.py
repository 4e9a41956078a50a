"""Summaries of evaluation scores that say how sure they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offrl.ops.student_t import student_t_quantile

Scores = NDArray[np.float64]
Interval = list[float]
"""Low end, high end; a list, as JSON has it."""

BOOTSTRAPPED_RUNS = 10
"""Percentile bootstraps of three runs cover three cases of four where they say 95%, of five runs nine of ten."""


def interquartile_mean(scores: Scores) -> Scores:
    """Mean of the middle half along the last axis (Agarwal et al., 2021, https://arxiv.org/abs/2108.13264).

    ⌊n/4⌋ values are cut from each end, so fewer than four values give the plain mean.

    Args:
        scores: [..., n].

    Returns:
        [...].
    """
    cut = scores.shape[-1] // 4
    ordered = np.sort(scores, axis=-1)
    middle: Scores = ordered[..., cut : scores.shape[-1] - cut]
    return np.asarray(middle.mean(axis=-1))


def mean_interval(values: Scores, confidence: float = 0.95) -> Interval | None:
    """Mean ± t_{n-1} standard errors (Student, 1908); None for a single value.

    Args:
        values: [n], independent: each seed's mean return from starts of its own, or one policy's returns.
        confidence: nominal coverage, of the mean that many more values would have.
    """
    if len(values) < 2:
        return None
    half = student_t_quantile(len(values) - 1, confidence) * _error(values)
    return _around(float(values.mean()), half)


def interquartile_interval(values: Scores, confidence: float = 0.95) -> Interval | None:
    """Interval of the interquartile mean: bootstrapped, or by Student's t where a bootstrap of so few falls short.

    None for a single value.

    Args:
        values: [n], independent: each seed's mean return from starts of its own.
        confidence: nominal coverage, of the interquartile mean that many more values would have.
    """
    if len(values) < 2:
        return None
    bootstrapped = len(values) >= BOOTSTRAPPED_RUNS
    return bootstrap_interval(values, confidence) if bootstrapped else trimmed_interval(values, confidence)


def bootstrap_interval(values: Scores, confidence: float = 0.95, *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the interquartile mean, which resamples runs as rliable does (Agarwal et al., 2021).

    Args:
        values: [n], one for each run.
        confidence: nominal coverage.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    picked = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(interquartile_mean(values[picked]), [tail, 1.0 - tail])
    return [float(low), float(high)]


def trimmed_interval(values: Scores, confidence: float = 0.95) -> Interval:
    """Interquartile mean ± t_{m-1} standard errors of a trimmed mean, of which m values are left.

    Tukey and McLaughlin (1963): its variance is that of the values winsorized, over the share that is left, squared.

    Args:
        values: [n], n ≥ 2.
        confidence: nominal coverage.
    """
    count, cut = len(values), len(values) // 4
    left, ordered = count - 2 * cut, np.sort(values)
    winsorized = ordered.clip(ordered[cut], ordered[-1 - cut])
    half = student_t_quantile(left - 1, confidence) * _error(winsorized) * count / left
    return _around(float(interquartile_mean(values)), half)


def standard_error(returns: Scores) -> float | None:
    """Standard error of the mean return; None for a single value.

    Over seeds where there are several: the spread of their means holds that of their episodes too, where each seed has
    starts of its own. Of one seed, over its episodes: how well that one policy is known.

    Args:
        returns: [S, episodes].
    """
    values = returns.mean(axis=1) if len(returns) > 1 else returns[0]
    return _error(values) if len(values) > 1 else None


def _error(values: Scores) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _around(middle: float, half: float) -> Interval:
    return [middle - half, middle + half]
