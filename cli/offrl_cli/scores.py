"""Evaluation scores as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offrl_cli.output import print_pairs, print_table, say

if TYPE_CHECKING:
    from offrl.runs.scores import Scores


def print_scores(scores: Scores) -> None:
    """One row per seed, then what they come to together."""
    normalized = scores["normalized_score_per_seed"] or [None] * len(scores["seeds"])
    rows = [
        [seed, len(returns), _mean(returns), min(returns), max(returns), _mean(lengths), score]
        for seed, returns, lengths, score in zip(
            scores["seeds"], scores["returns"], scores["lengths"], normalized, strict=True
        )
    ]
    columns = ["seed", "episodes", "mean return", "least", "greatest", "mean length", "normalized score"]
    shown = len(columns) if scores["normalized_score_per_seed"] else len(columns) - 1
    print_table(columns[:shown], [row[:shown] for row in rows])
    say()
    print_pairs(scores.summary())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
