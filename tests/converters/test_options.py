"""What a user can say about a source."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offrl.converters import ConvertOptions, parse_mapping
from offrl.converters.options import check_fields
from offrl.errors import RequestError


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"timeouts": "forget"}, "forget"),
        ({"out_of_bounds": "wrap"}, "wrap"),
        ({"time_limit": 0}, "0 steps"),
        ({"time_limit": -5}, "-5 steps"),
        ({"action_bounds": (1.0, 1.0)}, "1.0 to 1.0"),
        ({"action_bounds": (2.0, -2.0)}, "2.0 to -2.0"),
        ({"action_bounds": (-float("inf"), 1.0)}, "inf"),
        ({"action_bounds": (-1.0, float("nan"))}, "nan"),
    ],
)
def test_impossible_choices_are_refused(choice: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as raised:
        ConvertOptions(**choice)
    assert says in raised.value.what
    assert raised.value.hint


def test_each_choice_of_words_is_named_in_the_hint() -> None:
    with pytest.raises(RequestError) as raised:
        ConvertOptions(timeouts="forget")  # type: ignore[arg-type]
    assert all(word in raised.value.hint for word in ("keep", "drop", "terminal"))


def test_possible_choices_are_taken() -> None:
    options = ConvertOptions(time_limit=1, action_bounds=(-0.5, 2.0), timeouts="terminal", out_of_bounds="clip")
    assert (options.time_limit, options.action_bounds) == (1, (-0.5, 2.0))


def test_pickles_are_refused_unless_told_otherwise() -> None:
    assert ConvertOptions().allow_pickle is False


def test_a_mapping_is_read_from_text() -> None:
    mapping = parse_mapping(["observation=x, y,vel_*", " action = torque ", "truncated=", "info.a.b=q=1"])
    assert mapping == {"observation": "x, y,vel_*", "action": "torque", "truncated": "", "info.a.b": "q=1"}


@pytest.mark.parametrize("text", ["reward", "=cost", "", " = "])
def test_text_that_maps_nothing_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="map anything") as raised:
        parse_mapping([text])
    assert "field=column" in raised.value.hint


def test_a_field_is_mapped_once() -> None:
    with pytest.raises(RequestError, match="'reward' is mapped twice"):
        parse_mapping(["reward=a", "reward=b"])


@pytest.mark.parametrize(
    "field", ["rewards", "reward.x", "episode.id", "observations", "done", "info.", "observation."]
)
def test_an_unknown_field_is_answered_with_those_there_are(field: str) -> None:
    with pytest.raises(RequestError, match="not a field") as raised:
        parse_mapping([f"{field}=column"])
    assert field in raised.value.what
    assert "terminated" in raised.value.hint


@given(
    st.dictionaries(
        st.sampled_from(["observation", "action.left", "info.x", "reward", "episode", "behavior_prob"]),
        st.text("abc_*,=. ", max_size=8).map(str.strip),
    )
)
def test_any_mapping_survives_as_text(mapping: dict[str, str]) -> None:
    check_fields(mapping)
    assert parse_mapping([f"{field}={columns}" for field, columns in mapping.items()]) == mapping
