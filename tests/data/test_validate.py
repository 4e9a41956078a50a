"""Validation finds each kind of damage, and says where it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from offrl.data.metadata_file import METADATA_FILE
from offrl.data.schema import ColumnSpec, StoreMetadata
from offrl.data.shard import EPISODE_COLUMNS
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.data.validate import Finding, validate
from offrl.errors import CorruptStoreError
from offrl.types import Spec
from tests.data.stores import SPEC, make_block, make_store
from tests.replay.test_sampler import mixed_store

LENGTHS = [3, 4, 30, 2]
"""Two shards: rows 0–39 hold episodes 0–2 (first rows 0, 4, 9), rows 40–42 episode 3."""


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    store = make_store(tmp_path / "s", LENGTHS, shard_bytes=40 * 22)
    assert [shard.rows for shard in store.metadata.shards] == [40, 3]
    return store


def damage(store: TrajectoryStore, file: str, column: str, position: Any, value: Any) -> None:
    """Change one value of a column in place, as a disk or a program that knows no better would."""
    path = store.path / file
    with pa.memory_map(str(path)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
        source.seek(0)
        start = batch.column(column).buffers()[-1].address - source.read_buffer(1).address
    specs = {c.name: (c.dtype, c.shape) for c in (*store.metadata.columns, *EPISODE_COLUMNS)}
    dtype, shape = specs[column]
    values = np.memmap(path, dtype, "r+", start, (batch.num_rows, *shape))
    values[position] = value
    values.flush()


def found(store: TrajectoryStore) -> dict[tuple[str, str | None], Finding]:
    """Findings of a fresh look at the store, besides the checksum's, by code and column."""
    findings = validate(TrajectoryStore.open(store.path))
    assert any(finding.code == "checksum" for finding in findings)
    return {(f.code, f.column): f for f in findings if f.code != "checksum"}


def test_good_stores_have_no_findings(store: TrajectoryStore, tmp_path: Path) -> None:
    assert validate(store) == []
    assert validate(mixed_store(tmp_path / "mixed")) == []
    assert validate(make_store(tmp_path / "empty", [])) == []


def test_a_changed_file_is_named(store: TrajectoryStore) -> None:
    path = store.path / "shards" / "00001.arrow"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    (first, *_) = validate(store)
    assert (first.severity, first.code, first.shard) == ("error", "checksum", "shards/00001.arrow")
    assert "shards/00001.arrow" in first.where


def test_a_file_that_went_missing_is_named(store: TrajectoryStore) -> None:
    (store.path / "episodes" / "00001.arrow").unlink()
    codes = [(finding.code, finding.shard) for finding in validate(store)]
    assert ("unreadable", "episodes/00001.arrow") in codes


def test_not_a_number_and_infinity(store: TrajectoryStore) -> None:
    damage(store, "shards/00000.arrow", "reward", [5, 6], np.nan)
    damage(store, "shards/00001.arrow", "observation", (2, 1), np.inf)
    findings = found(store)
    nan, infinity = findings["nan", "reward"], findings["infinity", "observation"]
    assert (nan.count, nan.row, nan.episode, nan.step, nan.severity) == (2, 5, 1, 1, "error")
    assert (infinity.count, infinity.row, infinity.episode, infinity.step) == (1, 42, 3, 2)
    assert infinity.where == "column observation, episode 3, step 2, row 42, file shards/00001.arrow"
    # A sum with NaN differs from the one that was committed.
    assert findings["return", None].episode == 1
    assert set(findings) == {("nan", "reward"), ("infinity", "observation"), ("return", None)}


def test_what_is_not_finite_in_an_info_is_a_warning(tmp_path: Path) -> None:
    block = make_block([3])
    block.columns["info.speed"] = np.array([1.0, np.nan, np.inf, 2.0])
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(block)
    findings = validate(writer.close())
    assert [(item.severity, item.code, item.column, item.row) for item in findings] == [
        ("warning", "nan", "info.speed", 1),
        ("warning", "infinity", "info.speed", 2),
    ]


def test_counts_add_up_over_shards(store: TrajectoryStore) -> None:
    damage(store, "shards/00000.arrow", "observation", (4, 0), np.nan)
    damage(store, "shards/00001.arrow", "observation", (0, 0), np.nan)
    (finding,) = found(store).values()
    assert (finding.count, finding.row) == (2, 4)


def test_actions_out_of_bounds(store: TrajectoryStore) -> None:
    damage(store, "shards/00001.arrow", "action", 1, 3.5)
    (finding,) = found(store).values()
    assert (finding.code, finding.column, finding.severity) == ("bounds", "action", "error")
    assert (finding.row, finding.episode, finding.step) == (41, 3, 1)


def test_final_rows_that_are_not_zero(store: TrajectoryStore) -> None:
    damage(store, "shards/00000.arrow", "action", 8, 0.5)
    (finding,) = found(store).values()
    assert (finding.code, finding.column, finding.row, finding.episode, finding.step) == ("padding", "action", 8, 1, 4)


def test_a_flag_in_a_final_row_is_padding_that_is_not_zero(store: TrajectoryStore) -> None:
    damage(store, "shards/00000.arrow", "truncated", 8, True)
    assert list(found(store)) == [("padding", "truncated")]


def test_flags_inside_an_episode(store: TrajectoryStore) -> None:
    damage(store, "shards/00000.arrow", "terminated", 12, True)
    (finding,) = found(store).values()
    assert (finding.code, finding.column, finding.row, finding.episode) == ("flag", "terminated", 12, 2)


def test_an_episode_without_an_end(store: TrajectoryStore) -> None:
    damage(store, "shards/00001.arrow", "truncated", 1, False)
    (finding,) = found(store).values()
    assert (finding.code, finding.episode, finding.step) == ("end", 3, 1)


def test_both_flags_are_a_warning(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [3])
    damage(store, "shards/00000.arrow", "truncated", 2, True)
    (finding,) = found(store).values()
    assert (finding.code, finding.severity, finding.episode) == ("both-flags", "warning", 0)


def test_returns_that_are_not_the_sum(store: TrajectoryStore) -> None:
    damage(store, "episodes/00000.arrow", "return", 2, 123.0)
    (finding,) = found(store).values()
    assert (finding.code, finding.episode) == ("return", 2)
    assert "123" in finding.message


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("length", 5, "42 rows, the shard has 40"), ("first_row", 3, "back to back")],
)
def test_a_table_that_does_not_fit_the_rows(store: TrajectoryStore, column: str, value: int, message: str) -> None:
    damage(store, "episodes/00000.arrow", column, 0, value)
    (finding,) = found(store).values()
    assert (finding.code, finding.shard) == ("alignment", "episodes/00000.arrow")
    assert message in finding.message


def discrete_store(path: Path, observation: NDArray[Any], space: spaces.Space[Any]) -> TrajectoryStore:
    columns = {
        "observation": observation,
        "action": np.array([2, 4, 0]),
        "reward": np.zeros(3),
        "terminated": np.array([False, True, False]),
        "truncated": np.zeros(3, np.bool_),
    }
    with StoreWriter(path, Spec(space, spaces.Discrete(3, start=2))) as writer:
        writer.append(EpisodeBlock(columns, np.array([2])))
    return writer.close()


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (spaces.Discrete(3), [0, 1, 2], [0, 1, 3]),
        (spaces.Discrete(3, start=-1), [-1, 0, 1], [2, 0, 1]),
        (spaces.MultiDiscrete([2, 3]), [[1, 2], [0, 0], [1, 1]], [[1, 2], [2, 0], [1, 1]]),
        (spaces.MultiBinary(2), [[1, 0], [0, 0], [1, 1]], [[1, 0], [0, 2], [1, 1]]),
        (spaces.Box(0, 9, (1,), np.int32), [[0], [9], [3]], [[0], [10], [3]]),
    ],
)
def test_choices_out_of_range(tmp_path: Path, space: spaces.Space[Any], good: list[Any], bad: list[Any]) -> None:
    assert validate(discrete_store(tmp_path / "good", np.array(good, space.dtype), space)) == []
    (finding,) = validate(discrete_store(tmp_path / "bad", np.array(bad, space.dtype), space))
    assert (finding.code, finding.column, finding.severity, finding.count) == ("bounds", "observation", "error", 1)


def test_observations_out_of_bounds_are_a_warning(tmp_path: Path) -> None:
    space = spaces.Box(-0.1, 0.1, (1,), np.float32)
    # 0.1 in float64 is less than 0.1 in float32: no finding, however the comparison is made; the other way round too.
    good = np.array([[0.1], [-0.1], [float(np.float32(0.1))]])
    assert validate(discrete_store(tmp_path / "good", good, space)) == []
    (finding,) = validate(discrete_store(tmp_path / "bad", good * 1.01, space))
    assert (finding.code, finding.severity, finding.count) == ("bounds", "warning", 3)


def test_large_shards_are_checked_to_the_end(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [140_000, 3])
    assert validate(store) == []
    damage(store, "shards/00000.arrow", "observation", (139_999, 0), np.nan)
    (finding,) = found(store).values()
    assert (finding.row, finding.episode, finding.count) == (139_999, 0, 1)


def test_any_changed_byte_of_a_file_is_found(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [3, 4])
    rng = np.random.default_rng(0)
    for name in ("shards/00000.arrow", "episodes/00000.arrow"):
        path = store.path / name
        good = path.read_bytes()
        for position in rng.choice(len(good), 40, replace=False):
            bad = bytearray(good)
            bad[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            assert validate(TrajectoryStore.open(store.path))[0].code == "checksum"
        path.write_bytes(good)
    assert validate(TrajectoryStore.open(store.path)) == []


def test_masks_that_forbid_everything(tmp_path: Path) -> None:
    mixed = mixed_store(tmp_path / "mixed")
    (first, second) = mixed.metadata.shards
    assert not mixed.read("action_mask", first.rows - 1, first.rows).any()
    for shard in (first, second):
        damage(mixed, shard.rows_file, "action_mask", 1, False)
    finding = found(mixed)["mask", "action_mask"]
    assert (finding.severity, finding.count, finding.episode, finding.row, finding.step) == ("error", 2, 0, 1, 1)


def test_masks_that_forbid_what_was_done(tmp_path: Path) -> None:
    mixed = mixed_store(tmp_path / "mixed")
    shard = mixed.metadata.shards[0]
    assert validate(mixed) == []
    taken = int(mixed.read("action", 2, 3)[0])
    damage(mixed, shard.rows_file, "action_mask", 2, np.arange(3) != taken)
    finding = found(mixed)["forbidden", "action_mask"]
    assert (finding.severity, finding.count, finding.episode, finding.row, finding.step) == ("error", 1, 0, 2, 2)


def rewrite(path: Path, metadata: dict[str, Any]) -> None:
    path.write_text(json.dumps(metadata))
    TrajectoryStore.open(path.parent)


@pytest.mark.parametrize(
    ("column", "part", "value"),
    [("observation", "mean", [1, 2]), ("reward", "max", [99.0]), ("length", "count", 7), ("action", None, None)],
)
def test_recorded_statistics_that_are_not_those_of_the_rows(
    store: TrajectoryStore, column: str, part: str | None, value: Any
) -> None:
    path = store.path / METADATA_FILE
    metadata = json.loads(path.read_text())
    if part is None:
        del metadata["statistics"][column]
    else:
        metadata["statistics"][column][part] = value
    with pytest.raises(CorruptStoreError, match="statistics"):
        rewrite(path, metadata)
    # Version 0.1.0 had no statistics in its fingerprints, and no checksum beside them.
    del metadata["checksum"]
    metadata["fingerprint_version"] = 1
    metadata["fingerprint"] = StoreMetadata.from_json(metadata, str(path)).fingerprint
    rewrite(path, metadata)
    (finding,) = validate(TrajectoryStore.open(store.path))
    assert (finding.severity, finding.code, finding.column) == ("error", "statistics", column)


def test_statistics_with_a_value_that_is_not_finite_agree_with_themselves(tmp_path: Path) -> None:
    block = make_block([3, 4])
    block.columns["observation"][0] = np.nan, np.inf
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(block)
    assert {finding.code for finding in validate(writer.close())} == {"nan", "infinity"}


@pytest.mark.parametrize(
    ("column", "changed"),
    [
        ("observation", ColumnSpec("observation", np.dtype(np.float32), (3,))),
        ("action", ColumnSpec("action", np.dtype(np.int64), (1,))),
        ("terminated", ColumnSpec("terminated", np.dtype(np.int8), ())),
        ("reward", None),
    ],
)
def test_columns_that_are_not_those_of_the_spaces(
    store: TrajectoryStore, column: str, changed: ColumnSpec | None
) -> None:
    columns = [changed if item.name == column else item for item in store.metadata.columns]
    metadata = replace(store.metadata, columns=tuple(item for item in columns if item))
    (finding,) = validate(TrajectoryStore(store.path, metadata))
    assert (finding.severity, finding.code, finding.column) == ("error", "columns", column)
