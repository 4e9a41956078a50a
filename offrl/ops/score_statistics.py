"""Summaries of evaluation scores that say how sure they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


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


def bootstrap_interval(
    returns: Scores, *, confidence: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the interquartile mean over seeds of each seed's mean return.

    Resamples seeds, and episodes within each seed drawn; with one seed, its episodes only.

    Args:
        returns: [S, episodes].
        confidence: nominal coverage.
        resamples: bootstrap resamples.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    seeds, episodes = returns.shape
    picked_seeds = generator.integers(0, seeds, (resamples, seeds, 1))
    picked_episodes = generator.integers(0, episodes, (resamples, seeds, episodes))
    resampled = interquartile_mean(returns[picked_seeds, picked_episodes].mean(axis=-1))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return float(low), float(high)


def standard_error(returns: Scores) -> float:
    """Standard error of the mean return: over seeds where there are several, else over episodes; NaN for one value.

    Args:
        returns: [S, episodes].
    """
    values = returns.mean(axis=1) if len(returns) > 1 else returns[0]
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
