"""JSON and TOML that may come from anybody."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offrl import documents
from offrl.documents import parse_json, parse_toml, read_json, read_toml
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
