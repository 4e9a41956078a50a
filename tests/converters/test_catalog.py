"""What a dataset's name leads to."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from offrl.converters import catalog, listing
from offrl.converters.catalog import local_path, name_anywhere, open_dataset
from offrl.converters.listing import list_datasets
from offrl.data.parquet import write_parquet
from offrl.errors import DatasetNotFoundError, RequestError, SourceError
from tests.data.stores import make_store


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one bundled dataset, `toy-expert` of two episodes."""
    root = tmp_path / "package"
    folder = root / "datasets" / "toy-expert"
    write_parquet(make_store(tmp_path / "origin", [3, 4]), folder)
    (folder / "card.toml").write_text('name = "toy-expert"\ndescription = "Two toys."\n')
    for module in (catalog, listing):
        monkeypatch.setattr(module, "bundled_root", lambda: root)
    return folder


def test_a_path_to_a_store_is_that_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", [3])
    assert open_dataset(tmp_path / "store").fingerprint == store.fingerprint
    assert open_dataset(str(tmp_path / "store")).path == tmp_path / "store"


def test_a_bundled_dataset_is_unpacked_once(bundle: Path, offrl_home: Path) -> None:
    first = open_dataset("toy-expert")
    stamps = [file.stat().st_mtime_ns for file in sorted(first.path.rglob("*.arrow"))]
    second = open_dataset("toy-expert")

    assert first.num_episodes == 2
    assert first.path == second.path
    assert first.path.is_relative_to(offrl_home)
    assert [file.stat().st_mtime_ns for file in sorted(second.path.rglob("*.arrow"))] == stamps
    assert open_dataset(bundle).path == first.path


def test_a_changed_bundle_is_unpacked_anew(bundle: Path, tmp_path: Path) -> None:
    before = open_dataset("toy-expert")
    write_parquet(make_store(tmp_path / "other", [5]), bundle, overwrite=True)

    assert open_dataset("toy-expert").num_episodes == 1
    assert before.num_episodes == 2


def test_an_unpacking_that_failed_leaves_nothing_behind(bundle: Path, offrl_home: Path) -> None:
    steps = bundle / "steps.parquet"
    whole = steps.read_bytes()
    steps.write_bytes(whole[:-50])
    with pytest.raises(SourceError, match="checksum"):
        open_dataset("toy-expert")
    (bundle / "SHA256SUMS").unlink()
    with pytest.raises(SourceError, match="can't be read"):
        open_dataset("toy-expert")
    assert os.listdir(offrl_home / "datasets") == []
    steps.write_bytes(whole)
    assert open_dataset("toy-expert").num_episodes == 2


def test_a_local_name_goes_before_a_bundled_one(bundle: Path) -> None:
    local_path("toy-expert").parent.mkdir(parents=True)
    make_store(local_path("toy-expert"), [1, 2, 3])
    assert open_dataset("toy-expert").num_episodes == 3


def test_a_name_that_is_no_path_stays_as_it_is(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(local_path("mine"), [1])
    for name in ("toy-expert", "mine", "minari:a/b-v0", "unknown", ""):
        assert name_anywhere(name) == name
    for name in ("toy-expert", "mine"):
        (tmp_path / name).mkdir()
        assert name_anywhere(name) == name
        assert open_dataset(name).num_episodes == {"toy-expert": 2, "mine": 1}[name]


def test_a_path_becomes_absolute(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_parquet(make_store(tmp_path / "toy-expert", [3]), tmp_path / "parquet")
    _write_d4rl(tmp_path / "log.hdf5", 4)
    for name in ("toy-expert", "parquet", "log.hdf5"):
        assert name_anywhere(name) == str(tmp_path / name)
        assert open_dataset(name).fingerprint == open_dataset(tmp_path / name).fingerprint
    monkeypatch.setenv("HOME", str(tmp_path))
    assert name_anywhere("~/parquet") == str(tmp_path / "parquet")


def test_a_source_file_is_converted_once_and_again_after_a_change(tmp_path: Path) -> None:
    source = tmp_path / "log.hdf5"
    _write_d4rl(source, 6)
    first = open_dataset(source)
    assert first.num_steps == 6
    assert open_dataset(source).path == first.path

    _write_d4rl(source, 9)
    assert open_dataset(source).num_steps == 9


@pytest.mark.parametrize("in_a_folder", [False, True])
def test_a_source_that_changed_with_its_size_and_time_kept_is_converted_again(
    tmp_path: Path, in_a_folder: bool
) -> None:
    source = tmp_path / "logs" if in_a_folder else tmp_path / "log.csv"
    file = source / "part.csv" if in_a_folder else source
    file.parent.mkdir(exist_ok=True)
    text = "observation,action,reward,terminated\n1,0.5,3,0\n1,0.5,{},1\n"
    file.write_text(text.format(3))
    then = file.stat()
    first = catalog._file_identity(source)
    assert catalog._file_identity(source) == first
    file.write_text(text.format(4))
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (then.st_size, then.st_mtime_ns)
    assert catalog._file_identity(source) != first


def test_parquet_files_that_changed_with_their_size_and_time_kept_are_unpacked_again(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offrl.checksums.SETTLED", -1.0)
    assert open_dataset("toy-expert").num_episodes == 2
    steps = bundle / "steps.parquet"
    content, then = bytearray(steps.read_bytes()), steps.stat()
    content[len(content) // 2] ^= 1
    steps.write_bytes(content)
    os.utime(steps, ns=(then.st_atime_ns, then.st_mtime_ns))
    with pytest.raises(SourceError, match="checksum"):
        open_dataset("toy-expert")


def test_the_list_names_bundled_and_local_datasets(bundle: Path, offrl_home: Path) -> None:
    make_store(local_path("mine"), [1, 2, 3])
    (offrl_home / "stores" / "rubbish").mkdir()

    bundled, local = list_datasets()
    assert (bundled.name, bundled.kind, bundled.episodes, bundled.steps) == ("toy-expert", "bundled", 2, 7)
    assert bundled.card["description"] == "Two toys."
    assert (local.name, local.kind, local.episodes, local.steps) == ("mine", "local", 3, 6)


def test_an_unknown_name_is_answered_with_close_ones(bundle: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="did you mean toy-expert"):
        open_dataset("toy-exprt")
    with pytest.raises(DatasetNotFoundError, match="offrl datasets list"):
        open_dataset("")


def test_a_source_that_leaves_something_open_is_to_be_converted_first(tmp_path: Path) -> None:
    source = tmp_path / "log.csv"
    source.write_text("observation,action,reward,terminated\n1,2,3,0\n1,2,3,1\n")
    with pytest.raises(RequestError, match="tells a time limit") as raised:
        open_dataset(source)
    assert raised.value.hint.startswith(f"convert it first: offrl convert {source} NAME …")
    assert "--dataset NAME" in raised.value.hint
    assert "--time-limit" in raised.value.hint.partition("there, ")[2]


def test_a_folder_that_is_neither_dataset_nor_source_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetNotFoundError, match="there is no dataset"):
        open_dataset(tmp_path / "empty")


def _write_d4rl(path: Path, steps: int) -> None:
    with h5py.File(path, "w") as file:
        observations = np.arange(2.0 * (steps + 1), dtype=np.float32).reshape(-1, 2)
        file["observations"], file["next_observations"] = observations[:-1], observations[1:]
        file["actions"] = np.zeros((steps, 1), np.float32)
        file["rewards"] = np.ones(steps, np.float32)
        file["terminals"] = np.zeros(steps, np.bool_)
        file["timeouts"] = np.arange(steps) == steps - 1
