"""What an evaluation comes to: returns, their spread, and the normalized score where references are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from offrl.ops.score_statistics import bootstrap_interval, interquartile_mean, standard_error

if TYPE_CHECKING:
    from offrl.envs.evaluator import Evaluation


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
    """100 · (R − R_random) / (R_expert − R_random), or None without references, or where they are equal."""
    if "random" not in reference_scores or "expert" not in reference_scores:
        return None
    random, expert = float(reference_scores["random"]), float(reference_scores["expert"])
    if random == expert:
        return None
    return 100.0 * (mean_return - random) / (expert - random)


class Scores(dict[str, Any]):
    """What `summarize` returns, which people can read as well.

    Example:
        >>> run.evaluate(episodes=20)
        environment         Hopper-v5
        mean return         3,149.1 ± 74.4 (standard error over episodes)
        interquartile mean  3,149.1 (95% bootstrap interval 2,991.9 to 3,259.4)
        normalized score    97.9 (0: random, 17.7; 100: expert, 3,217.6)
    """

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON knows them."""
        return dict(self)

    def summary(self) -> dict[str, str]:
        """What the seeds come to together, in words; what isn't known is left out."""
        over = "seeds" if len(self["seeds"]) > 1 else "episodes"
        known = self["standard_error"] is not None
        iqm, low, high = same_digits(self["iqm"], *self["iqm_interval"])
        words = {
            "environment": self["environment"],
            "mean return": mean_return(self) + (f" (standard error over {over})" if known else ""),
            "interquartile mean": f"{iqm} (95% bootstrap interval {low} to {high})",
        }
        if self["normalized_score"] is not None:
            random, expert = same_digits(self["reference_scores"]["random"], self["reference_scores"]["expert"])
            words["normalized score"] = f"{self['normalized_score']:.1f} (0: random, {random}; 100: expert, {expert})"
        return words

    def __repr__(self) -> str:
        words = self.summary()
        width = max(map(len, words))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in words.items())


def mean_return(scores: Mapping[str, Any]) -> str:
    """The mean return and, where it is known, its standard error."""
    values = [scores["mean_return"], scores.get("standard_error")]
    return " ± ".join(same_digits(*(value for value in values if value is not None)))


def same_digits(*values: float) -> tuple[str, ...]:
    """Numbers of one kind: one digit behind the point where the largest is 10 or more, two from 1 on, three below."""
    largest = max(map(abs, values))
    digits = 1 if largest >= 10 else 2 if largest >= 1 else 3
    return tuple(f"{value:,.{digits}f}" for value in values)
