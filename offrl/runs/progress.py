"""Progress of a training for people: a line in a notebook, a bar on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from offrl.runs.scores import mean_return

if TYPE_CHECKING:
    from rich.progress import Progress

SECONDS_BETWEEN_LINES = 10.0
SHOWN_METRICS = 2
REFRESHES_PER_SECOND = 2.0
"""Few: drawing takes time from training."""
SPEED_WINDOW = 600.0
"""Seconds that rate and remaining time are estimated from; metrics of slow runs come minutes apart."""


class Display(Protocol):
    """Where progress is shown."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def step(self, step: int, steps: int, metrics: str) -> None:
        """Show how far training is."""

    def stop(self) -> None:
        """Nothing more follows."""


class TrainingProgress:
    """Shows what a training loop tells its listener. A context manager: leaving it takes a bar away.

    Args:
        display: where; None takes what suits: the notebook, the terminal that stderr is, or lines on stderr.

    Attributes:
        run: the run's directory; None before there is one.
    """

    def __init__(self, display: Display | None = None) -> None:
        self.run: Path | None = None
        self.display = display or suitable_display()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.stop()

    def say(self, text: str) -> None:
        """Show a remark."""
        self.display.say(text)

    def began(self, path: Path) -> None:
        """Say where the run is."""
        self.run = path
        self.display.say(f"Run: {path}")

    def progress(self, step: int, steps: int, metrics: Mapping[str, Sequence[float | None]]) -> None:
        """Show how far training is."""
        self.display.step(step, steps, _summary(metrics))

    def evaluated(self, step: int, scores: Mapping[str, Any]) -> None:
        """Show an evaluation's mean return."""
        text = f"step {step:,}: return {mean_return(scores)}"
        if scores.get("normalized_score") is not None:
            text += f", normalized score {scores['normalized_score']:.1f}"
        self.display.say(text)

    def warned(self, text: str) -> None:
        """Show a warning."""
        self.display.say(f"Warning: {text}")


class Silence:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Nothing to show."""

    def step(self, step: int, steps: int, metrics: str) -> None:
        """Nothing to show."""

    def stop(self) -> None:
        """Nothing to take away."""


def suitable_display() -> Display:
    """What suits the place that the program runs in."""
    if _in_notebook():
        return Notebook()
    return Bar() if sys.stderr.isatty() else Lines()


class Lines:
    """An occasional line on stderr."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.last = time.monotonic()

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    def step(self, step: int, steps: int, metrics: str) -> None:
        """One line every few seconds, and at the end."""
        now = time.monotonic()
        text = self.clock.read(step, steps, now)
        if step < steps and now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        self.say(f"{text}, {metrics}")

    def stop(self) -> None:
        """Lines stay."""


class Notebook:
    """One line in a notebook's output that is written over, below those that stay."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.handle: Any = vars(import_module("IPython.display"))["display"](_Text(""), display_id=True)

    def say(self, text: str) -> None:
        """One line that stays."""
        print(text, flush=True)

    def step(self, step: int, steps: int, metrics: str) -> None:
        """Write the line over."""
        self.handle.update(_Text(f"{self.clock.read(step, steps, time.monotonic())}, {metrics}"))

    def stop(self) -> None:
        """The last line stays."""


class _Text:
    """Text that a notebook shows as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Bar:
    """A bar on a terminal that is taken away at the end."""

    def __init__(self) -> None:
        self.bar = _rich_bar()
        self.task = self.bar.add_task("training", total=None, start=False, visible=False, metrics="")
        self.bar.start()

    def say(self, text: str) -> None:
        """One line above the bar."""
        self.bar.console.print(text, markup=False, soft_wrap=True)

    def step(self, step: int, steps: int, metrics: str) -> None:
        """Move the bar."""
        if not self.bar.tasks[0].started:
            self.bar.start_task(self.task)
        description = "training" if step < steps else "finishing"
        self.bar.update(self.task, completed=step, total=steps, description=description, metrics=metrics, visible=True)

    def stop(self) -> None:
        """Leave it as it is."""
        self.bar.stop()


def _rich_bar() -> Progress:
    """Progress, rate, remaining time and metrics, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Steps per second."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.0f} steps/s")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("left  {task.fields[metrics]}"),
        console=Console(file=sys.stderr, markup=False, highlight=False),
        refresh_per_second=REFRESHES_PER_SECOND,
        speed_estimate_period=SPEED_WINDOW,
    )


class Clock:
    """How fast training is, since the first reading."""

    def __init__(self) -> None:
        self.first: tuple[float, int] | None = None

    def read(self, step: int, steps: int, now: float) -> str:
        """Steps, rate and remaining time at a moment, in seconds of any clock, in words."""
        self.first = self.first or (now, step)
        start, first = self.first
        rate = (step - first) / (now - start) if now > start and step > first else None
        speed = f", {rate:,.0f} steps/s, {_duration(max(0, steps - step) / rate)} left" if rate else ""
        return f"step {step:,} of {steps:,}{speed}"


def _in_notebook() -> bool:
    """Whether an IPython kernel runs this program."""
    interactive = sys.modules.get("IPython")
    shell = None if interactive is None else vars(interactive)["get_ipython"]()
    return shell is not None and "IPKernelApp" in shell.config


def _summary(metrics: Mapping[str, Sequence[float | None]]) -> str:
    """The first metrics, averaged over the seeds."""
    texts = []
    for name, values in metrics.items():
        known = [value for value in values if value is not None]
        if known:
            mean = sum(known) / len(known)
            texts.append(f"{name} {mean:.1f}" if 1000 <= abs(mean) < 1e9 else f"{name} {mean:.4g}")
    return ", ".join(texts[:SHOWN_METRICS])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
