"""The histogram of returns, where they are few, equal, infinite or huge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offrl.data.description import BINS, return_histogram
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from tests.data.stores import SPEC


def store_of(returns: list[float], path: Path) -> TrajectoryStore:
    """Episodes of one step each."""
    rows = 2 * len(returns)
    reward = np.zeros(rows)
    reward[::2] = returns
    columns = {
        "observation": np.zeros((rows, 2), np.float32),
        "action": np.zeros((rows, 1), np.float32),
        "reward": reward,
        "terminated": np.arange(rows) % 2 == 0,
        "truncated": np.zeros(rows, np.bool_),
    }
    with StoreWriter(path, SPEC) as writer:
        writer.append(EpisodeBlock(columns, np.ones(len(returns), np.int64)))
    return TrajectoryStore.open(path)


def test_ranges_are_of_one_width_and_hold_their_lower_ends(tmp_path: Path) -> None:
    counts, edges = return_histogram(store_of([0.0, 1.0, 11.5, 12.0], tmp_path / "s"))
    assert edges == list(range(13))
    assert counts == [1, 1, *[0] * 9, 2]


@pytest.mark.parametrize(
    "returns", [[0.3, 0.1 + 0.2, 0.3], [0.0, 5e-324], [1e17, 1e17 + 16], [-3.0], [1.7e308, np.nextafter(1.7e308, 0)]]
)
def test_returns_that_are_equal_but_for_rounding_share_a_range(returns: list[float], tmp_path: Path) -> None:
    counts, edges = return_histogram(store_of(returns, tmp_path / "s"))
    assert sorted(counts) == [*[0] * (BINS - 1), len(returns)]
    assert edges[0] < min(returns) <= max(returns) < edges[-1]


def test_the_widest_range_does_not_overflow(tmp_path: Path) -> None:
    counts, edges = return_histogram(store_of([-1.7e308, 1.7e308], tmp_path / "s"))
    assert (counts[0], counts[-1], sum(counts)) == (1, 1, 2)
    assert np.isfinite(edges).all()


def test_no_finite_return_is_in_no_range(tmp_path: Path) -> None:
    counts, edges = return_histogram(store_of([np.inf, np.nan], tmp_path / "s"))
    assert (sum(counts), len(counts), len(edges)) == (0, BINS, BINS + 1)
