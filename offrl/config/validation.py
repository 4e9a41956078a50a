"""Plain values as frozen dataclasses: what is unknown, missing or of the wrong kind is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from offrl.errors import RecipeError, RequestError

HINT = "offrl recipes show prints every key of a recipe with its value"


def validated(kind: type[Any], values: Any, where: str = "", prefix: tuple[str, ...] = (), hint: str = HINT) -> Any:
    """A dataclass of this kind from plain values.

    Args:
        kind: a dataclass whose fields pydantic can check.
        values: a mapping of plain values.
        where: the file, or whatever they are from.
        prefix: the sections that they lie in.
        hint: of the errors.

    Raises:
        RecipeError: a key is unknown, missing, or has a value of the wrong kind; the message names it.
    """
    refuse_other_kinds(kind, values, where, prefix, hint)
    # Agents build without it, where configs are made in Python.
    from pydantic import ValidationError

    try:
        return _adapter(cast(Hashable, kind)).validate_python(values)
    except ValidationError as error:
        problems = [_problem(kind, prefix, detail) for detail in error.errors()]
        raise RecipeError("; ".join(problems), where=where, hint=hint) from error
    except RecipeError as error:
        # Values that are right one by one, and don't go together.
        raise RecipeError(error.what, where=where, hint=error.hint) from error


def refuse_other_kinds(
    kind: type[Any], values: Any, where: str = "", prefix: tuple[str, ...] = (), hint: str = HINT
) -> None:
    """Refuse switches that are numbers or text, and the other way round, which pydantic would read as each other.

    Raises:
        RecipeError: there are some; the message names each.
    """
    mistaken = list(_mistaken(kind, values, prefix))
    if mistaken:
        raise RecipeError("; ".join(mistaken), where=where, hint=hint)


def require_kind(kind: Any, **arguments: Any) -> None:
    """Refuse arguments of a function that aren't of a kind that recipes' options are of, see `offrl.config.fields`.

    Raises:
        RequestError: one isn't; the message names it.

    Example:
        >>> require_kind(Count, episodes=0)
        RequestError: 'episodes': Input should be greater than or equal to 1, got 0
    """
    from pydantic import ValidationError

    for name, value in arguments.items():
        problems = list(_mistaken(kind, value, (name,)))
        try:
            _adapter(kind).validate_python(value)
        except ValidationError as error:
            problems += [f"'{name}': {detail['msg']}, got {value!r}" for detail in error.errors()]
        if problems:
            raise RequestError(problems[0], hint="correct it, or leave it out")


@cache
def _adapter(kind: Hashable) -> Any:
    """What pydantic checks a kind by, which takes it a while to make."""
    from pydantic import TypeAdapter

    return TypeAdapter(cast(Any, kind))


def _mistaken(hint: Any, value: Any, path: tuple[str, ...]) -> Iterator[str]:
    """A sentence for each value of another kind than its type hint admits."""
    kinds = _kinds(hint)
    if isinstance(value, Mapping):
        yield from _mistaken_in([kind for kind in kinds if dataclasses.is_dataclass(kind)], value, path)
    elif isinstance(value, list | tuple):
        yield from _mistaken_items(kinds, value, path)
    elif isinstance(value, bool | int | float | str) and not _admit(kinds, value):
        yield f"'{'.'.join(path)}': should be {_described(kinds)}, got {value!r}"


def _admit(kinds: set[Any], value: bool | float | str) -> bool:
    """Whether a single value is of one of these kinds; if it is to be among some choices, pydantic tells."""
    choices = {kind for kind in kinds if isinstance(kind, bool | int | float | str)}
    own = {bool} if isinstance(value, bool) else {str} if isinstance(value, str) else {int, float}
    if kinds & (own | {Any}):
        return True
    return bool(own & set(map(type, choices))) and (value in choices or not kinds & {int, float})


def _mistaken_in(kinds: Sequence[Any], table: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Of all options in a table; of several dataclasses it is the one that knows most of them."""
    known = [get_type_hints(kind) for kind in kinds]
    hints: dict[str, Any] = max(known, key=lambda each: len(each.keys() & table.keys()), default={})
    for key, value in table.items():
        if key in hints:
            yield from _mistaken(hints[key], value, (*path, key))


def _mistaken_items(kinds: set[Any], values: Sequence[Any], path: tuple[str, ...]) -> Iterator[str]:
    """Of a list's items."""
    for arguments in (get_args(kind) for kind in kinds if get_origin(kind) is tuple):
        items = arguments[:1] * len(values) if arguments[1:] == (...,) else arguments
        for place, (item, value) in enumerate(zip(items, values, strict=False)):
            yield from _mistaken(item, value, (*path, str(place)))


def _kinds(hint: Any) -> set[Any]:
    """The types that a type hint admits, and of a `Literal` its choices."""
    if get_origin(hint) is Annotated:
        return _kinds(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return set().union(*map(_kinds, get_args(hint)))
    return set(get_args(hint)) if get_origin(hint) is Literal else {hint}


def _described(kinds: set[Any]) -> str:
    """What an option may be, in words."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    found = [word for kind, word in words.items() if kind in kinds]
    found += [repr(choice) for choice in sorted(kinds, key=str) if isinstance(choice, str)]
    found += ["a list"] * any(get_origin(kind) is tuple for kind in kinds)
    return " or ".join(found or ["a table of options"])


def _problem(kind: type[Any], prefix: tuple[str, ...], detail: Any) -> str:
    key = ".".join(str(part) for part in (*prefix, *detail["loc"]))
    if detail["type"] == "dataclass_type":
        return f"'{key}': should be a table of options, got {detail['input']!r}"
    if detail["type"] == "unexpected_keyword_argument":
        for section in detail["loc"][:-1]:
            kind = _hint_of(kind, section)
        known = ", ".join(f.name for f in dataclasses.fields(kind))
        return f"unknown key '{key}' (known here: {known})"
    return f"'{key}': {detail['msg']}, got {detail['input']!r}"


def _hint_of(kind: Any, section: str | int) -> Any:
    """The type hint of a dataclass's field, or of a mapping's or a tuple's items."""
    if dataclasses.is_dataclass(kind):
        return get_type_hints(kind)[str(section)]
    return get_args(kind)[0 if get_origin(kind) is tuple else -1]
