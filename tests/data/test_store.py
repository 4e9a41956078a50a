"""The store: what is written is read back bit for bit, in every shape of block and shard; failures lose nothing."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.errors import (
    CorruptStoreError,
    DataError,
    DatasetNotFoundError,
    DiskFullError,
    RequestError,
    SchemaVersionError,
    SpaceMismatchError,
    StoreError,
)
from offrl.types import Spec
from tests.data.stores import SPEC, make_block, make_store


def assert_holds(store: TrajectoryStore, block: EpisodeBlock) -> None:
    """The store has exactly these episodes."""
    assert (store.num_episodes, store.num_rows) == (len(block.lengths), block.num_rows)
    for name, array in block.columns.items():
        found = store.read(name, 0, store.num_rows)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    assert store.episodes.length.tolist() == block.lengths.tolist()


def test_a_block_comes_back_as_it_was(tmp_path: Path) -> None:
    block = make_block([3, 1, 5])
    with StoreWriter(tmp_path / "s", SPEC, environment="E-v0", reference_scores={"random": 1.0, "expert": 3.0}) as w:
        w.append(block)
    store = TrajectoryStore.open(tmp_path / "s")
    assert (store.num_episodes, store.num_steps, store.num_rows) == (3, 9, 12)
    assert_holds(store, block)
    assert store.column_names == ["observation", "action", "reward", "terminated", "truncated"]
    assert store.spec == SPEC
    assert (store.metadata.name, store.metadata.environment) == ("s", "E-v0")
    assert store.episodes.first_row.tolist() == [0, 4, 6]
    assert store.episodes.seed.tolist() == [0, 1, 2]
    assert [store.episodes.source(i) for i in range(3)] == ["f#0", "f#1", "f#2"]
    np.testing.assert_allclose(store.episodes.return_[1], block.columns["reward"][4])
    assert store.normalized_score(2.0) == pytest.approx(50.0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=5),
    st.integers(1, 700),
    st.sets(st.integers(0, 4)),
)
def test_blocks_and_shards_may_be_cut_anywhere(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[list[int]], shard_bytes: int, commits: set[int]
) -> None:
    path = tmp_path_factory.mktemp("store") / "s"
    blocks = [make_block(sizes, seed) for seed, sizes in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch, StoreWriter(path, SPEC, shard_bytes=shard_bytes) as writer:
        patch.setattr(os, "fsync", lambda descriptor: None)
        for i, block in enumerate(blocks):
            writer.append(block)
            if i in commits:
                writer.commit()
    whole = EpisodeBlock(
        {name: np.concatenate([block.columns[name] for block in blocks]) for name in blocks[0].columns},
        np.concatenate([block.lengths for block in blocks]),
    )
    store = TrajectoryStore.open(path)
    assert_holds(store, whole)
    once = whole.statistics()
    for name, found in store.statistics.items():
        np.testing.assert_allclose(found.mean, once[name].mean, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.std, once[name].std, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(found.max, once[name].max)
    rows = np.random.default_rng(0).integers(0, store.num_rows, 40)
    np.testing.assert_array_equal(store.gather("observation", rows), whole.columns["observation"][rows])
    for start, stop in np.sort(np.random.default_rng(1).integers(0, store.num_rows + 1, (20, 2)), axis=1).tolist():
        np.testing.assert_array_equal(store.read("reward", start, stop), whole.columns["reward"][start:stop])


def test_shards_stay_near_their_size_and_the_buffer_within_it(tmp_path: Path) -> None:
    row_bytes = 8 + 4 + 8 + 2
    with StoreWriter(tmp_path / "s", SPEC, shard_bytes=100 * row_bytes) as writer:
        for seed in range(30):
            writer.append(make_block([9, 19], seed))
            assert writer._pending_rows <= 100
            assert all(len(array) == 100 for array in writer._buffer.values())
        writer.append(make_block([500]))
    rows = [shard.rows for shard in TrajectoryStore.open(tmp_path / "s").metadata.shards]
    assert all(80 < count <= 100 for count in rows[:-2])
    assert (sum(rows), rows[-1]) == (30 * 30 + 501, 501)


def test_the_caller_may_reuse_its_arrays(tmp_path: Path) -> None:
    block, expected = make_block([4, 2]), make_block([4, 2])
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(block)
        for array in block.columns.values():
            array[:] = 0
        block.lengths[:] = 1
    assert_holds(TrajectoryStore.open(tmp_path / "s"), expected)


def nested_block() -> tuple[Spec, EpisodeBlock]:
    observation = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (5, 4, 3), np.uint8),
            "state": spaces.Tuple([spaces.Discrete(7, start=-3), spaces.Box(-1, 1, (2, 2), np.float64)]),
            "buttons": spaces.MultiBinary(3),
        }
    )
    rng = np.random.default_rng(0)
    columns: dict[str, NDArray[Any]] = {
        "observation.camera": rng.integers(0, 256, (7, 5, 4, 3), dtype=np.uint8),
        "observation.state.0": rng.integers(-3, 4, 7).astype(np.int16),
        "observation.state.1": rng.uniform(-1, 1, (7, 2, 2)),
        "observation.buttons": rng.integers(0, 2, (7, 3), dtype=np.int8),
        "action": np.array([2, 1, 3, 0, 1, 1, 0]),
        "reward": np.array([1, 2, 3, 0, 4, 5, 0], np.float32),
        "terminated": np.array([0, 0, 1, 0, 0, 0, 0], np.bool_),
        "truncated": np.array([0, 0, 0, 0, 0, 1, 0], np.bool_),
        "behavior_log_prob": np.array([-1, -2, -3, 0, -4, -5, 0], np.float16),
        "action_mask": rng.integers(0, 2, (7, 4)).astype(np.bool_),
        "info.qpos": rng.standard_normal((7, 2)),
        "info.count": np.arange(7, dtype=np.uint32),
    }
    return Spec(observation, spaces.Discrete(4)), EpisodeBlock(columns, np.array([3, 2]))


def test_nested_observations_images_and_every_dtype_survive(tmp_path: Path) -> None:
    spec, block = nested_block()
    with StoreWriter(tmp_path / "s", spec) as writer:
        writer.append(block)
    store = TrajectoryStore.open(tmp_path / "s")
    for name, array in block.columns.items():
        found = store.read(name, 0, 7)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == (np.int64 if name == "observation.state.0" else array.dtype)
    episode = store.episode(1)
    np.testing.assert_array_equal(episode.observation["camera"], block.columns["observation.camera"][4:])
    np.testing.assert_array_equal(episode.observation["state"][1], block.columns["observation.state.1"][4:])
    assert episode.action.tolist() == [1, 1]
    assert episode.reward.tolist() == [4, 5]
    assert (episode.terminated.tolist(), episode.truncated.tolist()) == ([False, False], [False, True])
    assert set(episode.extras) == {"behavior_log_prob", "action_mask", "info.qpos", "info.count"}
    assert len(episode.extras["behavior_log_prob"]) == 2
    assert len(episode.extras["info.qpos"]) == 3
    assert (episode.seed, episode.source) == (-1, None)
    assert {key: len(values) for key, values in episode.info.items()} == {"qpos": 3, "count": 3}
    assert "camera: uint8 [3, 5, 4, 3], state: (int64 [3], float64 [3, 2, 2])" in repr(episode)
    assert repr(episode).endswith("truncated, info: count, qpos)")


def test_reading_one_shard_shares_its_memory_map(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [50, 50], shard_bytes=51 * 22)
    first = store.read("observation", 0, 40)
    assert first.base is not None
    assert np.shares_memory(first, store.read("observation", 10, 20))
    assert not first.flags.writeable
    assert len(store.metadata.shards) == 2


def test_reads_outside_the_rows_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [3])
    for start, stop in ((-1, 2), (0, 5), (3, 2)):
        with pytest.raises(RequestError, match="4 rows"):
            store.read("reward", start, stop)
    with pytest.raises(RequestError, match="row 4 is out of range"):
        store.gather("reward", np.array([0, 4]))
    with pytest.raises(RequestError, match="row -1"):
        store.gather("reward", np.array([-1]))
    with pytest.raises(RequestError, match=r"'rewards'(.|\n)*reward"):
        store.read("rewards", 0, 1)
    with pytest.raises(RequestError, match="episode 1"):
        store.episode(1)


def test_an_empty_store_opens(tmp_path: Path) -> None:
    store = StoreWriter(tmp_path / "s", SPEC).close()
    assert (store.num_rows, store.num_episodes, len(store.episodes)) == (0, 0, 0)
    assert list(store.iterate_blocks(10)) == []


def test_appending_goes_on_where_the_store_ended(tmp_path: Path) -> None:
    first = make_store(tmp_path / "s", [3, 4])
    with StoreWriter(tmp_path / "s", SPEC, append=True) as writer:
        assert writer.num_episodes == 2
        writer.append(make_block([2], seed=1))
        assert writer.num_episodes == 3
    store = TrajectoryStore.open(tmp_path / "s")
    assert store.episodes.length.tolist() == [3, 4, 2]
    assert store.episodes.first_row.tolist() == [0, 4, 9]
    assert store.fingerprint != first.fingerprint
    np.testing.assert_array_equal(store.read("reward", 9, 12), make_block([2], seed=1).columns["reward"])


def test_the_fingerprint_does_not_depend_on_the_path(tmp_path: Path) -> None:
    one, two = make_store(tmp_path / "one", [3, 4]), make_store(tmp_path / "two", [3, 4])
    other = make_store(tmp_path / "other", [3, 4], seed=1)
    assert one.fingerprint == two.fingerprint != other.fingerprint


# What goes wrong, and what is said


def test_a_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="nowhere"):
        TrajectoryStore.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"no trajectory store(.|\n)*empty"):
        TrajectoryStore.open(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetNotFoundError):
        TrajectoryStore.open(tmp_path / "file")


def test_a_store_of_another_version_is_named(tmp_path: Path) -> None:
    make_store(tmp_path / "s", [3])
    path = tmp_path / "s" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 0}))
    with pytest.raises(SchemaVersionError, match=r"version 0(.|\n)*metadata\.json(.|\n)*convert the source again"):
        TrajectoryStore.open(tmp_path / "s")


def test_broken_metadata_is_named(tmp_path: Path) -> None:
    make_store(tmp_path / "s", [3])
    path = tmp_path / "s" / "metadata.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CorruptStoreError, match=r"metadata\.json"):
        TrajectoryStore.open(tmp_path / "s")


@pytest.mark.parametrize("key", ["observation_space", "action_space", "columns", "fingerprint"])
def test_changed_spaces_columns_and_fingerprints_are_found_when_opening(tmp_path: Path, key: str) -> None:
    make_store(tmp_path / "s", [3])
    path = tmp_path / "s" / "metadata.json"
    value = json.loads(path.read_text())
    match key:
        case "columns":
            value[key] = value[key][:-1]
        case "fingerprint":
            del value[key]
        case _:
            value[key]["low"] = -2.0
    path.write_text(json.dumps(value))
    with pytest.raises(CorruptStoreError, match=r"fingerprint(.|\n)*metadata\.json"):
        TrajectoryStore.open(tmp_path / "s")


@pytest.mark.parametrize("key", ["name", "environment", "provenance", "reference_scores", "statistics", "checksum"])
def test_whatever_is_changed_in_the_metadata_is_found_when_opening(tmp_path: Path, key: str) -> None:
    make_store(tmp_path / "s", [3])
    path = tmp_path / "s" / "metadata.json"
    value = json.loads(path.read_text())
    match key:
        case "checksum":
            del value[key]
        case "statistics":
            value[key]["reward"]["mean"] = [1e6]
        case _:
            value[key] = {"random": 0.0} if isinstance(value[key], dict) else "Other-v0"
    path.write_text(json.dumps(value))
    with pytest.raises(CorruptStoreError, match=r"has been changed(.|\n)*metadata\.json"):
        TrajectoryStore.open(tmp_path / "s")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("shards/00001.arrow", lambda store: store.read("reward", 0, store.num_rows)),
        ("shards/00001.arrow", lambda store: store.gather("reward", np.array([store.num_rows - 1]))),
        ("shards/00001.arrow", lambda store: list(store.iterate_blocks(10))),
        ("shards/00001.arrow", lambda store: store[1:].to_pandas()),
        ("shards/00001.arrow", lambda store: store.verify()),
        ("episodes/00001.arrow", lambda store: store.episodes),
        ("episodes/00001.arrow", lambda store: store.shard_block(1)),
        ("episodes/00001.arrow", lambda store: store.verify()),
    ],
)
def test_a_flipped_bit_is_found_before_the_data_are_read(tmp_path: Path, file: str, read: Any) -> None:
    make_store(tmp_path / "s", [30, 30], shard_bytes=500)
    read(TrajectoryStore.open(tmp_path / "s"))
    flip_a_bit(tmp_path / "s" / file)
    store = TrajectoryStore.open(tmp_path / "s")
    with pytest.raises(CorruptStoreError, match=rf"checksum(.|\n)*{file}"):
        read(store)


def test_a_shard_that_is_whole_is_read_though_another_is_not(tmp_path: Path) -> None:
    make_store(tmp_path / "s", [30, 30], shard_bytes=500)
    flip_a_bit(tmp_path / "s" / "shards" / "00001.arrow")
    assert len(TrajectoryStore.open(tmp_path / "s").read("reward", 0, 31)) == 31


@pytest.mark.parametrize("name", ["shards/00001.arrow", "episodes/00000.arrow"])
def test_a_missing_or_short_shard_is_named_when_opening(tmp_path: Path, name: str) -> None:
    make_store(tmp_path / "s", [30, 30], shard_bytes=100)
    path = tmp_path / "s" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(CorruptStoreError, match=f"{len(content) - 1} bytes, {len(content)} (.|\n)*{name}"):
        TrajectoryStore.open(tmp_path / "s")
    path.unlink()
    with pytest.raises(CorruptStoreError, match=f"missing(.|\n)*{name}"):
        TrajectoryStore.open(tmp_path / "s")


def test_a_damaged_shard_is_named_when_read(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [30])
    path = tmp_path / "s" / "shards" / "00000.arrow"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(CorruptStoreError, match=r"shards/00000\.arrow"):
        store.read("reward", 0, 1)


def test_an_existing_store_is_not_overwritten(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [3])
    with pytest.raises(StoreError, match="already"):
        StoreWriter(tmp_path / "s", SPEC)
    assert TrajectoryStore.open(tmp_path / "s").fingerprint == store.fingerprint


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        StoreWriter(tmp_path, SPEC)
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        StoreWriter(tmp_path / "thesis.tex" / "s", SPEC)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_other_spaces_are_not_appended(tmp_path: Path) -> None:
    make_store(tmp_path / "s", [3])
    other = Spec(SPEC.observation_space, spaces.Discrete(3))
    with pytest.raises(SpaceMismatchError, match=r"Discrete\(3\)"):
        StoreWriter(tmp_path / "s", other, append=True)
    StoreWriter(tmp_path / "s", SPEC, append=True).close()  # the lock was given back


def test_only_one_process_writes(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        with pytest.raises(StoreError, match="another process"):
            StoreWriter(tmp_path / "s", SPEC, append=True)
        writer.append(make_block([3]))
    with pytest.raises(StoreError, match="closed"):
        writer.append(make_block([3]))
    assert writer.close().num_episodes == 1


def test_an_error_drops_the_buffer_and_keeps_what_is_committed(tmp_path: Path) -> None:
    def interrupted() -> None:
        with StoreWriter(tmp_path / "s", SPEC) as writer:
            writer.append(make_block([3]))
            writer.commit()
            writer.append(make_block([4]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert TrajectoryStore.open(tmp_path / "s").episodes.length.tolist() == [3]


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    make_store(tmp_path / "s", [3])
    shards = tmp_path / "s" / "shards"
    shutil.copy(shards / "00000.arrow", shards / "00001.arrow")
    (shards / f".00002.arrow.partial-{2**22 + 1}-00000000.arrow").write_bytes(b"half")
    (shards / "thesis.tex").write_text("years of work")
    with StoreWriter(tmp_path / "s", SPEC, append=True) as writer:
        assert sorted(os.listdir(shards)) == ["00000.arrow", "thesis.tex"]
        writer.append(make_block([4]))
    assert TrajectoryStore.open(tmp_path / "s").episodes.length.tolist() == [3, 4]
    assert (shards / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("place", ["shards", "episodes", "lock"])
def test_nothing_is_written_or_removed_behind_links(tmp_path: Path, place: str) -> None:
    store = make_store(tmp_path / "s", [3])
    behind = tmp_path / "behind"
    (tmp_path / "s" / place).rename(behind)
    (tmp_path / "s" / place).symlink_to(behind)
    if behind.is_dir():
        (behind / "00007.arrow").write_text("somebody's own")
    before = {path: path.read_bytes() for path in (behind, *behind.rglob("*")) if path.is_file()}
    with pytest.raises(StoreError, match="this is a link to"):
        StoreWriter(tmp_path / "s", SPEC, append=True)
    assert {path: path.read_bytes() for path in (behind, *behind.rglob("*")) if path.is_file()} == before
    assert TrajectoryStore.open(tmp_path / "s").fingerprint == store.fingerprint


def test_links_in_the_place_of_files_are_replaced_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    make_store(tmp_path / "s", [3])
    (tmp_path / "thesis").write_text("years of work")
    for file in ("shards/00001.arrow", "episodes/00001.arrow"):
        (tmp_path / "s" / file).symlink_to(tmp_path / "thesis")
    (tmp_path / "s" / "metadata.json").rename(tmp_path / "metadata")
    (tmp_path / "s" / "metadata.json").symlink_to(tmp_path / "metadata")
    before = (tmp_path / "metadata").read_bytes()
    with StoreWriter(tmp_path / "s", SPEC, append=True) as writer:
        writer.append(make_block([4]))
    assert TrajectoryStore.open(tmp_path / "s").num_episodes == 2
    assert not any(path.is_symlink() for path in (tmp_path / "s").rglob("*"))
    assert (tmp_path / "thesis").read_text() == "years of work"
    assert (tmp_path / "metadata").read_bytes() == before


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_loses_nothing_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, code: int
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(make_block([3]))
        writer.commit()
        writer.append(make_block([4]))
        with monkeypatch.context() as patch:
            if failing == "write":
                patch.setattr("offrl.files.HashingFile.write", fail)
            else:
                patch.setattr(os, failing, fail)
            with pytest.raises(DiskFullError, match=r"shards/00001\.arrow"):
                writer.commit()
        assert not list(tmp_path.rglob("*.partial-*"))
        assert TrajectoryStore.open(tmp_path / "s").episodes.length.tolist() == [3]
    # With room again, leaving the block has committed the buffer that was kept.
    assert TrajectoryStore.open(tmp_path / "s").episodes.length.tolist() == [3, 4]


def write_beyond_a_limit(path: Path) -> None:
    with StoreWriter(path, SPEC) as writer:
        writer.append(make_block([3]))
        writer.commit()
        writer.append(make_block([5000]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        with pytest.raises(DiskFullError, match=r"00001\.arrow"):
            writer.commit()
        os._exit(0)


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=write_beyond_a_limit, args=(tmp_path / "s",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert not list(tmp_path.rglob("*.partial-*"))
    assert TrajectoryStore.open(tmp_path / "s").episodes.length.tolist() == [3]


def test_provenance_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="JSON"):
        StoreWriter(tmp_path / "s", SPEC, provenance={"x": object()})
    with pytest.raises(StoreError, match="JSON"):
        StoreWriter(tmp_path / "s", SPEC, reference_scores={"random": float("nan")})


def test_a_bad_block_is_refused_whole(tmp_path: Path) -> None:
    block = make_block([3, 4])
    block.columns["reward"][-1] = 1.0
    with StoreWriter(tmp_path / "s", SPEC, shard_bytes=50) as writer, pytest.raises(DataError, match=r"episode 1.*f#1"):
        writer.append(block)
    assert TrajectoryStore.open(tmp_path / "s").num_episodes == 0


def test_keeping_the_first_episodes_gives_the_store_as_it_was(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(make_block([3, 4]))
        writer.commit()
        two = TrajectoryStore.open(tmp_path / "s")
        writer.append(make_block([5], seed=1))
        writer.commit()
        with pytest.raises(StoreError, match="first 1 of the 3 episodes"):
            writer.keep(1)
        with pytest.raises(StoreError, match="first 4 of the 3 episodes"):
            writer.keep(4)
        writer.keep(3)
        assert writer.num_episodes == 3
        writer.keep(2)
    store = TrajectoryStore.open(tmp_path / "s")
    assert json.dumps(store.metadata.to_json()) == json.dumps(two.metadata.to_json())
    assert len(os.listdir(tmp_path / "s" / "shards")) == 1
    with StoreWriter(tmp_path / "s", SPEC, append=True) as writer:
        writer.keep(0)
        writer.append(make_block([3, 4]))
    assert TrajectoryStore.open(tmp_path / "s").metadata.statistics["reward"].count == 7
