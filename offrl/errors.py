"""Every error that offrl raises on purpose: one tree, so that one ``except OffrlError`` catches them all.

A message has three parts: what was wrong, where, and a hint at what to do about it. The command line prints them as
one readable text and exits with ``exit_code``: 2 where the request was wrong, 1 where the work failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MOST_LISTED = 20


def listed(names: Iterable[str]) -> str:
    """Names for a message: at most twenty of them, and how many more there are.

    Example:
        >>> listed(["x", "y"])
        'x, y'
    """
    every = list(names)
    more = len(every) - _MOST_LISTED
    return ", ".join(every[:_MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


class OffrlError(Exception):
    """The root of the tree.

    Args:
        what: one sentence that says what is wrong, naming the values involved.
        where: the file, column, row, option or key concerned; empty where ``what`` already says it.
        hint: what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        parts = [what]
        if where:
            parts.append(f"  where: {where}")
        if hint:
            parts.append(f"  hint:  {hint}")
        super().__init__("\n".join(parts))


class RequestError(OffrlError):
    """The request can't be carried out as it was put: an option, a name, a key or a combination is wrong."""

    exit_code = 2


class RecipeError(RequestError):
    """A recipe, or a ``--set key=value``, has an unknown key or a value of the wrong kind."""


class TableGivenError(RecipeError):
    """A table of many trainings stands where a recipe of one is asked for."""


class PluginError(OffrlError):
    """An algorithm, format, estimator or logger can't be loaded, or doesn't do what its kind must."""


class DatasetNotFoundError(RequestError):
    """No dataset, store or source file goes by that name, and none could be fetched."""


class SourceError(RequestError):
    """A source file can't be read as the format it was said, or seemed, to be."""


class UnsafeSourceError(RequestError):
    """Reading the source could run code (pickle), and that was not allowed."""


class UnsafeEnvironmentError(RequestError):
    """Making the environment would import a module that only a dataset or a run names, and that was not allowed."""


class SpaceMismatchError(RequestError):
    """Two things that must share observation and action spaces don't."""


class DataError(OffrlError):
    """The values in a dataset are wrong: NaN, infinity, out of bounds, misaligned."""


class StoreError(OffrlError):
    """A store on disk can't be opened or written."""


class SchemaVersionError(StoreError):
    """A store was written by another, incompatible version of offrl."""


class CorruptStoreError(StoreError):
    """A shard is missing, cut short, or doesn't match its checksum."""


class DiskFullError(StoreError):
    """The disk ran full; what had been committed before is still there."""


class RunError(OffrlError):
    """A run directory can't be created, opened or continued."""


class RunNotFoundError(RunError):
    """There is no run in a directory, or it has no such checkpoint."""

    exit_code = 2


class RunExistsError(RunError):
    """Something is where a new run was to be."""

    exit_code = 2


class RunInUseError(RunError):
    """Another process is writing to the run directory."""

    exit_code = 2


class ExportError(OffrlError):
    """A policy can't be written in another format, or the file would act differently."""


class DivergenceError(OffrlError):
    """A loss or a parameter is no longer finite; the last good checkpoint is kept."""


class EnvironmentFailedError(OffrlError):
    """An environment raised an error, gave something else than its spaces promise, or its process ended."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C, or a notebook's stop button, ended a training; `offrl.resume(run)` goes on with it.

    It is Python's own KeyboardInterrupt, not an `OffrlError`: nothing failed, and what handles errors lets it pass.

    Attributes:
        run: the run's directory; None where it had none yet.
        step: of the checkpoint that was saved; None where there was no time to.
    """

    def __init__(self, run: Path | None, step: int | None) -> None:
        super().__init__(run, step)
        self.run, self.step = run, step

    def __str__(self) -> str:
        what = "interrupted" if self.step is None else f"saved at step {self.step:,}"
        return what if self.run is None else f"{what}; continue with: offrl.resume({str(self.run)!r})"
