"""What a terminal obeys is shown as its code."""

from __future__ import annotations

import json

import pytest

from offrl.printable import in_one_line, printable, printable_json

HOSTILE = "a\x1b[31mb\x9b2Jc\u202ed\rf\x00g\x7f\u2028\udcff"
SHOWN = "a\\x1b[31mb\\x9b2Jc\\u202ed\\x0df\\x00g\\x7f\\u2028\\udcff"


def test_what_is_obeyed_is_shown_as_its_code() -> None:
    assert printable(HOSTILE) == SHOWN
    printable(HOSTILE).encode()


@pytest.mark.parametrize("text", ["", "Ünïcode — 日本語 مرحبا 👩\u200d🔬", "two\nlines\tand a tab", "C:\\x1b"])
def test_all_else_is_as_it_was(text: str) -> None:
    assert printable(text) == text


def test_a_line_makes_up_no_other() -> None:
    assert in_one_line("name\n  hint:\tdo this") == "name\\n  hint:\\tdo this"
    assert in_one_line(HOSTILE) == SHOWN


def test_json_means_the_same() -> None:
    value = {"é": HOSTILE, "b": "two\nlines"}
    text = printable_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert printable(text) == text
    assert "é" in text
