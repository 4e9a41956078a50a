"""Options and mappings that can't be."""

from __future__ import annotations

from typing import Any

import pytest

from offrl.data.convert import ConvertOptions, parse_mapping
from offrl.errors import RequestError


def test_mappings_are_read_from_text() -> None:
    texts = ["observation=x, y,vel_*", " reward = cost", "info.speed=v=2", "next_observation="]
    assert parse_mapping(texts) == {
        "observation": "x, y,vel_*",
        "reward": "cost",
        "info.speed": "v=2",
        "next_observation": "",
    }


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["reward"], "doesn't map"),
        (["=cost"], "doesn't map"),
        (["reward=a", "reward=b"], "twice"),
        (["rewards=a"], "'rewards' is not a field"),
        (["reward.a=b"], "not a field"),
    ],
)
def test_wrong_mappings_are_refused(texts: list[str], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        parse_mapping(texts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeouts": "forget"},
        {"out_of_bounds": "ignore"},
        {"time_limit": 0},
        {"action_bounds": (1.0, 1.0)},
        {"action_bounds": (0.0, float("inf"))},
        {"action_bounds": (float("nan"), 1.0)},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        ConvertOptions(**wrong)
