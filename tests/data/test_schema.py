"""Spaces and metadata survive the way to JSON and back."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offrl.data.schema import (
    SCHEMA_VERSION,
    ColumnSpec,
    ShardRecord,
    StoreMetadata,
    flatten_space,
    flatten_value,
    required_columns,
    space_from_json,
    space_to_json,
    unflatten_value,
)
from offrl.data.statistics import ColumnStatistics
from offrl.errors import CorruptStoreError, DataError, RequestError, SchemaVersionError
from offrl.types import Spec

KEYS = st.text("abc_/", min_size=1, max_size=3)


def boxes() -> st.SearchStrategy[gym.Space[Any]]:
    shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
    bounds = st.sampled_from([(-1.0, 1.0), (-np.inf, np.inf), (0.1, np.inf), (-np.inf, 1e-300), (1 / 3, 2 / 3)])
    floats = st.builds(
        lambda shape, bound, dtype: spaces.Box(bound[0], bound[1], shape, dtype=dtype),
        shapes,
        bounds,
        st.sampled_from([np.float32, np.float64]),
    )
    images = shapes.map(lambda shape: spaces.Box(0, 255, shape, np.uint8))
    wide = st.integers(-(2**62), 2**62 - 1).map(lambda n: spaces.Box(n, 2**62, (2,), np.int64))
    return st.one_of(floats, images, wide)


def leaves() -> st.SearchStrategy[gym.Space[Any]]:
    return st.one_of(
        boxes(),
        st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-3, 3)),
        st.lists(st.integers(1, 5), min_size=1, max_size=3).map(spaces.MultiDiscrete),
        st.integers(1, 4).map(spaces.MultiBinary),
        st.just(spaces.MultiBinary([2, 3])),
    )


def all_spaces() -> st.SearchStrategy[gym.Space[Any]]:
    return st.recursive(
        leaves(),
        lambda inner: st.one_of(
            st.dictionaries(KEYS, inner, min_size=1, max_size=3).map(lambda d: spaces.Dict(list(d.items()))),
            st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        ),
        max_leaves=5,
    )


@settings(max_examples=150, deadline=None)
@given(all_spaces())
def test_any_space_comes_back_equal(space: gym.Space[Any]) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert space_from_json(json.loads(text)) == space


def test_bounds_that_differ_are_kept_one_by_one() -> None:
    space = spaces.Box(np.array([[-1, 0.1]], np.float32), np.array([[np.inf, 0.3]], np.float32))
    encoded = space_to_json(space)
    assert encoded["high"] == ["inf", pytest.approx(0.3)]
    assert space_from_json(encoded) == space


def test_a_space_without_a_fixed_shape_is_refused() -> None:
    with pytest.raises(RequestError, match="Text"):
        space_to_json(spaces.Dict({"a": spaces.Text(5)}))


def test_nested_spaces_become_dotted_columns() -> None:
    space = spaces.Dict(
        {
            "camera": spaces.Dict({"left": spaces.Box(0, 255, (2, 2), np.uint8)}),
            "pair": spaces.Tuple([spaces.Discrete(2)]),
        }
    )
    assert list(flatten_space(space, "observation")) == ["observation.camera.left", "observation.pair.0"]
    spec = Spec(space, spaces.Discrete(3))
    assert list(required_columns(spec))[2:] == ["action", "reward", "terminated", "truncated"]


def test_columns_that_would_share_a_name_are_refused() -> None:
    space = spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})})
    with pytest.raises(RequestError, match=r"observation\.a\.b"):
        flatten_space(space, "observation")


@settings(max_examples=50, deadline=None)
@given(all_spaces(), st.integers(0, 2**31))
def test_values_flatten_and_unflatten(space: gym.Space[Any], seed: int) -> None:
    space.seed(seed)
    value = space.sample()
    columns = flatten_value(space, value, "observation")
    assert set(columns) == set(flatten_space(space, "observation"))
    again = unflatten_value(space, columns, "observation")
    assert flatten_value(space, again, "observation").keys() == columns.keys()
    for name, array in flatten_value(space, again, "observation").items():
        np.testing.assert_array_equal(array, columns[name])


def test_a_value_nested_otherwise_is_refused() -> None:
    space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(2)})
    with pytest.raises(DataError, match=r"parts a, c, its space has a, b"):
        flatten_value(space, {"a": 0, "c": 1}, "observation")


def make_metadata() -> StoreMetadata:
    return StoreMetadata(
        spec=Spec(spaces.Box(-np.inf, np.inf, (3,), np.float64), spaces.Discrete(4)),
        columns=(ColumnSpec("reward", np.dtype(np.float32), ()),),
        shards=(ShardRecord("00000", 5, 2, 100, "aa", 50, "bb"), ShardRecord("00001", 5, 2, 100, "cc", 50, "dd")),
        statistics={"reward": ColumnStatistics.of(np.array([1.0, np.nan]))},
        name="n",
        environment="Hopper-v5",
        provenance={"command": ["a", 1]},
        reference_scores={"random": 1.0, "expert": 2.0},
    )


def test_metadata_comes_back() -> None:
    metadata = make_metadata()
    text = json.dumps(metadata.to_json(), allow_nan=False)
    again = StoreMetadata.from_json(json.loads(text), "m")
    assert json.dumps(again.to_json()) == text
    assert again.columns == metadata.columns
    assert again.shards == metadata.shards


def test_another_schema_version_names_both_and_gives_a_hint() -> None:
    value = make_metadata().to_json() | {"schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(SchemaVersionError) as caught:
        StoreMetadata.from_json(value, "dir/metadata.json")
    text = str(caught.value)
    assert f"version {SCHEMA_VERSION + 1}" in text
    assert f"version {SCHEMA_VERSION}\n" in text
    assert "dir/metadata.json" in text
    assert "newer offrl" in text


@pytest.mark.parametrize(("version", "says"), [("1", "'1'"), (None, "no schema version"), (True, "True"), (1.0, "1.0")])
def test_a_schema_version_that_is_not_exactly_the_known_one_is_refused(version: Any, says: str) -> None:
    value = make_metadata().to_json() | {"schema_version": version}
    with pytest.raises(SchemaVersionError, match=f"{says}.*\n.*\n.*convert the source again"):
        StoreMetadata.from_json(value, "m")
    del value["schema_version"]
    with pytest.raises(SchemaVersionError, match="no schema version"):
        StoreMetadata.from_json(value, "m")


@pytest.mark.parametrize(
    ("key", "item"),
    [
        *((key, item) for key in ("rows", "episodes", "rows_bytes", "episodes_bytes") for item in ("5", -1, 2.0, None)),
        *((key, item) for key in ("name", "rows_sha256", "episodes_sha256") for item in (5, None)),
        ("rows", True),
        ("name", "../00000"),
    ],
)
def test_a_shard_record_of_another_kind_is_corrupt(key: str, item: Any) -> None:
    value = json.loads(json.dumps(make_metadata().to_json()))
    value["shards"][1][key] = item
    with pytest.raises(CorruptStoreError, match=f"'shards.1.{key}'"):
        StoreMetadata.from_json(value, "m")


@pytest.mark.parametrize(
    ("key", "item"),
    [
        ("name", 3),
        ("environment", ["Hopper-v5"]),
        ("provenance", "by hand"),
        ("reference_scores", None),
        ("action_space", {"type": "Discrete", "n": -4, "start": 0}),
    ],
)
def test_metadata_of_another_kind_is_corrupt(key: str, item: Any) -> None:
    with pytest.raises(CorruptStoreError, match="can't be understood"):
        StoreMetadata.from_json(make_metadata().to_json() | {key: item}, "m")


@pytest.mark.parametrize("key", ["columns", "shards", "observation_space", "statistics", "name"])
def test_metadata_with_something_missing_is_corrupt(key: str) -> None:
    value = make_metadata().to_json()
    del value[key]
    with pytest.raises(CorruptStoreError, match=key):
        StoreMetadata.from_json(value, "m")


@pytest.mark.parametrize(
    "value", [None, [], 3, {"schema_version": SCHEMA_VERSION}, {"schema_version": SCHEMA_VERSION, "columns": 3}]
)
def test_metadata_that_is_something_else_is_corrupt(value: Any) -> None:
    with pytest.raises(CorruptStoreError):
        StoreMetadata.from_json(value, "m")


def test_the_fingerprint_names_content_and_order() -> None:
    from dataclasses import replace

    metadata = make_metadata()
    assert metadata.fingerprint == replace(metadata, name="other", provenance={}).fingerprint
    assert metadata.fingerprint != replace(metadata, shards=metadata.shards[::-1]).fingerprint
    assert metadata.fingerprint != replace(metadata, columns=()).fingerprint
    assert metadata.fingerprint != replace(metadata, statistics={}).fingerprint
    former = replace(metadata, fingerprint_version=1)
    assert former.fingerprint == replace(former, statistics={}).fingerprint != metadata.fingerprint
