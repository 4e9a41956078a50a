"""Text as a terminal, a page or a picture may show it, whoever wrote it.

Names, notes and messages of data can hold characters that a terminal obeys: colors, cursor movements, titles, clipboard
contents; or that turn the direction of writing. They are shown as their codes.
"""

from __future__ import annotations

import re

_OBEYED = re.compile(
    # Controls but for tabs and line breaks; marks and overrides of direction; line and paragraph separators; halves of
    # characters, which file names that aren't UTF-8 hold, and which can't be written.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""The text with what a terminal obeys as its code; line breaks and tabs stay.

    Example:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    return _OBEYED.sub(_code, text)


def in_one_line(text: str) -> str:
    r"""The same, with line breaks and tabs as codes too: what stands in a line can't make up another.

    Example:
        >>> in_one_line("a\nb")
        'a\\nb'
    """
    return printable(text.replace("\n", "\\n").replace("\t", "\\t"))


def printable_json(text: str) -> str:
    """JSON text with the same characters as JSON spells their codes: it means the same."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
