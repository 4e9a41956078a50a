"""Evaluation scores as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from offrl_cli.output import print_pairs, print_table, same_digits


def print_scores(scores: Mapping[str, Any]) -> None:
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
    typer.echo()
    print_pairs(_together(scores))


def _together(scores: Mapping[str, Any]) -> dict[str, str | None]:
    over = "seeds" if len(scores["seeds"]) > 1 else "episodes"
    known = scores["standard_error"] is not None
    iqm, low, high = same_digits(scores["iqm"], *scores["iqm_interval"])
    return {
        "environment": scores["environment"],
        "mean return": mean_return(scores) + (f" (standard error over {over})" if known else ""),
        "interquartile mean": f"{iqm} (95% bootstrap interval {low} to {high})",
        "normalized score": _normalized(scores),
    }


def mean_return(scores: Mapping[str, Any]) -> str:
    """The mean and, where it is known, its standard error."""
    values = [scores["mean_return"], scores.get("standard_error")]
    return " ± ".join(same_digits(*(value for value in values if value is not None)))


def _normalized(scores: Mapping[str, Any]) -> str | None:
    if scores["normalized_score"] is None:
        return None
    random, expert = same_digits(scores["reference_scores"]["random"], scores["reference_scores"]["expert"])
    return f"{scores['normalized_score']:.1f} (0: random, {random}; 100: expert, {expert})"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
