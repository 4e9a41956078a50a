"""What is mapped is what was written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offrl.checksums import file_sha256
from offrl.data.schema import ColumnSpec
from offrl.data.shard import check_size, map_episodes, map_rows, write_episodes, write_rows
from offrl.errors import CorruptStoreError

DTYPES = ["bool", "uint8", "int8", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(1, 3), max_size=3)), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(0, 2**31),
)
def test_every_bit_of_every_dtype_comes_back(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[str, list[int]]], rows: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("shard") / "x.arrow"
    rng = np.random.default_rng(seed)
    columns, arrays = [], {}
    for i, (dtype, shape) in enumerate(kinds):
        column = ColumnSpec(f"c{i}", np.dtype(dtype), tuple(shape))
        size = rows * int(np.prod(shape))
        bits = rng.integers(0, 2, size, np.uint8) if dtype == "bool" else rng.bytes(size * column.dtype.itemsize)
        columns.append(column)
        arrays[column.name] = np.frombuffer(bits, column.dtype).reshape(rows, *shape)
    size_and_hash = write_rows(path, columns, arrays)
    assert size_and_hash == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    assert size_and_hash[1] == file_sha256(path)
    for name, found in map_rows(path, columns, rows).items():
        assert found.dtype == arrays[name].dtype
        assert found.shape == arrays[name].shape
        assert found.tobytes() == arrays[name].tobytes()
        assert not found.flags.writeable


def test_other_programs_can_read_a_shard(tmp_path: Path) -> None:
    columns = [ColumnSpec("observation", np.dtype(np.float32), (2,)), ColumnSpec("terminated", np.dtype(np.bool_), ())]
    arrays: dict[str, Any] = {
        "observation": np.array([[1, 2], [3, 4]], np.float32),
        "terminated": np.array([False, True]),
    }
    write_rows(tmp_path / "x.arrow", columns, arrays)
    table = pa.ipc.open_file(tmp_path / "x.arrow").read_all()
    assert table.to_pydict() == {"observation": [[1, 2], [3, 4]], "terminated": [0, 1]}


def test_slices_are_written_as_they_look(tmp_path: Path) -> None:
    column = ColumnSpec("x", np.dtype(np.float64), (2,))
    array = np.arange(24.0).reshape(6, 4)[::2, 1:3]
    write_rows(tmp_path / "x.arrow", [column], {"x": array})
    np.testing.assert_array_equal(map_rows(tmp_path / "x.arrow", [column], 3)["x"], array)


def test_episode_tables(tmp_path: Path) -> None:
    table = {
        "first_row": np.array([0, 4]),
        "length": np.array([3, 1]),
        "return": np.array([0.5, -1]),
        "seed": np.array([-1, 7]),
    }
    write_episodes(tmp_path / "x.arrow", table, ["a#0", None])
    found, sources = map_episodes(tmp_path / "x.arrow", 2)
    assert {name: array.tolist() for name, array in found.items()} == {n: a.tolist() for n, a in table.items()}
    assert sources.to_pylist() == ["a#0", None]


def test_a_file_that_is_not_what_the_metadata_says(tmp_path: Path) -> None:
    column, path = ColumnSpec("x", np.dtype(np.float32), (2,)), tmp_path / "x.arrow"
    write_rows(path, [column], {"x": np.zeros((3, 2), np.float32)})
    others = (
        ("x", np.float32, (3,), 3),
        ("x", np.int32, (2,), 3),
        ("y", np.float32, (2,), 3),
        ("x", np.float32, (2,), 4),
    )
    for name, dtype, shape, rows in others:
        with pytest.raises(CorruptStoreError, match=r"x\.arrow"):
            map_rows(path, [ColumnSpec(name, np.dtype(dtype), shape)], rows)
    with pytest.raises(CorruptStoreError):
        map_episodes(path, 3)
    with pytest.raises(CorruptStoreError, match="nowhere"):
        map_rows(tmp_path / "nowhere", [column], 3)


def test_sizes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    check_size(tmp_path / "x", 5)
    with pytest.raises(CorruptStoreError, match="5 bytes, 6 were committed"):
        check_size(tmp_path / "x", 6)
