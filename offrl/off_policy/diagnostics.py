"""What speaks for and against an evaluation: what the weights say about the log, and what it can't tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offrl.errors import DataError, RequestError
from offrl.off_policy.episode_log import Array, EpisodeLog
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.weights import StepWeights

_MASS_SLACK = 1e-4
NEVER_LOGGED_LIMIT = 0.01
"""Probability of actions that occur nowhere in the log from which on it is warned of."""
SPREAD_LIMIT = 0.1
"""Fitted values whose networks differ by more than this share of the value are warned of."""
BACKUPS = 2.0
"""How often, for each step that values look ahead, the target networks should have moved all the way."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many episodes have weights of which size.

    Attributes:
        edges: [bins + 1], in log₁₀ of the weight.
        counts: int64 [bins].
        zero: episodes of weight 0, which no bin holds.
    """

    edges: Array
    counts: NDArray[np.int64]
    zero: int


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What can be seen in the weights before any estimate.

    Attributes:
        episodes, steps: of the log.
        effective_sample_size: (Σ_i w_i)² / Σ_i w_i² of whole episodes.
        effective_sample_size_by_step: [T]; the same of the weights up to each step.
        running_by_step: int64 [T]; episodes that have such a step.
        largest_weight_share: the heaviest episode's share of all weight; 0 where all weights are 0.
        mean_weight: of whole episodes; 1 is expected where the behavior's probabilities are right. None where it is
            too large for a number.
        mean_weight_error: its standard error, likewise; None too for a single episode.
        unsupported_share: of the logged steps, those whose action the target policy never takes.
        histogram: of the episodes' weights.
    """

    episodes: int
    steps: int
    effective_sample_size: float
    effective_sample_size_by_step: Array
    running_by_step: NDArray[np.int64]
    largest_weight_share: float
    mean_weight: float | None
    mean_weight_error: float | None
    unsupported_share: float
    histogram: Histogram

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, none of them NaN or infinite."""
        return vars(self) | {
            "effective_sample_size_by_step": self.effective_sample_size_by_step.tolist(),
            "running_by_step": self.running_by_step.tolist(),
            "histogram": {
                "edges": self.histogram.edges.tolist(),
                "counts": self.histogram.counts.tolist(),
                "zero": self.histogram.zero,
            },
        }


def diagnose(log: EpisodeLog, *, bins: int = 40) -> Diagnostics:
    """What the log's weights, unclipped, are like."""
    weights = StepWeights.of(log)
    final = weights.at_end()
    mean, error = weights.mean_final
    return Diagnostics(
        episodes=log.episodes,
        steps=log.steps,
        effective_sample_size=float(effective_sample_sizes(final)[0]),
        effective_sample_size_by_step=effective_sample_sizes(weights),
        running_by_step=np.bincount(log.step),
        largest_weight_share=float(largest_weight_shares(final)[0]),
        mean_weight=mean,
        mean_weight_error=error,
        unsupported_share=float(np.mean(np.isneginf(log.log_ratio))),
        histogram=weight_histogram(weights.log_final, bins=bins),
    )


def effective_sample_sizes(weights: StepWeights) -> Array:
    """(Σ_i w_{i,t})² / Σ_i w²_{i,t} of each step, [T]; 0 where all weights are 0 (Kish, 1965)."""
    possible = np.isfinite(weights.log_sum)
    sizes = np.zeros(weights.steps)
    sizes[possible] = np.exp(2.0 * weights.log_sum[possible] - weights.log_sum_of_squares[possible])
    return sizes


def largest_weight_shares(weights: StepWeights) -> Array:
    """max_i w_{i,t} / Σ_i w_{i,t} of each step, [T]; 0 where all weights are 0."""
    possible = np.isfinite(weights.log_sum)
    shares = np.zeros(weights.steps)
    shares[possible] = np.exp(weights.log_max[possible] - weights.log_sum[possible])
    return shares


def over_steps(weights: StepWeights, discount: float) -> tuple[float, float]:
    """Effective sample size and largest share of weight of an estimator that weighs each step by itself.

    A step counts by γ^t and by how many episodes reach it. Sizes are averaged harmonically, as variances add up; shares
    plainly.
    """
    importance = discount ** np.arange(weights.steps, dtype=np.float64) * weights.running
    importance /= importance.sum()
    sizes = effective_sample_sizes(weights)
    share = float(np.sum(importance * largest_weight_shares(weights)))
    if (sizes[importance > 0.0] <= 0.0).any():
        return 0.0, share
    counted = importance > 0.0
    return 1.0 / float(np.sum(importance[counted] / sizes[counted])), share


def weight_histogram(log_weight: Array, *, bins: int = 40) -> Histogram:
    """Of log₁₀ w over equal bins.

    Args:
        log_weight: natural logarithms, [N]; -inf allowed.
        bins: how many.
    """
    finite = log_weight[np.isfinite(log_weight)] / np.log(10.0)
    counts, edges = np.histogram(finite, bins=bins)
    return Histogram(edges, counts.astype(np.int64), len(log_weight) - len(finite))


@dataclass(frozen=True)
class Support:
    """How much of what the target policy does the behavior never did.

    Attributes:
        uncovered_mass: mean over the rows of the target's probability of actions that the behavior never takes there.
        uncovered_rows: share of the rows where there is any.
    """

    uncovered_mass: float
    uncovered_rows: float


def support(behavior: ArrayLike, target: ArrayLike) -> Support:
    """Check the target's support where both policies' full tables are known.

    Args:
        behavior, target: probabilities of all actions at each row, [R, A]; rows sum to 1.

    Raises:
        RequestError: the tables have different shapes.
        DataError: a row doesn't hold probabilities.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in (behavior, target)]
    if tables[0].shape != tables[1].shape or tables[0].ndim != 2:
        shapes = " and ".join(str(table.shape) for table in tables)
        raise RequestError(f"the tables have the shapes {shapes}", hint="give two of [rows, actions]")
    for name, table in zip(("behavior", "target"), tables, strict=True):
        wrong = ~(np.isfinite(table).all(axis=1) & (table >= 0.0).all(axis=1))
        wrong |= ~(np.abs(table.sum(axis=1) - 1.0) <= _MASS_SLACK)
        if wrong.any():
            raise DataError(
                f"{int(wrong.sum())} of {len(table)} rows aren't probabilities that sum to 1",
                where=f"{name}, first in row {int(np.argmax(wrong))}",
                hint="give each action's probability at each row",
            )
    uncovered = np.where(tables[0] == 0.0, tables[1], 0.0).sum(axis=1)
    return Support(float(uncovered.mean()), float(np.mean(uncovered > 0.0)))


def never_logged(log: EpisodeLog, name: str) -> list[str]:
    """Whether the policy that is valued takes discrete actions that occur nowhere in the log."""
    choices = log.choices
    if choices is None or choices.probabilities is None or log.actions is None:
        return []
    never = np.bincount(log.agent_action, minlength=log.actions) == 0
    share = float(choices.probabilities[log.row][:, never].sum(axis=1).mean())
    if share <= NEVER_LOGGED_LIMIT:
        return []
    return [
        f"{share:.0%} of what {name} does are actions that occur nowhere in the log: nothing is known of what they "
        "earn."
    ]


def divided(value: float, spread: float, name: str) -> list[str]:
    """Whether the networks of fitted Q evaluation disagree about the value."""
    if spread <= SPREAD_LIMIT * abs(value):
        return []
    return [
        f"The fitted values of {name} differ by {spread:.3g} from one network to the other: the log doesn't settle "
        "them."
    ]


def unsettled(log: EpisodeLog, config: FQEConfig) -> list[str]:
    """Whether the target networks of fitted Q evaluation move often enough to carry rewards as far as they count."""
    discount, horizon = log.discount, log.horizon
    ahead = np.inf if discount == 1.0 else 1.0 / (1.0 - discount)
    if horizon is not None or log.terminated.all() or discount == 1.0:
        ahead = min(ahead, horizon or int(log.lengths.max()))
    if config.steps * config.target_rate >= BACKUPS * ahead:
        return []
    needed = math.ceil(BACKUPS * ahead / config.target_rate)
    return [
        f"Fitted values look about {ahead:.0f} steps ahead, too far for {config.steps:,} gradient steps: they may not "
        f"have settled (at least {needed:,} are wanted, --fqe-steps)."
    ]
