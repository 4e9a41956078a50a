"""Episodes as a table: a row for each time step, and what its cells hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces

from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.types import Spec

CAMERA = spaces.Box(0, 255, (2, 2, 3), np.uint8)
SPEC = Spec(spaces.Dict({"camera": CAMERA, "speed": spaces.Box(-1, 1, (2,), np.float32)}), spaces.Discrete(4))
FINAL = np.array([2, 4])
"""The rows of the two episodes' final observations, of 2 steps and of 1."""


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    columns = {
        "observation.camera": np.arange(60, dtype=np.uint8).reshape(5, 2, 2, 3),
        "observation.speed": np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2),
        "action": np.array([3, 1, 0, 2, 0]),
        "reward": np.array([0.5, -1, 0, 2, 0]),
        "terminated": np.array([False, True, False, False, False]),
        "truncated": np.array([False, False, False, True, False]),
        "info.count": np.array([9, 8, 7, 6, 5], np.uint32),
    }
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(EpisodeBlock(columns, np.array([2, 1])))
    return TrajectoryStore.open(tmp_path / "s")


def test_a_row_for_each_transition(store: TrajectoryStore) -> None:
    table = store.to_pandas()
    assert list(table) == [
        *("episode", "step", "observation.camera", "observation.speed.0", "observation.speed.1"),
        *("action", "reward", "terminated", "truncated", "info.count"),
    ]
    assert table["episode"].tolist() == [0, 0, 1]
    assert table["step"].tolist() == [0, 1, 0]
    assert table["action"].tolist() == [3, 1, 2]
    assert table["reward"].tolist() == [0.5, -1, 2]
    assert table["terminated"].tolist() == [False, True, False]
    assert table["info.count"].tolist() == [9, 8, 6]
    kinds = {"observation.speed.0": np.float32, "action": np.int64, "terminated": np.bool_, "info.count": np.uint32}
    assert {name: table[name].dtype for name in kinds} == kinds
    np.testing.assert_array_equal(table["observation.speed.1"], store.read("observation.speed", 0, 5)[[0, 1, 3], 1])


def test_an_image_is_one_cell(store: TrajectoryStore) -> None:
    cells = store.to_pandas()["observation.camera"]
    assert cells.dtype == object
    for cell, row in zip(cells, (0, 1, 3), strict=True):
        np.testing.assert_array_equal(cell, store.read("observation.camera", row, row + 1)[0])


def test_the_final_observation_has_a_row_without_an_action(store: TrajectoryStore) -> None:
    table = store.to_pandas(final=True)
    assert table["episode"].tolist() == [0, 0, 0, 1, 1]
    assert table["step"].tolist() == [0, 1, 2, 0, 1]
    for name in ("action", "reward", "terminated", "truncated"):
        assert np.flatnonzero(table[name].isna()).tolist() == FINAL.tolist(), name
    for name in ("observation.camera", "observation.speed.0", "info.count"):
        assert not table[name].isna().any(), name
    # What is there keeps its kind.
    assert table["action"].dropna().tolist() == [3, 1, 2]
    assert pd.api.types.is_integer_dtype(table["action"].dtype)
    assert pd.api.types.is_bool_dtype(table["terminated"].dtype)
    assert table["terminated"].sum() == 1
    np.testing.assert_array_equal(table["observation.speed.0"], store.read("observation.speed", 0, 5)[:, 0])


def test_returns_come_back_from_the_table(store: TrajectoryStore) -> None:
    for final in (False, True):
        returns = store.to_pandas(final=final).groupby("episode")["reward"].sum()
        assert returns.tolist() == store.episodes.return_.tolist()


def test_a_selection_counts_its_own_episodes(store: TrajectoryStore) -> None:
    table = store[[1, 1]].to_pandas()
    assert table["episode"].tolist() == [0, 1]
    assert table["action"].tolist() == [2, 2]
    assert len(store[:0].to_pandas()) == 0
    assert list(store[:0].to_pandas(final=True)) == list(store.to_pandas())
