"""What a command prints: results on stdout, notes on stderr, and with `--json` one object on stdout alone."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120
"""Columns of a table that isn't printed on a terminal."""

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a dataset that is there, once the new one is whole.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]


def print_json(values: Mapping[str, Any]) -> None:
    """One object on stdout; what JSON has no number for becomes null."""
    typer.echo(json.dumps(plain(values), ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """The value with mappings, lists, text and finite numbers only."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Names and values, one pair a line, with the values in a column; None is left out."""
    shown = {name: str(value) for name, value in pairs.items() if value is not None}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        typer.echo(f"{name:<{width}}  {value}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout; columns of numbers are aligned right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(number(cell) for cell in row))
    _console(sys.stdout).print(table)


def number(value: Any) -> str:
    """A cell's text: floats with four digits, or one behind the point if that is more."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.1f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def note(text: str) -> None:
    """A remark on stderr."""
    typer.echo(text, err=True)


@contextmanager
def working(doing: str) -> Iterator[None]:
    """Say on stderr what takes a while; what libraries print meanwhile goes there too, for stdout is for results."""
    console = _console(sys.stderr)
    with redirect_stdout(sys.stderr):
        if not console.is_terminal:
            yield
            return
        with console.status(f"{doing} ..."):
            yield


def _console(file: TextIO) -> Console:
    from rich.console import Console

    terminal = Console(file=file, markup=False, highlight=False)
    return terminal if terminal.is_terminal else Console(file=file, markup=False, highlight=False, width=PIPE_WIDTH)
