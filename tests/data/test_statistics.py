"""Column statistics against NumPy over all rows at once."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offrl.data import statistics
from offrl.data.statistics import ColumnStatistics


def check(found: ColumnStatistics, rows: NDArray[Any]) -> None:
    rows = rows.astype(np.float64)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, rows.std(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.min, rows.min(axis=0))
    np.testing.assert_array_equal(found.max, rows.max(axis=0))
    assert found.count == len(rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 3))
def test_blocks_merge_as_if_computed_at_once(seed: int, sizes: list[int], width: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (width,) if width else ()
    blocks = [(rng.standard_normal((size, *shape)) * 10 + 1000).astype(np.float32) for size in sizes]
    total = ColumnStatistics.empty(shape)
    for block in blocks:
        total = total.merge(ColumnStatistics.of(block))
    check(total, np.concatenate(blocks))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 6), min_size=1, max_size=8), st.sampled_from([8, 64, 2**18]))
def test_final_rows_do_not_count(seed: int, lengths: list[int], chunk_bytes: int) -> None:
    ends = np.cumsum(np.array(lengths) + 1)
    values = np.random.default_rng(seed).standard_normal((ends[-1], 2))
    values[ends - 1] = 1e9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_CHUNK_BYTES", chunk_bytes)
        found = ColumnStatistics.of(values, skip=ends - 1)
    check(found, np.delete(values, ends - 1, axis=0))


def test_a_large_mean_costs_no_digits() -> None:
    values = 1e9 + np.tile([0.0, 1.0], 50_000)
    assert ColumnStatistics.of(values).std == pytest.approx(0.5, rel=1e-9)


def test_images_are_described_by_one_number() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
    found = ColumnStatistics.of(images, skip=np.array([6]))
    assert found.mean.shape == ()
    assert found.mean == pytest.approx(images[:6].mean())
    assert found.std == pytest.approx(images[:6].std())
    assert (found.min, found.max) == (images[:6].min(), images[:6].max())
    both = found.merge(ColumnStatistics.of(images[6:]))
    assert both.std == pytest.approx(images.std())


def test_json_keeps_every_bit_and_nan() -> None:
    found = ColumnStatistics.of(np.array([[0.1, np.nan], [1 / 3, 2.0]]))
    text = json.dumps(found.to_json(), allow_nan=False)
    again = ColumnStatistics.from_json(json.loads(text))
    for name in ("mean", "squares", "min", "max"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert again.count == 2
    empty = ColumnStatistics.from_json(json.loads(json.dumps(ColumnStatistics.empty((2,)).to_json())))
    assert empty.min.tolist() == [np.inf, np.inf]
