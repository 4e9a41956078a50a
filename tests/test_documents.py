"""JSON and TOML that may come from anybody."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Ge

from offrl import documents
from offrl.documents import LONGEST_TOLD, checked, parse_json, parse_toml, read_json, read_toml, shortened
from tests.source import syntax_trees

READERS = pytest.mark.parametrize("read", [read_json, read_toml])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"ä": [1, null]}', encoding="utf-8")
    (tmp_path / "a.toml").write_text('"ä" = [1, 2.5]', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"ä": [1, None]}
    assert read_toml(tmp_path / "a.toml") == {"ä": [1, 2.5]}


@pytest.mark.parametrize(("parse", "text"), [(parse_json, "[" * 100_000), (parse_toml, "a = " + "[" * 100_000)])
def test_deep_nesting_is_a_value_error(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse(text)


@READERS
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        read(tmp_path / "pipe")


@READERS
def test_what_is_not_text_or_too_much_is_a_value_error(
    tmp_path: Path, read: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latin").write_bytes(b'{"\xe4": 1}')
    with pytest.raises(ValueError, match="utf-8"):
        read(tmp_path / "latin")
    monkeypatch.setattr(documents, "MOST_BYTES", 10)
    (tmp_path / "long").write_text(" " * 11)
    with pytest.raises(ValueError, match="11 bytes, and at most 10"):
        read(tmp_path / "long")


def test_documents_are_parsed_in_one_place() -> None:
    found = {
        module
        for module, tree in syntax_trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("loads", "load") and isinstance(node.value, ast.Name)
        if node.value.id in ("json", "tomllib")
    }
    assert found == {"offrl.documents"}


@dataclass
class Inner:
    flag: bool


@dataclass
class Outer:
    step: Annotated[int, Ge(0)]
    scores: dict[str, float | str]
    rows: list[list[float | None]]
    inner: Inner
    name: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


GOOD: dict[str, Any] = {"step": 3, "scores": {"a": 1, "b": "x"}, "rows": [[1.5, None]], "inner": {"flag": True}}


def test_json_is_read_with_the_numbers_that_python_writes() -> None:
    assert repr(parse_json(b'{"a": [NaN, -Infinity, 1e400, "\\ud83e\\udd16", 1.0, 7]}')) == (
        "{'a': [nan, -inf, inf, '🤖', 1.0, 7]}"
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b'"\\ud800"', b"[" * 100_000, b"1" * 5000, b'{"a": 1} x', b"nan", b"{'a': 1}"]
)
def test_what_is_no_json_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"at line 1|nested too deeply"):
        parse_json(content)


def test_toml_is_read() -> None:
    text = 'a = 1\nb = "[[[ ..."\n# [ ...\n[c.d]\ne = [1.5, { f = true }]\n'
    assert parse_toml(text) == {"a": 1, "b": "[[[ ...", "c": {"d": {"e": [1.5, {"f": True}]}}}
    assert parse_toml("a = 9223372036854775807") == {"a": 2**63 - 1}


@pytest.mark.parametrize(
    "content",
    [
        *(
            "a = ",
            "a = 1\na = 2",
            "a = [" + "[" * 100_000,
            "a = " + "{a=" * 100_000,
            "a = 0x" + "f" * 5000,
        ),
        *(
            "a." * 100_000 + "a = 1",
            "x = { " + "a." * 100_000 + "a = 1 }",
            "[" + "a." * 100_000 + "a]",
            'a = "\\ud800"',
        ),
        *(
            "[a]\nb = [9223372036854775808]",
            "a = " + "{" + "a." * 90 + "a={" + "a." * 90 + "a=1}}",
            "a = " + "9" * 5000,
        ),
    ],
)
def test_what_is_no_toml_is_a_value_error_at_once(content: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match=r"at line|at end|nested too deeply|64 bits|4300"):
        parse_toml(content)
    assert time.perf_counter() - started < 2.0


def test_an_integer_that_is_too_long_is_named() -> None:
    with pytest.raises(ValueError, match=r"^'a.b.1' should be an integer of 64 bits$"):
        parse_toml("[a]\nb = [1, -9223372036854775809]")


def test_values_of_the_kind_become_a_dataclass() -> None:
    outer = checked(Outer, {**GOOD, "from a later version": 1})
    assert outer == Outer(3, {"a": 1.0, "b": "x"}, [[1.5, None]], Inner(True))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"step": -1}, "'step' should be greater than or equal to 0, and is -1"),
        ({"step": 3.0}, "'step' should be a valid integer, and is 3.0"),
        ({"step": True}, "'step' should be a valid integer, and is True"),
        ({"name": 5}, "'name' should be a valid string, and is 5"),
        ({"inner": {"flag": 1}}, "'inner.flag' should be a valid boolean, and is 1"),
        ({"inner": {}}, "'inner.flag' is missing"),
        ({"rows": [[1.0], ["x"]]}, "'rows.1.0' should be a valid number, and is 'x'"),
        ({"more": []}, r"'more' should be an object, and is \[\]"),
    ],
)
def test_a_problem_is_told_by_its_key(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}$"):
        checked(Outer, GOOD | change)


def test_what_is_no_mapping_is_told() -> None:
    with pytest.raises(ValueError, match=r"^it should be .*, and is \[1\]$"):
        checked(Outer, [1])


def test_many_problems_are_counted() -> None:
    with pytest.raises(ValueError, match=r"^'a' should .*; 'b' .*; 'c' .*; and 2 more$"):
        checked(dict[str, int], dict.fromkeys("abcde"))


def test_values_in_messages_are_short_and_printable() -> None:
    assert shortened("\x1b[31mü\ud800") == r"'\x1b[31m\xfc\ud800'"
    assert len(shortened("x" * 5000)) == LONGEST_TOLD + 1
