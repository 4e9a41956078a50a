"""Every training of a table, one after the other, and the scores beside those that others published."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from offrl.config.recipe import Recipe
from offrl.config.score_table import ScoreTable, TableDataset
from offrl.converters.catalog import open_dataset
from offrl.data.store import TrajectoryStore
from offrl.errors import DatasetNotFoundError, RequestError
from offrl.files import write_whole
from offrl.runs.run import Run

TABLE = "table.md"


@dataclass(frozen=True)
class Cell:
    """One algorithm on one dataset.

    Attributes:
        dataset: its name.
        algorithm: the name that it has in the table.
        scores: each seed's mean normalized return; empty where no environment or no reference returns are known.
        published: the score to compare with, if there is one.
        run: its directory.
    """

    dataset: str
    algorithm: str
    scores: tuple[float, ...]
    published: float | None
    run: Path

    @property
    def mean(self) -> float | None:
        """Over seeds."""
        return float(np.mean(self.scores)) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds, of one seed none."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class TableScores:
    """What came of a table.

    Attributes:
        cells: of all datasets that there were.
        left_out: datasets that could not be had, and why.
        published_by: where the published scores are from.
        path: the folder of all runs.
        columns: what stands above the lines.
    """

    columns: ClassVar[tuple[str, ...]] = ("dataset", "algorithm", "score", "± over seeds", "seeds", "published")

    cells: tuple[Cell, ...]
    left_out: Mapping[str, str]
    published_by: str
    path: Path

    def averages(self) -> Iterator[tuple[str, int, float, float | None]]:
        """Each algorithm, the datasets on which it has a score, the mean of these, and of those published for them."""
        for name in dict.fromkeys(cell.algorithm for cell in self.cells):
            scored = [(cell.mean, cell.published) for cell in self.cells if cell.algorithm == name and cell.scores]
            if scored:
                ours, published = zip(*scored, strict=True)
                known = None if None in published else float(np.mean(published))
                yield name, len(scored), float(np.mean(ours)), known

    def lines(self) -> list[list[Any]]:
        """One for each cell, with what stands in each of `columns`, then the averages."""
        cells = [
            [cell.dataset, cell.algorithm, cell.mean, cell.deviation, len(cell.scores), cell.published]
            for cell in self.cells
        ]
        averages = [
            [f"average of {count}", name, mean, None, None, published]
            for name, count, mean, published in self.averages()
        ]
        return cells + averages

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON knows them."""
        return {
            "cells": [
                {
                    "dataset": cell.dataset,
                    "algorithm": cell.algorithm,
                    "scores": list(cell.scores),
                    "mean": cell.mean,
                    "published": cell.published,
                    "run": str(cell.run),
                }
                for cell in self.cells
            ],
            "left_out": dict(self.left_out),
            "published_by": self.published_by,
        }

    def markdown(self) -> str:
        """The lines as a table."""
        rows = [self.columns, ["---"] * len(self.columns), *([_text(value) for value in line] for line in self.lines())]
        notes = [f"\nPublished: {self.published_by}"] if self.published_by else []
        notes += [f"\nLeft out: {name} ({reason})" for name, reason in self.left_out.items()]
        return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), *notes]) + "\n"


def run_table(
    table: ScoreTable,
    path: Path,
    changes: Mapping[str, Any],
    train: Callable[[Recipe, Path], Run],
    resume: Callable[[Path], Run],
    tell: Callable[[str], None],
) -> TableScores:
    """Do what is missing of a table, and write the scores after each training.

    Args:
        table: what to train.
        path: the folder of all runs, and of the scores; what is in it already is not trained again.
        changes: dotted keys of all recipes to values.
        train: makes a run in a new directory.
        resume: goes on with one.
        tell: told of each training, and of datasets that could not be had.

    Raises:
        RequestError: a run that is there was made by another recipe.
        RecipeError: a key is unknown, or a value of the wrong kind.
        OffrlError: a training failed; what was done is kept.
    """
    for dataset in table.datasets:
        for name in table.algorithms:
            table.recipe_of(dataset, name, changes)
    cells: list[Cell] = []
    left_out: dict[str, str] = {}
    for dataset in table.datasets:
        try:
            data = open_dataset(dataset.name)
        except DatasetNotFoundError as error:
            left_out[dataset.name] = error.what
            tell(f"Left out: {dataset.name}: {error.what}")
            continue
        for name, algorithm in table.algorithms.items():
            scale = reward_scale(data, algorithm.returns_span) if algorithm.returns_span else None
            recipe = table.recipe_of(dataset, name, changes, scale)
            tell(f"{name} on {dataset.name}")
            run = trained(recipe, path / _folder(dataset.name) / _folder(name), train, resume)
            cells.append(_cell(dataset, name, run))
            write_whole(path / TABLE, TableScores(tuple(cells), left_out, table.published_by, path).markdown())
    return TableScores(tuple(cells), left_out, table.published_by, path)


def trained(recipe: Recipe, path: Path, train: Callable[[Recipe, Path], Run], resume: Callable[[Path], Run]) -> Run:
    """The finished run of a recipe: the one that is there, gone on with where it isn't finished, or a new one.

    Raises:
        RequestError: what is there was made by another recipe.
    """
    if not (path / "recipe.toml").is_file():
        return train(recipe, path)
    run = Run.open(path)
    # Which environment a dataset names is told by the run alone.
    if run.recipe != dataclasses.replace(recipe, env=recipe.env or run.recipe.env):
        raise RequestError(
            "this run was made by another recipe than the table's",
            where=str(path),
            hint="choose another --out, or remove the run",
        )
    return resume(path) if run.final_scores() is None else run


def reward_scale(data: TrajectoryStore, span: float) -> float:
    """The factor on rewards by which the returns of the episodes span so much; 1 where they are all the same."""
    returns = data.episodes.return_
    found = float(returns.max() - returns.min())
    return span / found if found else 1.0


def _cell(dataset: TableDataset, algorithm: str, run: Run) -> Cell:
    scores = run.final_scores()
    normalized = None if scores is None else scores["normalized_score_per_seed"]
    return Cell(dataset.name, algorithm, tuple(normalized or ()), dataset.published.get(algorithm), run.path)


def _folder(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-")


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)
