"""How long environments have kept this program waiting: what hangs is told from what is only slow. Imports nothing."""

from __future__ import annotations

import time


class Waiting:
    """A clock that runs while an environment is asked for something and hasn't answered."""

    def __init__(self) -> None:
        self._since: float | None = None

    def begin(self) -> None:
        """An environment is asked."""
        self._since = time.monotonic()

    def end(self) -> None:
        """It answered, or failed."""
        self._since = None

    def seconds(self) -> float:
        """How long it hasn't answered; 0 where nothing is asked."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since


WAITING = Waiting()
"""This process's: a signal's handler, which belongs to a process too, asks it."""
