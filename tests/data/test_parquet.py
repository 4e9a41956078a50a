"""Parquet and back, bit for bit."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offrl.data import parquet
from offrl.data.parquet import (
    CHECKSUMS_FILE,
    EPISODES_FILE,
    STEPS_FILE,
    count_rows,
    read_metadata,
    unpack_parquet,
    write_parquet,
)
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.data.trajectories import Trajectories
from offrl.errors import DiskFullError, RequestError, SourceError
from offrl.types import Spec
from tests.data.stores import make_block, make_store

NESTED = Spec(
    gym.spaces.Dict({"camera": gym.spaces.Box(0, 255, (4, 5, 3), np.uint8), "joint": gym.spaces.Box(-1.0, 1.0, (2,))}),
    gym.spaces.Discrete(3),
)


def make_nested(path: Path) -> TrajectoryStore:
    rng = np.random.default_rng(0)
    columns = {
        "observation.camera": rng.integers(0, 256, (7, 4, 5, 3), np.uint8),
        "observation.joint": rng.uniform(-1, 1, (7, 2)).astype(np.float32),
        "action": np.array([0, 1, 2, 0, 2, 1, 0]),
        "reward": np.array([1.0, 2, 3, 0, 5, 6, 0]),
        "terminated": np.array([0, 0, 1, 0, 0, 0, 0], bool),
        "truncated": np.array([0, 0, 0, 0, 0, 1, 0], bool),
        "info.temperature": rng.standard_normal(7),
    }
    with StoreWriter(path, NESTED, environment="Toy-v0", provenance={"by": "hand"}, name="toy") as writer:
        writer.append(EpisodeBlock(columns, np.array([3, 2]), np.array([5, -1]), ["a", "b"]))
    return TrajectoryStore.open(path)


def assert_same(one: Trajectories, other: Trajectories) -> None:
    assert one.column_names == other.column_names
    for name in one.column_names:
        a, b = one.read(name, 0, one.num_rows), other.read(name, 0, other.num_rows)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.episodes.length, other.episodes.length)
    np.testing.assert_array_equal(one.episodes.seed, other.episodes.seed)
    assert one.spec == other.spec


@pytest.mark.parametrize("rows_per_group", [1, 40, 10_000])
def test_a_round_trip_changes_nothing(rows_per_group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_ROWS_PER_GROUP", rows_per_group)
    store = make_store(tmp_path / "store", [3, 17, 1, 30, 8, 2])
    write_parquet(store, tmp_path / "parquet")
    back = unpack_parquet(tmp_path / "parquet", tmp_path / "back")

    assert_same(store, back)
    assert [back.episodes.source(i) for i in range(6)] == [f"f#{i}" for i in range(6)]
    assert count_rows(tmp_path / "parquet") == (6, 61)


def test_images_nesting_and_metadata_survive(tmp_path: Path) -> None:
    store = make_nested(tmp_path / "store")
    write_parquet(store, tmp_path / "parquet")
    back = unpack_parquet(tmp_path / "parquet", tmp_path / "back")

    assert_same(store, back)
    assert read_metadata(tmp_path / "parquet").environment == back.metadata.environment == "Toy-v0"
    assert back.metadata.provenance == {"by": "hand"}
    assert back.fingerprint == store.fingerprint


def test_a_selection_is_written_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", [3, 17, 1])
    write_parquet(store.select(np.array([2, 0])), tmp_path / "parquet")
    assert_same(store.select(np.array([2, 0])), unpack_parquet(tmp_path / "parquet", tmp_path / "back"))


def test_other_tools_read_the_columns(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", [3, 4])
    write_parquet(store, tmp_path / "parquet")
    frame = pq.read_table(tmp_path / "parquet" / STEPS_FILE).to_pandas()
    np.testing.assert_array_equal(np.stack(list(frame["observation"])), make_block([3, 4]).columns["observation"])


def test_files_that_are_not_a_dataset_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", [3, 4])
    write_parquet(store, tmp_path / "parquet")
    with pytest.raises(RequestError, match="destination exists"):
        write_parquet(store, tmp_path / "parquet")
    write_parquet(store, tmp_path / "parquet", overwrite=True)
    (tmp_path / "parquet" / "notes").write_text("years of work")
    for taken in ("parquet", "store"):
        with pytest.raises(RequestError, match=r"only a folder of steps\.parquet and"):
            write_parquet(store, tmp_path / taken, overwrite=True)

    steps = tmp_path / "parquet" / STEPS_FILE
    whole = steps.read_bytes()
    for name in (STEPS_FILE, EPISODES_FILE):
        path = tmp_path / "parquet" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(SourceError, match=rf"checksum(.|\n)*{name}"):
            unpack_parquet(tmp_path / "parquet", tmp_path / "flipped")
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    # Version 0.1.0 exported no checksums.
    (tmp_path / "parquet" / CHECKSUMS_FILE).unlink()
    steps.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="can't be read"):
        unpack_parquet(tmp_path / "parquet", tmp_path / "cut")

    pq.write_table(pa.table({"observation": [1.0]}), steps)
    with pytest.raises(SourceError, match="not written by offrl"):
        unpack_parquet(tmp_path / "parquet", tmp_path / "foreign")

    (tmp_path / "parquet" / EPISODES_FILE).unlink()
    with pytest.raises(SourceError, match="can't be read"):
        unpack_parquet(tmp_path / "parquet", tmp_path / "missing")


def test_a_full_disk_leaves_nothing_and_the_export_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = make_store(tmp_path / "store", [3, 4])
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", fail)
        with pytest.raises(DiskFullError, match="run the command again"):
            write_parquet(store, tmp_path / "parquet")
    assert [path.name for path in tmp_path.iterdir() if path.name != "offrl-home"] == ["store"]
    write_parquet(store, tmp_path / "parquet")
    assert_same(store, unpack_parquet(tmp_path / "parquet", tmp_path / "back"))


def test_rows_that_what_is_stored_cannot_hold_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(make_nested(tmp_path / "store"), tmp_path / "parquet")
    monkeypatch.setattr(parquet, "_ALWAYS_UNPACKED", 0)
    unpack_parquet(tmp_path / "parquet", tmp_path / "fine")
    (tmp_path / "parquet" / CHECKSUMS_FILE).unlink()
    table = pq.read_table(tmp_path / "parquet" / STEPS_FILE)
    rows = pa.concat_tables([table.slice(0, 1)] * 200_000).combine_chunks()
    pq.write_table(rows, tmp_path / "parquet" / STEPS_FILE, compression="zstd")
    monkeypatch.setattr(parquet, "_MAX_EXPANSION", 100)
    with pytest.raises(SourceError, match="bytes declare 200,000 rows of"):
        unpack_parquet(tmp_path / "parquet", tmp_path / "bomb")
    write_parquet(make_nested(tmp_path / "again"), tmp_path / "other")
    (tmp_path / "other" / CHECKSUMS_FILE).unlink()
    episodes = pq.read_table(tmp_path / "other" / EPISODES_FILE)
    pq.write_table(pa.concat_tables([episodes] * 10), tmp_path / "other" / EPISODES_FILE)
    with pytest.raises(SourceError, match="more episodes than rows"):
        unpack_parquet(tmp_path / "other", tmp_path / "more")
