"""What is written as TOML is read back."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from offrl.config.toml import write_toml


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"a": 1, "b": 2.5, "c": True, "d": 'quo"te\\\x7f😀', "e": [1, 2], "f": [], "g": -1e-300},
        {"section": {"a": [["x"], []], "inline": {"b": {"c": 1}, "d": []}}, "after": 1},
        {
            "section": {
                "long": {f"key{i}": "x" * i for i in range(20)},
                "after": 1,
                "deep": {"er": {"est": ["y" * 150]}},
            }
        },
        {"items": [{"a": 1, "b": {"c": 2}}, {}, {"a": 3}], "z": {"y": 1}},
    ],
)
def test_values_survive(values: dict[str, Any]) -> None:
    assert tomllib.loads(write_toml(values)) == values


def test_sections_come_after_values_each_under_its_header() -> None:
    text = write_toml({"first": {"a": 1}, "b": 2, "many": [{"c": 3}, {"c": 4}]})
    assert text == "b = 2\n\n[first]\na = 1\n\n[[many]]\nc = 3\n\n[[many]]\nc = 4\n"


def test_a_long_inner_mapping_is_a_section_of_its_own() -> None:
    text = write_toml({"agent": {"inner": {"a": "x" * 100, "b": 1}, "c": 2, "short": {"d": 3}}})
    assert text == f'\n[agent]\nc = 2\nshort = {{ d = 3 }}\n\n[agent.inner]\na = "{"x" * 100}"\nb = 1\n'
