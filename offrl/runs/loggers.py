"""Where a run's metrics go: JSON lines always, and the loggers that its recipe's `writers` name.

Their table is `offrl.plugins.loggers`. Another package's is a subclass of `Logger`, and an entry point in the group
`offrl.loggers` names it.
"""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from offrl import plugins
from offrl.errors import PluginError, RequestError
from offrl.files import naming
from offrl.runs.checkpoint import read_facts
from offrl.runs.run import Run

ALWAYS = "jsonl"


class Logger(ABC):
    """Takes lines of metrics.

    Args:
        run: what trains.
        first_step: the step that a line may be of at the earliest. A resumed run repeats those behind its last
            checkpoint: what was logged of them before no longer counts.

    Example:
        >>> class Printer(Logger):
        ...     def write(self, line):
        ...         print(self.run.path.name, line["step"])
    """

    def __init__(self, run: Run, first_step: int) -> None:
        self.run, self.first_step = run, first_step

    @classmethod  # noqa: B027  (most need nothing)
    def require(cls) -> None:
        """Raise `RequestError` unless all that it needs is here; called before the run begins."""

    @abstractmethod
    def write(self, line: Mapping[str, Any]) -> None:
        """Take one line: `step`, numbers, and lists with one value per seed (None where there is nothing to tell)."""

    def close(self) -> None:  # noqa: B027  (most have written all by then)
        """Finish: no line follows."""


class JsonLinesLogger(Logger):
    """`metrics.jsonl` of a run."""

    def write(self, line: Mapping[str, Any]) -> None:
        self.run.log("metrics.jsonl", line)


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
        with naming(self.path), open(self.path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


class TensorBoardLogger(Logger):
    """TensorBoard event files in `tensorboard/seed-<number>`; needs the `tensorboard` extra."""

    @classmethod
    def require(cls) -> None:
        if find_spec("tensorboard") is None:
            raise RequestError("TensorBoard is not installed", hint="pip install 'offrl[tensorboard]'")

    def __init__(self, run: Run, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(run, first_step)
        folders = {seed: run.path / "tensorboard" / f"seed-{seed}" for seed in run.recipe.seeds}
        self.writers = {seed: SummaryWriter(str(path), purge_step=first_step) for seed, path in folders.items()}

    def write(self, line: Mapping[str, Any]) -> None:
        for seed, name, value in per_seed(line, self.run.recipe.seeds):
            self.writers[seed].add_scalar(name, value, line["step"])

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


def require_loggers(names: Iterable[str]) -> None:
    """Raise what would keep these loggers from being made.

    Raises:
        RequestError: there is none of that name, or a package that it needs isn't installed.
        PluginError: another package's can't be imported, or isn't a `Logger`.
    """
    for name in names:
        _logger_class(name).require()


def make_loggers(run: Run) -> list[Logger]:
    """JSON lines, then the loggers that the run's recipe asks for."""
    first_step = read_facts(run.checkpoint("last"))["step"] + 1 if run.has_checkpoint("last") else 0
    return [_logger_class(name)(run, first_step) for name in dict.fromkeys([ALWAYS, *run.recipe.writers])]


def per_seed(line: Mapping[str, Any], seeds: Sequence[int]) -> list[tuple[int, str, float]]:
    """(seed, metric, value) for every per-seed value in a line; None (nothing to tell) is left out."""
    return [
        (seed, name, value)
        for name, values in line.items()
        if isinstance(values, list)
        for seed, value in zip(seeds, values, strict=True)
        if value is not None
    ]


def _logger_class(name: str) -> type[Logger]:
    found = plugins.loggers[name]
    if not (isinstance(found, type) and issubclass(found, Logger)):
        raise PluginError(
            f"the logger '{name}' is no subclass of offrl.runs.loggers.Logger",
            where=plugins.loggers.origin(name),
            hint="update or uninstall that package",
        )
    return found
