"""Evaluation scores as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from offrl_cli.output import print_pairs, print_table


def print_scores(scores: Mapping[str, Any]) -> None:
    """One row per seed, then what they come to together."""
    normalized = scores["normalized_score_per_seed"] or [None] * len(scores["seeds"])
    rows = [
        [seed, len(returns), _mean(returns), min(returns), max(returns), _mean(lengths), score]
        for seed, returns, lengths, score in zip(
            scores["seeds"], scores["returns"], scores["lengths"], normalized, strict=True
        )
    ]
    columns = ["seed", "episodes", "mean return", "least", "greatest", "mean length", "normalised score"]
    shown = len(columns) if scores["normalized_score_per_seed"] else len(columns) - 1
    print_table(columns[:shown], [row[:shown] for row in rows])
    typer.echo()
    print_pairs(_together(scores))


def _together(scores: Mapping[str, Any]) -> dict[str, str | None]:
    over = "seeds" if len(scores["seeds"]) > 1 else "episodes"
    error = scores["standard_error"]
    low, high = scores["iqm_interval"]
    reference = scores["reference_scores"]
    return {
        "environment": scores["environment"],
        "mean return": f"{scores['mean_return']:,.1f}"
        + ("" if error is None else f" ± {error:,.1f} (standard error over {over})"),
        "interquartile mean": f"{scores['iqm']:,.1f} (95% bootstrap interval {low:,.1f} to {high:,.1f})",
        "normalised score": None
        if scores["normalized_score"] is None
        else f"{scores['normalized_score']:.1f} (0: random, {reference['random']:,.1f}; "
        f"100: expert, {reference['expert']:,.1f})",
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
