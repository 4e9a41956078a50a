"""Normalization, action bounds and reward scales against hand-computed values, alike for arrays and tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offrl.data.store import EpisodeBlock, StoreWriter
from offrl.errors import RequestError
from offrl.replay.normalization import ActionMap, ObservationNormalizer, RewardScaler, observation_key
from offrl.types import Spec
from tests.data.stores import make_store


def both(function: Any, value: NDArray[Any]) -> NDArray[Any]:
    """The function's result for an array, which must be that for a tensor too, bit for bit."""
    result, tensor = function(value), function(torch.from_numpy(value))
    assert result.dtype == np.float32
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(result, tensor.numpy())
    return np.asarray(result)


def test_observations_by_hand() -> None:
    normalizer = ObservationNormalizer(np.array([1.0, -2.0]), np.array([2.0, 0.5]), eps=0.0)
    assert both(normalizer.normalize, np.array([[3.0, -2.0], [1.0, -1.0]])).tolist() == [[1, 0], [0, 2]]


def test_a_constant_component_stays_finite() -> None:
    normalizer = ObservationNormalizer(np.array([5.0]), np.array([0.0]))
    assert both(normalizer.normalize, np.array([[5.0], [5.001]])).reshape(-1) == pytest.approx([0.0, 1.0], rel=1e-3)


def test_statistics_of_a_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [30, 50])
    steps = np.concatenate([store.episode(i).observation[:-1] for i in range(2)])
    normalizer = ObservationNormalizer.from_store(store, eps=0.0)
    done = both(normalizer.normalize, steps)
    np.testing.assert_allclose(done.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(done.std(axis=0), 1.0, rtol=1e-6)
    view = ObservationNormalizer.from_store(store.select(np.array([1])))
    np.testing.assert_allclose(view.mean[""], store.episode(1).observation[:-1].mean(axis=0), rtol=1e-6)


OFFSETS = [1.7e9, 4.5e6, -(2.0**40), 3e5]
"""Unix time, a UTM coordinate in meters, a counter."""


@settings(max_examples=100, deadline=None)
@given(
    offset=st.sampled_from(OFFSETS),
    spread=st.floats(1e-2, 20.0),
    units=st.lists(st.floats(-3, 3), min_size=2, max_size=20, unique=True),
)
def test_differences_beside_a_large_offset_are_kept(offset: float, spread: float, units: list[float]) -> None:
    values = (offset + spread * np.array([[unit, 0.5] for unit in units])).astype(np.float64)
    normalizer = ObservationNormalizer(np.array([offset, offset]), np.array([spread, spread]), eps=0.0)
    done = both(normalizer.normalize, values)[:, 0]
    resolution = 2 * np.spacing(np.abs(values).max()) / spread  # of the data themselves
    np.testing.assert_allclose(done, units, rtol=1e-6, atol=1e-6 + resolution)


@settings(max_examples=100, deadline=None)
@given(mean=st.floats(-1e3, 1e3), std=st.floats(0.2, 10.0), values=st.lists(st.floats(-1e3, 1e3), min_size=1))
def test_usual_columns_are_normalized_in_single_precision(mean: float, std: float, values: list[float]) -> None:
    normalizer = ObservationNormalizer(np.array([mean]), np.array([std]))
    raw = np.array(values)[:, None]
    expected = (raw.astype(np.float32) - np.float32(mean)) / (np.float32(std) + np.float32(1e-3))
    np.testing.assert_array_equal(both(normalizer.normalize, raw), expected)
    assert normalizer.input_dtype("") == np.float32


@pytest.mark.parametrize(("dtype", "wide"), [(np.float64, True), (np.int64, True), (np.float32, False)])
@pytest.mark.parametrize("constant", [True, False])
def test_offsets_cost_only_columns_that_can_hold_more(tmp_path: Path, dtype: Any, wide: bool, constant: bool) -> None:
    times = np.full(60, 1_700_000_000) if constant else 1_700_000_000 + np.arange(60)
    columns: dict[str, NDArray[Any]] = {
        "observation": times.astype(dtype)[:, None],
        "action": np.zeros(60, np.int64),
        "reward": np.zeros(60),
        "terminated": np.zeros(60, np.bool_),
        "truncated": np.arange(60) == 58,
    }
    space = spaces.Box(-np.inf, np.inf, (1,), dtype) if dtype != np.int64 else spaces.Box(0, 2**62, (1,), dtype)
    with StoreWriter(tmp_path / "s", Spec(space, spaces.Discrete(2))) as writer:
        writer.append(EpisodeBlock(columns, np.array([59])))
    normalizer = ObservationNormalizer.from_store(writer.close())
    assert normalizer.input_dtype("") == (np.float64 if wide and not constant else np.float32)
    if wide and not constant:
        done = both(normalizer.normalize, columns["observation"])
        np.testing.assert_allclose(np.diff(done[:, 0]), 1 / np.arange(59).std(), rtol=1e-3)
        again = ObservationNormalizer.from_named_tensors(normalizer.named_tensors())
        np.testing.assert_array_equal(both(again.normalize, columns["observation"]), done)


def test_nested_observations_leave_images_and_choices_alone(tmp_path: Path) -> None:
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (2, 2), np.uint8),
            "phase": spaces.Discrete(5),
            "arm": spaces.Dict({"q": spaces.Box(-9, 9, (2,), np.float64)}),
        }
    )
    columns: dict[str, NDArray[Any]] = {
        "observation.image": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
        "observation.phase": np.array([1, 4, 2]),
        "observation.arm.q": np.array([[1.0, 2.0], [3.0, 2.0], [100.0, 100.0]]),
        "action": np.array([1, 0, 0]),
        "reward": np.zeros(3),
        "terminated": np.zeros(3, np.bool_),
        "truncated": np.array([False, True, False]),
    }
    with StoreWriter(tmp_path / "s", Spec(space, spaces.Discrete(2))) as writer:
        writer.append(EpisodeBlock(columns, np.array([2])))
    normalizer = ObservationNormalizer.from_store(writer.close(), eps=0.0)
    assert {key: value.tolist() for key, value in normalizer.mean.items()} == {"arm.q": [2.0, 2.0]}
    observation = {name.removeprefix("observation."): array for name, array in columns.items() if "obs" in name}
    done = normalizer.normalize({key: torch.from_numpy(value) for key, value in observation.items()})
    assert done["arm.q"][:2, 0].tolist() == [-1.0, 1.0]
    np.testing.assert_array_equal(done["image"], observation["image"])
    assert done["image"].dtype == torch.uint8
    np.testing.assert_array_equal(done["phase"], observation["phase"])


def test_a_normalizer_comes_back_from_its_tensors() -> None:
    normalizer = ObservationNormalizer({"a.mean.b": np.array([0.1])}, {"a.mean.b": np.array([0.3])}, eps=0.25)
    again = ObservationNormalizer.from_named_tensors(normalizer.named_tensors())
    value = {"a.mean.b": np.array([7.7], np.float32)}
    assert again.normalize(value)["a.mean.b"] == normalizer.normalize(value)["a.mean.b"]
    assert again.eps == 0.25
    flat = ObservationNormalizer(np.array([0.1, 3.0]), np.array([0.3, 1.0]))
    again = ObservationNormalizer.from_named_tensors(flat.named_tensors())
    np.testing.assert_array_equal(again.normalize(np.ones(2)), flat.normalize(np.ones(2)))


def test_keys_of_columns() -> None:
    assert [observation_key(name) for name in ("observation", "observation.a.b")] == ["", "a.b"]


def test_actions_by_hand() -> None:
    low, high = np.array([-1, 0, -np.inf, -2, 3], np.float32), np.array([1, 10, np.inf, np.inf, 3], np.float32)
    action_map = ActionMap(low, high)
    raw = np.array([[0.5, 2.5, 7.0, 9.0, 3.0]], np.float32)
    unit = both(action_map.to_unit, raw)
    assert unit.tolist() == [[0.5, -0.5, 7.0, 9.0, 0.0]]
    assert both(action_map.from_unit, unit).tolist() == raw.tolist()
    assert both(action_map.from_unit, np.array([[2.0, 2.0, 2.0, -3.0, 1.0]])).tolist() == [[1, 10, 2, -2, 3]]
    assert action_map.log_volume == pytest.approx(np.log(5.0))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.01, 1e3)), min_size=1, max_size=4),
    st.floats(-1, 1),
)
def test_actions_there_and_back(bounds: list[tuple[float, float]], unit: float) -> None:
    low = np.array([start for start, _ in bounds], np.float32)
    high = np.array([start + width for start, width in bounds], np.float32)
    action_map = ActionMap.from_space(spaces.Box(low, high, dtype=np.float32))
    units = np.full((1, len(bounds)), unit, np.float32)
    raw = both(action_map.from_unit, units)
    assert (raw >= low).all()
    assert (raw <= high).all()
    # One unit in the last place of a bound is this much of the interval.
    resolution = np.maximum(np.abs(low), np.abs(high)) / (high - low) * 2**-20
    assert (np.abs(both(action_map.to_unit, raw) - units) <= resolution + 1e-6).all()
    np.testing.assert_allclose(both(action_map.to_unit, low[None]), -1.0, atol=float(resolution.max()) + 1e-6)


@pytest.mark.parametrize(("low", "high", "fits"), [(1e6, 1e6 + 1, False), (1000.0, 1001.0, True), (5e7, 5e7, True)])
def test_bounds_that_single_precision_cannot_tell_apart_are_refused(low: float, high: float, fits: bool) -> None:
    space = spaces.Box(np.array([-1.0, low]), np.array([1.0, high]), dtype=np.float64)
    if fits:
        assert ActionMap.from_space(space).to_unit(np.array([1.0, low]))[0] == 1
        return
    with pytest.raises(RequestError, match=r"from 1000000\.0 to 1000001\.0") as raised:
        ActionMap.from_space(space)
    assert "component 1" in raised.value.what


def test_the_map_of_a_matrix_of_actions_is_flat() -> None:
    action_map = ActionMap.from_space(spaces.Box(-2.0, 4.0, (2, 3), np.float64))
    assert action_map.low.shape == (6,)
    assert action_map.low.dtype == np.float32
    with pytest.raises(RequestError, match="Discrete"):
        ActionMap.from_space(spaces.Discrete(3))  # type: ignore[arg-type]


def test_rewards_by_hand() -> None:
    scaler = RewardScaler(scale=0.5, shift=-1.0)
    assert both(scaler, np.array([2.0, 6.0], np.float32)).tolist() == [0.0, 2.0]
