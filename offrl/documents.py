"""JSON and TOML that may come from anybody: metadata, cards, recipes, facts.

A file can be a pipe that never ends, hold more than there is memory for, or nest brackets until the parser's own calls
overflow. Whatever is wrong becomes an OSError or a ValueError here, which readers turn into an error that says where.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

MOST_BYTES = 128 * 2**20
"""Of a document: many times what the metadata of a store of terabytes take."""
MOST_LEVELS = 100
"""Values within values that a TOML text may have."""
MOST_TOLD = 3
"""Problems of one file that are told; the first ones say enough."""
LONGEST_TOLD = 60
"""Characters of a value in a message."""
LEAST_INTEGER, GREATEST_INTEGER = -(2**63), 2**63 - 1
"""TOML's integers; Python's reader takes longer ones, which no option could mean."""
_BRACKETS, _KEYS_APART = re.compile(r"[\[\]{}]"), re.compile(r"[=\n{,]")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: it can't be read, or is no regular file.
        ValueError: it isn't JSON, or is nested or large beyond all use.
    """
    return parse_json(read_text(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The values in a TOML file.

    Raises:
        OSError: it can't be read, or is no regular file.
        ValueError: it isn't TOML, or is nested or large beyond all use.
    """
    return parse_toml(read_text(path))


def parse_json(text: str | bytes) -> Any:
    """The value that a text spells, with NaN and infinity among its numbers; see `read_json`."""
    from pydantic_core import from_json

    try:
        return from_json(text)
    except ValueError as error:
        # Python's own parser overflows the stack, and takes halves of characters that nothing can write.
        raise ValueError(str(error).replace("recursion limit exceeded", "it is nested too deeply")) from error


def parse_toml(text: str) -> dict[str, Any]:
    """The values that a text spells; see `read_toml`."""
    _require_flat(text)
    values = tomllib.loads(text)
    _require_integers(values)
    return values


def read_text(path: Path) -> str:
    """A file's UTF-8; see `read_json`."""
    return read_bytes(path, MOST_BYTES).decode()


def read_bytes(path: Path, most: int) -> bytes:
    """A file's content; see `read_json`.

    Args:
        path: the file.
        most: bytes that are read.
    """
    # Opening a pipe would wait for somebody to write to it.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(None, "it is no regular file", str(path))
        if about.st_size > most:
            raise ValueError(f"it has {about.st_size:,} bytes, and at most {most:,} are read")
        return file.read()


def checked(kind: Any, values: Any) -> Any:
    """Plain values as a dataclass, or another type that annotations can name.

    Nothing is converted, but for integers where floats are asked for. Keys that a dataclass doesn't have are let pass:
    a later version may have written them.

    Args:
        kind: the type, whose fields are numbers, text, lists, dictionaries, other dataclasses, or one of several.
        values: as `parse_json` and `parse_toml` return them.

    Raises:
        ValueError: a key is missing, or has a value of the wrong kind; the message names it.

    Example:
        >>> checked(dict[str, int], {"step": "5"})
        Traceback (most recent call last):
        ...
        ValueError: 'step' should be a valid integer, and is '5'
    """
    from pydantic import ValidationError
    from pydantic_core import to_json

    # Of Python's own values, pydantic takes no dictionary for a dataclass where it is to be strict.
    content = to_json(values, inf_nan_mode="constants")
    try:
        return _adapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        told = [_problem(detail) for detail in details[:MOST_TOLD]]
        more = len(details) - len(told)
        raise ValueError("; ".join(told) + (f"; and {more} more" if more else "")) from error


def shortened(value: Any) -> str:
    """A value as a message may hold it."""
    text = ascii(value)
    return text if len(text) <= LONGEST_TOLD else f"{text[:LONGEST_TOLD]}…"


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _problem(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    subject = f"'{name}'" if name else "it"
    if detail["type"] in ("missing", "missing_argument"):
        return f"{subject} is missing"
    asked = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{subject} {asked}, and is {shortened(detail['input'])}"


def _require_flat(text: str) -> None:
    """Raise `ValueError` where brackets or dotted keys, those in text and comments counted too, go too deep.

    Python's reader follows brackets by recursion, and takes a time that is quadratic in the parts of a key.
    """
    level = deepest = 0
    for bracket in _BRACKETS.findall(text):
        level = level + 1 if bracket in "[{" else max(0, level - 1)
        deepest = max(deepest, level)
    parts = max(part.count(".") for part in _KEYS_APART.split(text))
    if max(deepest, parts) > MOST_LEVELS:
        raise ValueError("it is nested too deeply")


def _require_integers(values: dict[str, Any]) -> None:
    """Raise `ValueError` where a whole number is beyond TOML's 64 bits, or dotted keys within brackets go too deep."""
    left: list[tuple[tuple[str, ...], Any]] = [((), values)]
    while left:
        names, value = left.pop()
        if len(names) > MOST_LEVELS:
            raise ValueError("it is nested too deeply")
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            left += [((*names, str(name)), item) for name, item in items]
        elif type(value) is int and not LEAST_INTEGER <= value <= GREATEST_INTEGER:
            raise ValueError(f"'{'.'.join(names)}' should be an integer of 64 bits")
