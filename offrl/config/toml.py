"""Plain values as TOML; Python's standard library only reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LINE = 120
"""Characters that a line may have before the mapping in it becomes a section."""


def write_toml(values: Mapping[str, Any]) -> str:
    """Values, then a section for each mapping, and one for each item of a list of mappings.

    Inner mappings are inline, or sections of their own where that would make a long line of a mapping's.

    Args:
        values: text, numbers, booleans, lists and mappings of these; what is None is left out.
    """
    values = {key: value for key, value in values.items() if value is not None}
    sections = {
        key: value
        for key, value in values.items()
        if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping))
    }
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if key not in sections]
    for name, section in sections.items():
        if isinstance(section, Mapping):
            lines += _section(name, section)
        else:
            for table in section:
                lines += ["", f"[[{name}]]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _section(name: str, table: Mapping[str, Any]) -> list[str]:
    """Lines of a section, and of those within it."""
    written = {key: f"{key} = {_value(value)}" for key, value in table.items() if value is not None}
    inner = [key for key, value in table.items() if isinstance(value, Mapping) and len(written[key]) > LINE]
    lines = ["", f"[{name}]", *(line for key, line in written.items() if key not in inner)]
    for key in inner:
        lines += _section(f"{name}.{key}", table[key])
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        return f"{{ {', '.join(f'{key} = {_value(item)}' for key, item in value.items() if item is not None)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but JSON leaves DEL bare, and writes what is beyond 16 bits as two halves.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
