"""README's lists of algorithms, formats, loggers and estimators, made from offrl's tables.

`python -m tests.test_readme_lists` writes them anew.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

import pytest

from offrl import plugins
from offrl.agents.algorithm import Algorithm
from tests.source import ROOT

README = ROOT / "README.md"
LEARNS_FROM = {
    "dagger": "its own steps, labeled by an expert's run",
    "dataset": "datasets",
    "demonstrations": "demonstrations, its own steps",
    "replay": "its own steps",
    "rollouts": "its own rollouts",
    "table": "demonstrations in a table",
    "windows": "windows of a dataset's episodes",
}
"""Each feed in words."""
KINDS = ("algorithms", "formats", "loggers", "estimators")


def made(kind: str) -> str:
    """One list, as Markdown."""
    table: plugins.Table = vars(plugins)[kind]
    rows = {name: table[name] for name in sorted(table.own)}
    if kind == "algorithms":
        return _table(
            ("algorithm", "learns from", "observations", "actions", "among its options"),
            (
                (f"`{name}`", _learns_from(record), _sees(record), _acts_in(record), record.summary)
                for name, record in rows.items()
            ),
        )
    if kind == "formats":
        return _table(("format", "what"), ((f"`{name}`", record.description) for name, record in rows.items()))
    if kind == "loggers":
        lines = (
            (f"`{name}`", str(inspect.getdoc(logger)).splitlines()[0].rstrip(".")) for name, logger in rows.items()
        )
        return _table(("logger", "what"), lines)
    return _table(("estimator", "what"), ((f"`{name}`", record.summary) for name, record in rows.items()))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "".join(f"| {' | '.join(row)} |\n".replace("| --- ", "|---") for row in [head, ["---"] * len(head), *rows])


def _learns_from(record: Algorithm) -> str:
    return ", ".join(LEARNS_FROM[feed] for feed in record.feeds)


def _sees(record: Algorithm) -> str:
    return "vectors, images" if record.images else "vectors"


def _acts_in(record: Algorithm) -> str:
    if not record.wraps:
        return ", ".join(record.actions)
    *others, last = (f"`{name}`" for name in sorted(record.wraps))
    return f"as its generator's: {', '.join(others)} or {last}" if others else f"as its generator's: {last}"


def _place(kind: str) -> re.Pattern[str]:
    """Where a list stands: the table whose head begins with its noun."""
    noun: str = vars(plugins)[kind].noun
    return re.compile(rf"^\| {noun} \|.*\n(\|.*\n)+", re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_lists_what_the_tables_say(kind: str) -> None:
    found = _place(kind).search(README.read_text(encoding="utf-8"))
    assert found is not None, "README has no such table"
    assert found[0] == made(kind), "write README's lists anew: python -m tests.test_readme_lists"


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    for each in KINDS:
        (stands,) = _place(each).finditer(text)
        text = text[: stands.start()] + made(each) + text[stands.end() :]
    README.write_text(text, encoding="utf-8")
