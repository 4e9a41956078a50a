"""What a command prints: results on stdout, notes on stderr, and with `--json` one object on stdout alone.

Everything that is printed goes through here, for much of it comes from data: what a terminal would obey is shown as its
code, and what stands in a cell or a line makes up no other.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from offrl.printable import in_one_line, printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120
"""Columns of a table that isn't printed on a terminal."""

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a dataset that is there, once the new one is whole.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]


def say(text: str = "", *, error: bool = False) -> None:
    """Text on stdout, or on stderr."""
    typer.echo(printable(text), err=error)


def print_json(values: Mapping[str, Any]) -> None:
    """One object on stdout; what JSON has no number for becomes null."""
    typer.echo(printable_json(json.dumps(plain(values), ensure_ascii=False, allow_nan=False)))


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
    """Names and values, with the values, which may be of several lines, in a column; None is left out."""
    shown = {in_one_line(name): str(value) for name, value in pairs.items() if value is not None}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        below = "\n" + " " * (width + 2)
        say(f"{name:<{width}}  {below.join(value.splitlines())}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout; columns of numbers are aligned right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(in_one_line(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(in_one_line(number(cell)) for cell in row))
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
    say(text, error=True)


def in_words(what: str, where: str, hint: str) -> str:
    """What is wrong, where, and a hint, each where it is known; what is wrong may take several lines."""
    lines = [what.replace("\n", "\n    ")]
    lines += [f"  where: {in_one_line(where)}"] if where else []
    return "\n".join([*lines, f"  hint:  {in_one_line(hint)}"] if hint else lines)


@contextmanager
def working(doing: str) -> Iterator[None]:
    """Say on stderr what takes a while; what libraries print meanwhile goes there too, for stdout is for results."""
    console = _console(sys.stderr)
    with redirect_stdout(sys.stderr):
        if not console.is_terminal:
            yield
            return
        with console.status(f"{in_one_line(doing)} ..."):
            yield


def _console(file: TextIO) -> Console:
    from rich.console import Console

    terminal = Console(file=file, markup=False, highlight=False)
    return terminal if terminal.is_terminal else Console(file=file, markup=False, highlight=False, width=PIPE_WIDTH)
