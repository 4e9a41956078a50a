"""The order in which people number files: part-2 before part-10."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"([0-9]+)")


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """What names are sorted by: the numbers in them count as numbers, the rest as text.

    Example:
        >>> sorted(["part.10", "part.9", "part.1"], key=natural_key)
        ['part.1', 'part.9', 'part.10']
    """
    # Text and digits take turns, and text comes first: the same position never holds both.
    pieces = _DIGITS.split(name)
    return tuple(int(piece) if index % 2 else piece for index, piece in enumerate(pieces)), name
