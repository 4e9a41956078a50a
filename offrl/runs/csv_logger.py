"""Metrics as a table of comma-separated values."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from typing import Any

from offrl.files import appending
from offrl.runs.loggers import Logger, per_seed
from offrl.runs.run import Run


class CsvLogger(Logger):
    """`metrics.csv`: one row per step, seed and metric, so that new metrics never need new columns."""

    def __init__(self, run: Run, first_step: int) -> None:
        super().__init__(run, first_step)
        self.path = run.path / "metrics.csv"
        # A kill may have come between the file and its header.
        if not self.path.exists() or not self.path.stat().st_size:
            self._append([("step", "seed", "metric", "value")])

    def write(self, line: Mapping[str, Any]) -> None:
        seeds = self.run.recipe.seeds
        self._append((line["step"], seed, name, value) for seed, name, value in per_seed(line, seeds))

    def _append(self, rows: Iterable[tuple[Any, ...]]) -> None:
        with appending(self.path) as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
