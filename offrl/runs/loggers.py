"""Metric writers: JSON lines always, CSV and TensorBoard on request."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from offrl.errors import RequestError
from offrl.files import naming
from offrl.runs.checkpoint import read_facts
from offrl.runs.run import Run


class MetricWriter(Protocol):
    """Takes lines of metrics: `step`, and lists with one value per seed."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one line."""


class JsonLinesWriter:
    """`metrics.jsonl` of a run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def write(self, line: Mapping[str, Any]) -> None:
        self.run.log("metrics.jsonl", line)


class CsvWriter:
    """`metrics.csv`: one row per step, seed and metric, so that new metrics never need new columns."""

    def __init__(self, path: Path, seeds: tuple[int, ...]) -> None:
        self.path, self.seeds = path, seeds
        # A kill may have come between the file and its header.
        if not path.exists() or not path.stat().st_size:
            self._append([("step", "seed", "metric", "value")])

    def write(self, line: Mapping[str, Any]) -> None:
        self._append((line["step"], seed, name, value) for seed, name, value in _per_seed(line, self.seeds))

    def _append(self, rows: Any) -> None:
        with naming(self.path), open(self.path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


class TensorBoardWriter:
    """TensorBoard event files, one sub-directory per seed; needs the `tensorboard` extra.

    What the files hold from `first_step` on is hidden: a resumed run repeats it.
    """

    def __init__(self, directory: Path, seeds: tuple[int, ...], first_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.seeds = seeds
        self.writers = {seed: SummaryWriter(str(directory / f"seed-{seed}"), purge_step=first_step) for seed in seeds}

    def write(self, line: Mapping[str, Any]) -> None:
        for seed, name, value in _per_seed(line, self.seeds):
            self.writers[seed].add_scalar(name, value, line["step"])


def require_tensorboard() -> None:
    """Raises RequestError unless the `tensorboard` extra is installed."""
    if find_spec("tensorboard") is None:
        raise RequestError("TensorBoard is not installed", hint="pip install 'offrl[tensorboard]'")


def make_writers(run: Run) -> list[MetricWriter]:
    """The writers that the run's recipe asks for."""
    writers: list[MetricWriter] = [JsonLinesWriter(run)]
    if "csv" in run.recipe.writers:
        writers.append(CsvWriter(run.path / "metrics.csv", run.recipe.seeds))
    if "tensorboard" in run.recipe.writers:
        done = read_facts(run.checkpoint("last"))["step"] if run.has_checkpoint("last") else -1
        writers.append(TensorBoardWriter(run.path / "tensorboard", run.recipe.seeds, done + 1))
    return writers


def _per_seed(line: Mapping[str, Any], seeds: tuple[int, ...]) -> list[tuple[int, str, float]]:
    """(seed, metric, value) for every per-seed value in a line; None (nothing to report) is left out."""
    return [
        (seed, name, value)
        for name, values in line.items()
        if isinstance(values, list)
        for seed, value in zip(seeds, values, strict=True)
        if value is not None
    ]
