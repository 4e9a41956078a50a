"""Names in help texts, from the tables of what offrl can do by name.

Other packages' entries aren't looked for: finding them would cost the start of every command.
"""

from __future__ import annotations

from collections.abc import Iterable

from offrl import plugins


def listed(names: Iterable[str]) -> str:
    """The names with commas, and `or` before the last one."""
    *others, last = sorted(names)
    return f"{', '.join(others)} or {last}" if others else last


ALGORITHMS = listed(plugins.algorithms.own)
ESTIMATORS = ", ".join(plugins.estimators.own)
LOGGERS = listed(name for name in plugins.loggers.own if name != "jsonl")
