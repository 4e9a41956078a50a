"""Progress of a training on a terminal: a bar, and lines above it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from offrl.printable import in_one_line, printable
from offrl.runs.progress import TrainingProgress, metrics_in_words

REFRESHES_PER_SECOND = 2.0
"""Few: drawing takes time from training."""
SPEED_WINDOW = 600.0
"""Seconds that rate and remaining time are estimated from; metrics of slow runs come minutes apart."""


class ProgressBar(TrainingProgress):
    """Shows progress as a bar. Leaving it takes the bar away.

    Args:
        console: where; None for stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            _RateColumn(),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[metrics]}"),
            console=console or Console(file=sys.stderr, markup=False, highlight=False),
            refresh_per_second=REFRESHES_PER_SECOND,
            speed_estimate_period=SPEED_WINDOW,
        )
        self.task = self.bar.add_task("training", total=None, start=False, visible=False, metrics="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        self.bar.console.print(printable(text), markup=False, soft_wrap=True)

    def progress(self, step: int, steps: int, metrics: Mapping[str, Sequence[float | None]]) -> None:
        """Move the bar."""
        if not self.bar.tasks[0].started:
            self.bar.start_task(self.task)
        self.bar.update(
            self.task,
            completed=step,
            total=steps,
            description="training" if step < steps else "finishing",
            metrics=in_one_line(metrics_in_words(metrics)),
            visible=True,
        )


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} steps/s")
