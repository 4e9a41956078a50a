"""Progress of a training in a notebook: one line that is written over, and lines that stay."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from offrl.printable import printable
from offrl.runs.progress import TrainingProgress


class NotebookProgress(TrainingProgress):
    """Shows progress by `IPython.display`, in the running cell's output."""

    def __init__(self) -> None:
        super().__init__()
        self.line: Any = None

    def say(self, text: str) -> None:
        """Show a line that stays."""
        print(printable(text), flush=True)

    def progress(self, step: int, steps: int, metrics: Mapping[str, Sequence[float | None]]) -> None:
        """Write the line over; the first one comes below what was said before it."""
        text = _Text(self.so_far(step, steps, metrics, time.monotonic()))
        if self.line is None:
            self.line = import_module("IPython.display").display(text, display_id=True)
        else:
            self.line.update(text)


class _Text:
    """Text that a notebook shows as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text
