"""What a feed is: where a training loop's update cycles come from. Each way of learning is one file beside this one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from offrl.config.recipe import Recipe
from offrl.errors import RecipeError
from offrl.feeds.materials import Cycle, Materials
from offrl.feeds.problem import Problem
from offrl.runs.run import Run
from offrl.types import Batch, Metrics


class Feed(Protocol):
    """A source of update cycles, which opens its own problem and builds itself.

    Attributes:
        online: whether it learns from own steps in an environment, be it among others.
        holds_out: whether some of the data's episodes may be held out, to validate on.
        mixes_data: whether a dataset's transitions can be mixed with own steps in a batch.
        steps_per_round: how far one round moves the run's step counter.
    """

    online: ClassVar[bool]
    holds_out: ClassVar[bool]
    mixes_data: ClassVar[bool]
    steps_per_round: int

    @classmethod
    def objection(cls, recipe: Recipe) -> RecipeError | None:
        """Why this is not how a recipe learns; None where it is."""

    @classmethod
    def open(cls, recipe: Recipe, checkpoint: Any) -> Problem:
        """What the names in a recipe stand for: data, spaces, environment.

        Args:
            recipe: one without an objection.
            checkpoint: the folder of the run's own last one, if there is one: a fine-tuning then needs no more of what
                it started from.

        Raises:
            OffrlError: something isn't there, or the parts don't belong together.
        """

    @classmethod
    def unread(cls, recipe: Recipe) -> tuple[tuple[str, ...], str]:
        """Options that it doesn't read, by dotted name, and why."""

    @classmethod
    def gradient_rows(cls, recipe: Recipe) -> int:
        """Transitions of each seed that one gradient step learns from: how large its matrix products are."""

    @classmethod
    def build(cls, materials: Materials) -> Self:
        """The feed, at step 0."""

    def rounds(self, count: int) -> Iterator[Cycle]:
        """The update cycles of `count` rounds, in order."""

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """Called after each update, with what it consumed and returned; takes out what isn't for the log."""

    def at_checkpoint(self, step: int) -> None:
        """Called after each periodic checkpoint, and once before the first round."""

    def finished(self) -> bool:
        """Whether there is nothing left to learn."""

    def report(self) -> dict[str, list[Any]]:
        """What happened since the last call, per seed, for the metrics."""

    def conclude(self, run: Run) -> None:
        """Called at the end: leave in the run's folder what else was found."""

    def close(self) -> None:
        """Let go of environments."""

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint must hold, as named groups of tensors."""

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Continue where `parts` was taken."""
