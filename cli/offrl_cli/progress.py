"""Progress of a training run on stderr: a bar on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from offrl_cli.output import note, number, stderr_console
from offrl_cli.scores import mean_return

SECONDS_BETWEEN_LINES = 10.0
SHOWN_METRICS = 2
REFRESHES_PER_SECOND = 2.0
"""Few: drawing takes time from training."""
SPEED_WINDOW = 600.0
"""Seconds that rate and remaining time are estimated from; metrics of slow runs come minutes apart."""


class TrainingProgress:
    """Shows what a training loop tells its listener. A context manager: leaving it takes the bar away.

    Attributes:
        run: the run's directory; None before there is one.
    """

    def __init__(self) -> None:
        self.run: Path | None = None
        console = stderr_console()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                _RateColumn(),
                TimeRemainingColumn(),
                TextColumn("left  {task.fields[metrics]}"),
                console=console,
                refresh_per_second=REFRESHES_PER_SECOND,
                speed_estimate_period=SPEED_WINDOW,
            )
            self._task = self._bar.add_task("training", total=None, start=False, visible=False, metrics="")
        self._first: tuple[float, int] | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def began(self, path: Path) -> None:
        """Say where the run is."""
        self.run = path
        self._say(f"Run: {path}")

    def progress(self, step: int, steps: int, metrics: Mapping[str, Sequence[float | None]]) -> None:
        """Show how far training is."""
        shown = _summary(metrics)
        if self._bar is None:
            self._print_line(step, steps, shown)
            return
        if not self._bar.tasks[0].started:
            self._bar.start_task(self._task)
        description = "training" if step < steps else "finishing"
        self._bar.update(self._task, completed=step, total=steps, description=description, metrics=shown, visible=True)

    def evaluated(self, step: int, scores: Mapping[str, Any]) -> None:
        """Show an evaluation's mean return."""
        text = f"step {step:,}: return {mean_return(scores)}"
        if scores.get("normalized_score") is not None:
            text += f", normalized score {scores['normalized_score']:.1f}"
        self._say(text)

    def warned(self, text: str) -> None:
        """Show a warning."""
        self._say(f"Warning: {text}")

    def _say(self, text: str) -> None:
        if self._bar is None:
            note(text)
        else:
            self._bar.console.print(text, markup=False, soft_wrap=True)

    def _print_line(self, step: int, steps: int, metrics: str) -> None:
        now = time.monotonic()
        self._first = self._first or (now, step)
        if step < steps and now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        start, first = self._first
        rate = (step - first) / (now - start) if now > start and step > first else None
        speed = f", {rate:,.0f} steps/s, {_duration(max(0, steps - step) / rate)} left" if rate else ""
        note(f"step {step:,} of {steps:,}{speed}, {metrics}")


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} steps/s")


def _summary(metrics: Mapping[str, Sequence[float | None]]) -> str:
    """The first metrics, averaged over the seeds."""
    texts = []
    for name, values in metrics.items():
        known = [value for value in values if value is not None]
        if known:
            texts.append(f"{name} {number(sum(known) / len(known))}")
    return ", ".join(texts[:SHOWN_METRICS])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
