"""Another package's entry in one of offrl's tables, without installing any."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from offrl.plugins import Table


def entry_point(group: str, name: str, value: str) -> EntryPoint:
    """An entry of the package `other`, version 1.2."""
    entry = EntryPoint(name, value, group)
    vars(entry)["dist"] = SimpleNamespace(name="other", version="1.2")
    return entry


def plug(monkeypatch: pytest.MonkeyPatch, table: Table, **entries: str) -> None:
    """Let a table have these entries, name to `"module:object"`, and no other packages', until the test ends."""
    foreign = {name: entry_point(table.group, name, value) for name, value in entries.items()}
    monkeypatch.setitem(vars(table), "_foreign", foreign)
    monkeypatch.setattr(table, "_resolved", {})
