"""offrl itself."""

from __future__ import annotations

import sys
from pathlib import Path

from measuring import Window, main, process_seconds


def show_help(window: Window) -> float:
    """`offrl --help`, as the shell starts it."""
    return process_seconds(window, [str(Path(sys.executable).with_name("offrl")), "--help"])


if __name__ == "__main__":
    main({"help": show_help}, "offrl")
