"""The steps that metrics were of."""

from collections.abc import Mapping
from typing import Any

from offrl.runs.loggers import Logger
from offrl.runs.run import Run


class TinyLogger(Logger):
    """`tiny.txt` of a run: what it was told, in words."""

    def __init__(self, run: Run, first_step: int) -> None:
        super().__init__(run, first_step)
        self._say(f"from {first_step}")

    def write(self, line: Mapping[str, Any]) -> None:
        """Tell the step, and whether there is a loss."""
        self._say(f"step {line['step']}: {len(line['tiny_loss'])} losses")

    def close(self) -> None:
        """Say so."""
        self._say("closed")

    def _say(self, text: str) -> None:
        with open(self.run.path / "tiny.txt", "a", encoding="utf-8") as file:
            file.write(f"{text}\n")
