"""What an evaluation comes to: returns, their spread, and the normalized score where references are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offrl.ops.score_statistics import (
    BOOTSTRAPPED_RUNS,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    standard_error,
)

if TYPE_CHECKING:
    from offrl.envs.evaluator import Evaluation
    from offrl.envs.starts import Starts


def summarize(
    evaluation: Evaluation, environment: str, starts: Starts, reference_scores: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain values, ready for JSON.

    Args:
        evaluation: returns and lengths of S seeds.
        environment: where it was.
        starts: from where, and of which seeds.
        reference_scores: the mean returns "random" and "expert" that came with the data, if any.

    Returns:
        `returns` and `lengths` [S][episodes]; what `statistics` finds in them; `normalized_score` (None without
        references): 0 is the random policy's mean return, 100 the expert's; `starts`, the name of their purpose.
    """
    found = statistics(evaluation.returns)
    normalized = [normalized_score(mean, reference_scores) for mean in found["mean_return_per_seed"]]
    return {
        "environment": environment,
        "episodes": evaluation.returns.shape[1],
        "seeds": list(starts.seeds),
        "starts": starts.purpose.name.lower(),
        "returns": evaluation.returns.tolist(),
        "lengths": evaluation.lengths.tolist(),
        **found,
        "normalized_score": normalized_score(found["mean_return"], reference_scores),
        "normalized_score_per_seed": normalized if None not in normalized else None,
        "reference_scores": dict(reference_scores),
    }


def statistics(returns: NDArray[np.float64]) -> dict[str, Any]:
    """What returns come to, in their own units.

    Args:
        returns: [S, episodes].

    Returns:
        `mean_return` and `mean_return_per_seed`; `standard_error` and the 95% interval `mean_return_interval`
        (Student's t), over seeds, or over the episodes of a single one; `iqm`, the interquartile mean over the seeds'
        mean returns, and its 95% interval `iqm_interval`. None is what a single value, an infinite one, or for the
        latter two a single seed, doesn't tell.
    """
    means, several = returns.mean(axis=1), len(returns) > 1
    finite = bool(np.isfinite(returns).all())
    return {
        "mean_return": float(returns.mean()),
        "standard_error": standard_error(returns) if finite else None,
        "mean_return_interval": mean_interval(means if several else returns[0]) if finite else None,
        "mean_return_per_seed": means.tolist(),
        "iqm": float(interquartile_mean(means)) if several else None,
        "iqm_interval": interquartile_interval(means) if finite else None,
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
        >>> run.evaluate(episodes=100)
        environment         Hopper-v5
        mean return         3,149.1 ± 74.4 (standard error over 5 seeds and their starts)
        95% interval        2,942.6 to 3,355.6 (Student's t)
        interquartile mean  3,172.5 (95% interval 2,875.0 to 3,470.0, Student's t)
        normalized score    97.9 (0: random, 17.7; 100: expert, 3,217.6)
    """

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> Scores:
        """Those of a line in `evaluations.jsonl`; earlier versions wrote other statistics of the same returns there."""
        return cls({**line, **statistics(np.array(line["returns"], np.float64))})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON knows them."""
        return dict(self)

    def summary(self) -> dict[str, str]:
        """What the seeds come to together, in words; what isn't known is left out."""
        words = {"environment": self["environment"], "mean return": mean_return(self)}
        if self["standard_error"] is not None:
            low, high = same_digits(*self["mean_return_interval"])
            words["mean return"] += f" (standard error over {self._spread_over()})"
            words["95% interval"] = f"{low} to {high} (Student's t)"
        # Of fewer seeds none is cut, and it is the mean.
        if self["iqm_interval"] is not None and len(self["seeds"]) >= 4:
            iqm, low, high = same_digits(self["iqm"], *self["iqm_interval"])
            method = "bootstrap over seeds" if len(self["seeds"]) >= BOOTSTRAPPED_RUNS else "Student's t"
            words["interquartile mean"] = f"{iqm} (95% interval {low} to {high}, {method})"
        if self["normalized_score"] is not None:
            random, expert = same_digits(self["reference_scores"]["random"], self["reference_scores"]["expert"])
            words["normalized score"] = f"{self['normalized_score']:.1f} (0: random, {random}; 100: expert, {expert})"
        return words

    def _spread_over(self) -> str:
        """What the standard error is over, in words."""
        seeds = len(self["seeds"])
        if seeds == 1:
            return f"{self['episodes']:,} episodes of one training"
        # Runs of earlier versions let every seed start from the same states, and don't tell the purpose of starts.
        return f"{seeds} seeds and their starts" if "starts" in self else f"{seeds} seeds, all from the same starts"

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
