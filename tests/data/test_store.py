"""The store: what is written is read back bit for bit, in every shape of block and shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offrl.data.store import StoreWriter, TrajectoryStore
from offrl.errors import DataError, DatasetNotFoundError, StoreError
from tests.data.stores import SPEC, make_block


def test_a_block_comes_back_as_it_was(tmp_path: Path) -> None:
    block = make_block([3, 1, 5])
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(block)
    store = TrajectoryStore.open(tmp_path / "s")
    assert (store.num_episodes, store.num_steps, store.num_rows) == (3, 9, 12)
    for name, array in block.columns.items():
        np.testing.assert_array_equal(store.read(name, 0, 12), array)
        assert store.read(name, 0, 12).dtype == array.dtype
    assert store.episodes.length.tolist() == [3, 1, 5]
    assert store.episodes.first_row.tolist() == [0, 4, 6]
    assert store.episodes.source(2) == "f#2"
    np.testing.assert_allclose(store.episodes.return_[1], block.columns["reward"][4])


def test_a_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="nowhere"):
        TrajectoryStore.open(tmp_path / "nowhere")


def test_an_existing_store_is_not_overwritten(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s", SPEC).close()
    with pytest.raises(StoreError, match="already"):
        StoreWriter(tmp_path / "s", SPEC)


def test_a_misaligned_column_is_refused(tmp_path: Path) -> None:
    block = make_block([3])
    block.columns["reward"] = block.columns["reward"][:-1]
    with StoreWriter(tmp_path / "s", SPEC) as writer, pytest.raises(DataError, match="'reward' has 3 rows"):
        writer.append(block)
