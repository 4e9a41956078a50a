"""A store as a source: where transitions lie, what follows them, and both ways of fetching their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from offrl.data.store import TrajectoryStore
from offrl.replay.mapped_rows import MappedRows
from offrl.replay.row_layout import RowLayout, Transforms
from offrl.replay.source_protocols import EpisodeSource, TransitionSource
from offrl.replay.sources import PackedRows, StoreSource, common_columns
from tests.data.stores import SPEC, make_store

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    """Rows: episode 0 has 0–3, episode 1 has 4–5, episode 2 has 6–8."""
    return make_store(tmp_path / "s", [3, 1, 2], shard_bytes=100)


def make_source(store: TrajectoryStore, budget: int, chosen: list[list[int]] | None = None) -> StoreSource:
    subsets = None if chosen is None else [np.array(episodes) for episodes in chosen]
    return StoreSource(store, RowLayout.of(SPEC), Transforms(), 2, subsets, budget, CPU)


@pytest.mark.parametrize("budget", [0, 2**20])
def test_transitions_and_what_follows(store: TrajectoryStore, budget: int) -> None:
    source = make_source(store, budget)
    assert isinstance(source, TransitionSource)
    assert isinstance(source, EpisodeSource)
    assert source.counts().tolist() == [6, 6]
    rows = source.locate(torch.arange(6).expand(1, 2, 6))
    assert rows.tolist() == [[[0, 1, 2, 4, 6, 7]] * 2]
    assert source.follow(rows[0, 0]).tolist() == [1, 2, 2, 4, 7, 7]
    assert source.last_rows(rows[0, 0]).tolist() == [2, 2, 2, 4, 7, 7]
    assert source.episode_counts().tolist() == [3, 3]
    assert source.locate_episodes(torch.tensor([[[2, 0], [1, 1]]])).tolist() == [[[6, 0], [4, 4]]]


def test_tables_are_no_wider_than_they_must_be(store: TrajectoryStore) -> None:
    rows = make_source(store, 0).locate(torch.zeros(1, 2, 1, dtype=torch.int64))
    assert rows.dtype == torch.int32


def test_each_seed_has_its_own_numbering(store: TrajectoryStore) -> None:
    source = make_source(store, 2**20, [[2], [1, 0]])
    assert source.counts().tolist() == [2, 4]
    assert source.locate(torch.tensor([[[0, 1], [0, 3]]])).tolist() == [[[6, 7], [4, 2]]]
    assert source.locate_episodes(torch.tensor([[[0], [1]]])).tolist() == [[[6], [0]]]


def test_rows_are_packed_only_within_the_budget(store: TrajectoryStore) -> None:
    needed = 9 * RowLayout.of(SPEC).row_bytes
    assert isinstance(make_source(store, needed)._rows, PackedRows)
    assert isinstance(make_source(store, needed - 1)._rows, MappedRows)


@pytest.mark.parametrize("span", [(0, 8), (0, 6), (3, 4), (4, 6), (4, 8), (0, 2)])
def test_both_ways_fetch_the_same_floats(store: TrajectoryStore, span: tuple[int, int]) -> None:
    layout = RowLayout.of(SPEC)
    packed, mapped = (kind(store, layout, Transforms(), CPU, {}) for kind in (PackedRows, MappedRows))
    rows = torch.tensor([7, 0, 0, 4, 2], dtype=torch.int32)
    assert torch.equal(packed.take(rows, *span), mapped.take(rows, *span))
    everything = packed.take(rows, 0, 8)
    assert torch.equal(everything[:, span[0] : span[1]], packed.take(rows, *span))
    following = store.gather("observation", rows.numpy().astype(np.int64) + 1)
    np.testing.assert_array_equal(everything[:, 6:], following)


def test_common_columns(store: TrajectoryStore) -> None:
    assert common_columns([store]) == []
    assert common_columns([]) == []
