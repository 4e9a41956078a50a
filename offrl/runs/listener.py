"""Who is told how a training is going."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Listener(Protocol):
    """Told of a run's progress; the command line shows it."""

    def began(self, path: Path) -> None:
        """Once the run has its directory."""

    def progress(self, step: int, steps: int, metrics: dict[str, list[float | None]]) -> None:
        """After each line of metrics."""

    def evaluated(self, step: int, scores: dict[str, Any]) -> None:
        """After each evaluation."""

    def noted(self, text: str) -> None:
        """When something is found out that a person may want to see."""

    def warned(self, text: str) -> None:
        """When something may not be what one wants."""


class SilentListener:
    """Tells nobody."""

    def began(self, path: Path) -> None:
        """Nothing to show."""

    def progress(self, step: int, steps: int, metrics: dict[str, list[float | None]]) -> None:
        """Nothing to show."""

    def evaluated(self, step: int, scores: dict[str, Any]) -> None:
        """Nothing to show."""

    def noted(self, text: str) -> None:
        """Nothing to show."""

    def warned(self, text: str) -> None:
        """Nothing to show."""
