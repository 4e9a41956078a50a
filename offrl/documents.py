"""JSON and TOML that may come from anybody: metadata, cards, recipes, facts.

A file can be a pipe that never ends, hold more than there is memory for, or nest brackets until the parser's own calls
overflow. Whatever is wrong becomes an OSError or a ValueError here, which readers turn into an error that says where.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

MOST_BYTES = 128 * 2**20
"""Of a document: many times what the metadata of a store of terabytes take."""


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
    """The value that a text spells; see `read_json`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The values that a text spells; see `read_toml`."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_text(path: Path) -> str:
    """A file's UTF-8; see `read_json`."""
    # Opening a pipe would wait for somebody to write to it.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(None, "it is no regular file", str(path))
        if about.st_size > MOST_BYTES:
            raise ValueError(f"it has {about.st_size:,} bytes, and at most {MOST_BYTES:,} are read")
        return file.read().decode()
