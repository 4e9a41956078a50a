"""Progress of a training for people: occasional lines on stderr; elsewhere what suits a notebook or a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from offrl.printable import printable

SECONDS_BETWEEN_LINES = 10.0
SHOWN_METRICS = 2


def training_progress(shown: bool = True) -> TrainingProgress:
    """What suits the place that the program runs in: a notebook's line, a terminal's bar, or lines on stderr.

    Args:
        shown: whether to show anything.
    """
    if not shown:
        return SilentProgress()
    # Whether an IPython kernel runs this program.
    interactive = sys.modules.get("IPython")
    # An attribute, not an entry of the module's dictionary: IPython 9 gives it on request only.
    shell = None if interactive is None else interactive.get_ipython()
    if shell is not None and "IPKernelApp" in shell.config:
        from offrl.runs.notebook_line import NotebookProgress

        return NotebookProgress()
    if sys.stderr.isatty():
        from offrl.runs.terminal_bar import ProgressBar

        return ProgressBar()
    return TrainingProgress()


class TrainingProgress:
    """Shows what a training loop tells its listener, in lines on stderr. A context manager.

    Attributes:
        run: the run's directory; None before there is one.
    """

    def __init__(self) -> None:
        self.run: Path | None = None
        self._first: tuple[float, int] | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lines stay."""

    def say(self, text: str) -> None:
        """Show a line that stays."""
        print(printable(text), file=sys.stderr, flush=True)

    def began(self, path: Path) -> None:
        """Say where the run is."""
        self.run = path
        self.say(f"Run: {path}")

    def progress(self, step: int, steps: int, metrics: Mapping[str, Sequence[float | None]]) -> None:
        """Show how far training is: every few seconds, and at the end."""
        now = time.monotonic()
        text = self.so_far(step, steps, metrics, now)
        if step >= steps or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.say(text)

    def evaluated(self, step: int, scores: Mapping[str, Any]) -> None:
        """Show an evaluation's mean return."""
        from offrl.runs.scores import mean_return

        text = f"step {step:,}: return {mean_return(scores)}"
        if scores.get("normalized_score") is not None:
            text += f", normalized score {scores['normalized_score']:.1f}"
        self.say(text)

    def noted(self, text: str) -> None:
        """Show it."""
        self.say(text)

    def warned(self, text: str) -> None:
        """Show a warning."""
        self.say(f"Warning: {text}")

    def so_far(self, step: int, steps: int, metrics: Mapping[str, Sequence[float | None]], now: float) -> str:
        """Steps, their rate since the first call, the time that is left, and metrics, in words.

        Args:
            step, steps: taken, and to be taken.
            metrics: by name, one value per seed.
            now: seconds of any clock.
        """
        self._first = self._first or (now, step)
        start, first = self._first
        rate = (step - first) / (now - start) if now > start and step > first else None
        speed = f", {rate:,.0f} steps/s, {_duration(max(0, steps - step) / rate)} left" if rate else ""
        return f"step {step:,} of {steps:,}{speed}, {metrics_in_words(metrics)}"


class SilentProgress(TrainingProgress):
    """Shows nothing, and knows the run all the same."""

    def say(self, text: str) -> None:
        """Nothing to show."""


def metrics_in_words(metrics: Mapping[str, Sequence[float | None]]) -> str:
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
