"""What stands at the destination afterwards: a whole store or what was there before, whatever goes wrong."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offrl.converters import ConvertOptions, convert, plan_conversion
from offrl.data.store import TrajectoryStore
from offrl.data.validate import validate
from offrl.errors import OffrlError, RequestError, StoreError
from tests.data.stores import make_store

BOUNDED = ConvertOptions(action_bounds=(-1.0, 1.0))


def write_rows(path: Path, rows: int = 6, **changed: Any) -> Path:
    """A D4RL file: one terminal state half way, a timeout at the end."""
    arrays: dict[str, Any] = {
        "observations": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2),
        "actions": np.linspace(-1, 1, rows, dtype=np.float32)[:, None],
        "rewards": np.arange(rows, dtype=np.float32),
        "terminals": np.arange(rows) == rows // 2,
        "timeouts": np.arange(rows) == rows - 1,
        **changed,
    }
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


def empty(folder: Path) -> Path:
    path = folder / "log.hdf5"
    path.touch()
    return path


def cut_short(folder: Path) -> Path:
    path = write_rows(folder / "log.hdf5", rows=4000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def damaged_chunk(folder: Path) -> Path:
    """A file that opens, and whose last compressed rows can't be unpacked."""
    path = folder / "log.hdf5"
    rewards = np.random.default_rng(0).standard_normal(4000)
    write_rows(path, rows=4000, rewards=[0.0])
    with h5py.File(path, "a") as file:
        del file["rewards"]
        chunked = file.create_dataset("rewards", data=rewards, chunks=(1000,), compression="gzip")
        place = chunked.id.get_chunk_info(3)
    with path.open("r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(b"\0" * place.size)
    return path


def text(folder: Path) -> Path:
    path = folder / "log.hdf5"
    path.write_text("observation,action,reward\n1,2,3\n")
    return path


def unknown(folder: Path) -> Path:
    path = folder / "log.xyz"
    path.write_text("?")
    return path


def folder_of_nothing(folder: Path) -> Path:
    (folder / "log").mkdir()
    return folder / "log"


def with_arrays(**changed: Any) -> Callable[[Path], Path]:
    return lambda folder: write_rows(folder / "log.hdf5", **changed)


def with_value(key: str, row: int, value: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_rows(folder / "log.hdf5")
        with h5py.File(path, "a") as file:
            file[key][row] = value
        return path

    return make


BAD = {
    "empty": (empty, "d4rl", "empty"),
    "cut short": (cut_short, None, "cut short"),
    "damaged chunk": (damaged_chunk, None, "damaged"),
    "text": (text, "d4rl", "not an HDF5 file"),
    "text, found out": (text, None, "not an HDF5 file"),
    "unknown": (unknown, None, "format"),
    "no such format": (with_arrays(), "excel", "excel"),
    "folder": (folder_of_nothing, None, "format"),
    "missing": (lambda folder: folder / "log.hdf5", None, "no such file"),
    "unequal": (with_arrays(rewards=np.zeros(5)), None, "'rewards' has 5 rows, the observations have 6"),
    "no rows": (with_arrays(rows=0), None, "no rows"),
    "two rewards": (with_arrays(rewards=np.zeros((6, 2))), None, "one reward for each step"),
    "two flags": (with_arrays(terminals=np.zeros((6, 2))), None, "one terminated for each step"),
    "words": (with_arrays(rewards=[b"a"] * 6), None, "no numbers"),
    "infinite reward": (with_value("rewards", 4, np.inf), None, "inf"),
    "NaN reward": (with_value("rewards", 4, np.nan), None, "nan"),
    "NaN action": (with_value("actions", 4, np.nan), None, "nan"),
    "action": (with_value("actions", 4, 1.5), None, "outside"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_source_gives_one_error_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    make, format, says = BAD[case]
    source = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OffrlError) as raised:
        convert(source, tmp_path / "store", format=format, options=BOUNDED)
    error = raised.value
    assert says in error.what
    assert error.hint
    assert "log" in error.where or case == "no such format"
    if case in ("infinite reward", "NaN reward", "NaN action", "action"):
        assert "row 4" in error.where
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("case", ["cut short", "damaged chunk", "infinite reward", "unequal"])
def test_a_failing_conversion_leaves_the_store_that_it_was_to_replace(tmp_path: Path, case: str) -> None:
    make, format, _ = BAD[case]
    old = make_store(tmp_path / "store", [3, 4])
    source = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OffrlError):
        convert(source, tmp_path / "store", format=format, options=BOUNDED, overwrite=True)
    assert TrajectoryStore.open(tmp_path / "store").fingerprint == old.fingerprint
    assert validate(TrajectoryStore.open(tmp_path / "store")) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_destination_that_exists_is_refused_before_the_source_is_read(tmp_path: Path) -> None:
    old = make_store(tmp_path / "store", [3])
    with pytest.raises(RequestError, match="exists") as raised:
        convert(tmp_path / "nothing.hdf5", tmp_path / "store")
    assert "--overwrite" in raised.value.hint
    assert TrajectoryStore.open(tmp_path / "store").fingerprint == old.fingerprint

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("thesis", "file"):
        with pytest.raises(RequestError, match="only a store is overwritten"):
            convert(write_rows(tmp_path / "log.hdf5"), tmp_path / name, overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "x"
    assert (tmp_path / "file").read_text() == "x"


def test_a_store_is_overwritten_when_told(tmp_path: Path) -> None:
    make_store(tmp_path / "store", [3])
    convert(write_rows(tmp_path / "log.hdf5"), tmp_path / "store", overwrite=True)
    assert TrajectoryStore.open(tmp_path / "store").episodes.length.tolist() == [4, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.hdf5", "store"]


def test_a_destination_in_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="can't be written") as raised:
        convert(write_rows(tmp_path / "log.hdf5"), tmp_path / "file" / "store")
    assert str(tmp_path / "file") in raised.value.where


def test_a_dry_run_writes_nothing_and_says_what_would_be_refused(tmp_path: Path) -> None:
    source = with_value("rewards", 4, np.nan)(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    planned = plan_conversion(source, options=BOUNDED)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(OffrlError) as raised:
        convert(source, tmp_path / "store", options=BOUNDED)
    (problem,) = planned.problems
    assert (problem.what, problem.where, problem.hint) == (raised.value.what, raised.value.where, raised.value.hint)


def test_a_pickle_is_not_opened_in_a_dry_run_either(tmp_path: Path) -> None:
    (tmp_path / "log.pkl").write_bytes(pickle.dumps([]))
    with pytest.raises(OffrlError, match="code"):
        plan_conversion(tmp_path / "log.pkl")


def convert_until_rename(source: Path, dest: Path, fatal: int) -> None:
    """Overwrite a store, but stop for good at the n-th rename of the store's folder."""
    replace, calls = os.replace, 0

    def counted(*names: Any) -> None:
        nonlocal calls
        calls += dest.name in {Path(name).name for name in names}
        if calls == fatal:
            os._exit(9)
        replace(*names)

    os.replace = counted  # type: ignore[assignment]
    convert(source, dest, overwrite=True)


@pytest.mark.parametrize("fatal", [1, 2])
def test_dying_while_a_store_is_replaced_loses_neither(tmp_path: Path, fatal: int) -> None:
    dest = tmp_path / "store"
    old = make_store(dest, [3, 4])
    source = write_rows(tmp_path / "log.hdf5")
    process = multiprocessing.get_context("fork").Process(target=convert_until_rename, args=(source, dest, fatal))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert dest.exists() == (fatal == 1)

    with pytest.raises(OffrlError):  # the next conversion gives the old one back, and doesn't overwrite it unasked
        convert(source, dest)
    assert TrajectoryStore.open(dest).fingerprint == old.fingerprint
    convert(source, dest, overwrite=True)
    assert TrajectoryStore.open(dest).episodes.length.tolist() == [4, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.hdf5", "store"]


@pytest.mark.parametrize("fatal", [1, 2])
def test_a_rename_that_fails_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int) -> None:
    dest = tmp_path / "store"
    old = make_store(dest, [3, 4])
    replace, calls = os.replace, 0

    def failing(*names: Any) -> None:
        nonlocal calls
        calls += dest.name in {Path(name).name for name in names}
        if calls == fatal:
            raise PermissionError(13, "Permission denied")
        replace(*names)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(StoreError, match="Permission denied"):
        convert(write_rows(tmp_path / "log.hdf5"), dest, overwrite=True)
    assert TrajectoryStore.open(dest).fingerprint == old.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.hdf5", "store"]


def write_large(path: Path, rows: int = 400_000) -> Path:
    """A file that takes a good part of a second to convert."""
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((rows + 1, 17), np.float32)
    ends = np.arange(1, rows + 1) % 500 == 0
    return write_rows(
        path,
        rows,
        observations=observations[:-1],
        next_observations=observations[1:],
        actions=rng.uniform(-1, 1, (rows, 6)).astype(np.float32),
        terminals=np.zeros(rows, np.bool_),
        timeouts=ends,
    )


def timed_conversion(source: Path, dest: Path, kill_after: float | None, overwrite: bool) -> float:
    """Convert in a process of its own, killed after so many seconds; returns how long it took."""
    arguments = {"options": BOUNDED, "overwrite": overwrite}
    process = multiprocessing.get_context("fork").Process(target=convert, args=(source, dest), kwargs=arguments)
    start = time.perf_counter()
    process.start()
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    process.join()
    assert process.exitcode == 0 or kill_after is not None
    return time.perf_counter() - start


def survive_kills(folder: Path, kills: int) -> None:
    """Kills spread over the time that a conversion takes; every other one meets an old store to be overwritten."""
    source, dest = write_large(folder / "log.hdf5"), folder / "store"
    seconds = timed_conversion(source, dest, None, overwrite=False)
    whole = TrajectoryStore.open(dest)
    assert (whole.num_steps, validate(whole)) == (400_000, [])
    old = make_store(folder / "old", [3, 4])
    rng, inside = np.random.default_rng(0), 0
    for kill in range(kills):
        shutil.rmtree(dest)
        if overwrite := bool(kill % 2):
            shutil.copytree(folder / "old", dest)
        timed_conversion(source, dest, seconds * (kill + rng.uniform()) / kills, overwrite)
        inside += any(path.name.startswith(".store.partial-") for path in folder.iterdir())
        if dest.exists() or overwrite:
            left = TrajectoryStore.open(dest)
            allowed = [whole.fingerprint, old.fingerprint] if overwrite else [whole.fingerprint]
            assert left.fingerprint in allowed
            assert validate(left) == []
        else:
            shutil.copytree(folder / "old", dest)
    assert inside >= kills // 4, "most kills came too early or too late"
    shutil.rmtree(dest)
    timed_conversion(source, dest, None, overwrite=False)
    assert TrajectoryStore.open(dest).fingerprint == whole.fingerprint
    assert sorted(path.name for path in folder.iterdir() if path.name[0] == ".") == []


def test_a_killed_conversion_leaves_a_whole_store_or_none(tmp_path: Path) -> None:
    survive_kills(tmp_path, 4)


@pytest.mark.slow
def test_fifty_killed_conversions_leave_a_whole_store_or_none(tmp_path: Path) -> None:
    survive_kills(tmp_path, 50)
