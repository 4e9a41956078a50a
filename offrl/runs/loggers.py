"""Where a run's metrics go: JSON lines always, and the loggers that its recipe's `writers` name.

Their table is `offrl.plugins.loggers`. Another package's is a subclass of `Logger`, and an entry point in the group
`offrl.loggers` names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from offrl import plugins
from offrl.errors import PluginError
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
