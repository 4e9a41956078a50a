"""Plain values as TOML; Python's standard library only reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def write_toml(values: Mapping[str, Any]) -> str:
    """Values, then a section for each mapping, and one for each item of a list of mappings; inner ones are inline.

    Args:
        values: text, numbers, booleans, lists and mappings of these. None has no TOML.
    """
    sections = {key: value for key, value in values.items() if _is_section(value)}
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if key not in sections]
    for name, section in sections.items():
        header, tables = (f"[{name}]", [section]) if isinstance(section, Mapping) else (f"[[{name}]]", section)
        for table in tables:
            lines += ["", header, *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_value(item)}' for key, item in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but JSON leaves DEL bare, and writes what is beyond 16 bits as two halves.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
