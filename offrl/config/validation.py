"""Plain values as frozen dataclasses: what is unknown, missing or of the wrong kind is named."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from offrl.errors import RecipeError


def validated(kind: type[Any], values: Any, where: str = "", prefix: tuple[str, ...] = ()) -> Any:
    """A dataclass of this kind from plain values.

    Args:
        kind: a dataclass whose fields pydantic can check.
        values: a mapping of plain values.
        where: the file, or whatever they are from.
        prefix: the sections that they lie in.

    Raises:
        RecipeError: a key is unknown, missing, or has a value of the wrong kind; the message names it.
    """
    # Agents build without it, where configs are made in Python.
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        problems = [_problem(kind, prefix, detail) for detail in error.errors()]
        raise RecipeError(
            "; ".join(problems), where=where, hint="offrl recipes show prints every key of a recipe with its value"
        ) from error


def _problem(kind: type[Any], prefix: tuple[str, ...], detail: Any) -> str:
    key = ".".join(str(part) for part in (*prefix, *detail["loc"]))
    if detail["type"] == "dataclass_type":
        return f"'{key}': should be a table of options, got {detail['input']!r}"
    if detail["type"] == "unexpected_keyword_argument":
        for section in detail["loc"][:-1]:
            kind = get_type_hints(kind)[section]
        known = ", ".join(f.name for f in dataclasses.fields(kind))
        return f"unknown key '{key}' (known here: {known})"
    return f"'{key}': {detail['msg']}, got {detail['input']!r}"
