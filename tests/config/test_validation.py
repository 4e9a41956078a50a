"""Plain values as dataclasses: every problem is named, with its key and where it lies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import ConfigDict, Field

from offrl.config.fields import Count, CountOrZero, Finite
from offrl.config.validation import require_kind, validated
from offrl.errors import RecipeError, RequestError


@dataclass(frozen=True)
class Inner:
    """Options in a table of their own."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    rate: Annotated[float, Field(gt=0)] = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    """Options with a table in them."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    steps: int
    names: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)


def problem(values: Any, **options: Any) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        validated(Outer, values, **options)
    assert "offrl recipes show" in caught.value.hint
    return caught.value


def test_plain_values_become_the_dataclass() -> None:
    assert validated(Outer, {"steps": 3, "names": ["x", "y"], "inner": {"rate": 1}}) == Outer(
        3, ("x", "y"), Inner(1.0, "a")
    )
    assert validated(Outer, {"steps": 3}) == Outer(3)


def test_an_unknown_key_is_named_with_those_that_are_known_there() -> None:
    assert problem({"steps": 1, "step": 2}).what == "unknown key 'step' (known here: steps, names, inner)"
    assert problem({"steps": 1, "inner": {"rat": 2}}).what == "unknown key 'inner.rat' (known here: rate, kind)"


def test_a_missing_key_is_named() -> None:
    assert problem({}).what.startswith("'steps': ")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"steps": "many"}, "'steps': .*got 'many'"),
        ({"steps": 1, "inner": {"rate": -1.0}}, r"'inner\.rate': .*greater than 0, got -1\.0"),
        ({"steps": 1, "inner": {"kind": "c"}}, r"'inner\.kind': .*got 'c'"),
        ({"steps": 1, "names": ["x", 3]}, r"'names\.1': .*got 3"),
        ({"steps": 1, "inner": 5}, "'inner': should be a table of options, got 5"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_it(values: Any, key: str) -> None:
    with pytest.raises(RecipeError, match=key):
        validated(Outer, values)


def test_all_problems_are_told_at_once_with_where_they_are() -> None:
    error = problem({"steps": "x", "inner": {"rate": "y"}}, where="recipe.toml", prefix=("agent",))
    assert [text.partition(":")[0] for text in error.what.split("; ")] == ["'agent.steps'", "'agent.inner.rate'"]
    assert error.where == "recipe.toml"
    assert error.exit_code == 2


def test_values_that_are_no_table_are_told() -> None:
    assert "table of options, got [1]" in problem([1]).what


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"steps": True}, "'steps': should be a whole number, got True"),
        ({"steps": "3"}, "'steps': should be a whole number, got '3'"),
        ({"steps": 1, "names": [1]}, "'names.0': should be text, got 1"),
        ({"steps": 1, "names": "x"}, "'names': should be a list, got 'x'"),
        ({"steps": 1, "inner": {"rate": "1"}}, "'inner.rate': should be a number, got '1'"),
        ({"steps": 1, "inner": {"kind": False}}, "'inner.kind': should be 'a' or 'b', got False"),
    ],
)
def test_a_switch_is_no_number_and_a_number_no_text(value: dict[str, Any], words: str) -> None:
    assert problem(value).what == words


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (Count, (1, np.int64(3), 2.0), (0, -1, True, "1", None, 1.5, math.inf)),
        (Count | tuple[CountOrZero, ...] | None, (None, 1, [0, 2], range(3)), (0, [-1], "12", [True], True)),
        (Finite | Literal["auto"], (0.5, "auto"), ("0.5", "best", True, math.nan, 1e300)),
        (Literal[1, 2], (1, 2), (True, 3, "1")),
        (str, ("x",), (1, True, None)),
    ],
)
def test_arguments_of_functions_are_named_where_they_are_of_another_kind(
    kind: Any, right: tuple[Any, ...], wrong: tuple[Any, ...]
) -> None:
    for value in right:
        require_kind(kind, some=value)
    for value in wrong:
        with pytest.raises(RequestError, match=r"'some(\.0)?': "):
            require_kind(kind, some=value)
