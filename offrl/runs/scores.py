"""What an evaluation comes to: returns, their spread, and the normalized score where references are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from offrl.envs.evaluator import Evaluation
from offrl.ops.score_statistics import bootstrap_interval, interquartile_mean, standard_error


def summarize(
    evaluation: Evaluation, environment: str, seeds: tuple[int, ...], reference_scores: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain values, ready for JSON.

    Args:
        evaluation: returns and lengths of S seeds.
        environment: where it was.
        seeds: their numbers.
        reference_scores: the mean returns "random" and "expert" that came with the data, if any.

    Returns:
        `returns` and `lengths` [S][episodes]; `mean_return` with its `standard_error` (over seeds, or over episodes
        where there is but one seed; None for a single value); `iqm` (interquartile mean over the seeds' mean returns)
        with its 95% bootstrap `iqm_interval`; `normalized_score` (None without references), all in the units of the
        return but for the last: 0 is the random policy's mean return, 100 the expert's.
    """
    returns = evaluation.returns
    error = standard_error(returns)
    normalized = [normalized_score(mean, reference_scores) for mean in returns.mean(axis=1)]
    return {
        "environment": environment,
        "episodes": returns.shape[1],
        "seeds": list(seeds),
        "returns": returns.tolist(),
        "lengths": evaluation.lengths.tolist(),
        "mean_return": float(returns.mean()),
        "standard_error": error if math.isfinite(error) else None,
        "mean_return_per_seed": returns.mean(axis=1).tolist(),
        "iqm": float(interquartile_mean(returns.mean(axis=1))),
        "iqm_interval": list(bootstrap_interval(returns)),
        "normalized_score": normalized_score(float(returns.mean()), reference_scores),
        "normalized_score_per_seed": normalized if None not in normalized else None,
        "reference_scores": dict(reference_scores),
    }


def normalized_score(mean_return: float, reference_scores: Mapping[str, Any]) -> float | None:
    """100 · (R − R_random) / (R_expert − R_random), or None without references."""
    if "random" not in reference_scores or "expert" not in reference_scores:
        return None
    random, expert = float(reference_scores["random"]), float(reference_scores["expert"])
    return 100.0 * (mean_return - random) / (expert - random)
