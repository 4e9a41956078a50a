"""Where a conversion writes, what it leaves when it fails or is killed, and what it records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from offrl.data.convert import ConvertOptions, conversion, convert, plan_conversion
from offrl.data.store import StoreWriter, TrajectoryStore
from offrl.errors import DataError, DatasetNotFoundError, DiskFullError, RequestError, SourceError, StoreError
from tests.data.convert.logs import make_log, write_d4rl


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    return write_d4rl(folder / "log.hdf5", make_log([2, 3], ["terminal", "timeout"], seed=0))


def test_the_store_says_where_it_came_from(tmp_path: Path, source: Path) -> None:
    report = convert(source, tmp_path / "deep" / "store", options=ConvertOptions(timeouts="drop"))
    metadata = TrajectoryStore.open(tmp_path / "deep" / "store").metadata
    assert report.written == str(tmp_path / "deep" / "store")
    assert metadata.name == "store"
    assert metadata.provenance["converted_from"] == str(source)
    assert metadata.provenance["format"] == "d4rl"
    assert metadata.provenance["options"] == {"timeouts": "drop"}
    assert metadata.reference_scores == {}


def test_a_destination_that_exists_is_kept(tmp_path: Path, source: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("all of it")
    for overwrite in (False, True):
        with pytest.raises(RequestError, match=r"destination exists|only a store"):
            convert(source, tmp_path / "notes", overwrite=overwrite)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "all of it"


def test_overwriting_replaces_a_store_once_the_new_one_is_whole(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "store")
    before = TrajectoryStore.open(tmp_path / "store").fingerprint
    with pytest.raises(RequestError, match="destination exists"):
        convert(source, tmp_path / "store")

    bad = make_log([4], ["terminal"], seed=1)
    bad.reward[2] = float("nan")
    with pytest.raises(DataError):
        convert(write_d4rl(source.parent / "bad.hdf5", bad), tmp_path / "store", overwrite=True)
    assert TrajectoryStore.open(tmp_path / "store").fingerprint == before

    other = write_d4rl(source.parent / "other.hdf5", make_log([4], ["terminal"], seed=1))
    convert(other, tmp_path / "store", overwrite=True)
    assert TrajectoryStore.open(tmp_path / "store").num_steps == 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DiskFullError("the disk is full", where="here", mend="free some space")

    monkeypatch.setattr(StoreWriter, "append", full)
    with pytest.raises(DiskFullError):
        convert(source, tmp_path / "out" / "store")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_destination_below_a_file(tmp_path: Path, source: Path) -> None:
    with pytest.raises(StoreError, match="can't be written"):
        convert(source, source / "store")


def test_what_killed_conversions_left_is_removed_or_given_back(tmp_path: Path, source: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    partial = tmp_path / f".store.partial-{process.pid}-0000"
    replaced = tmp_path / f".store.replaced-{process.pid}-0000"
    running = tmp_path / f".store.partial-{os.getpid()}-0000"
    partial.mkdir()
    running.mkdir()
    convert(source, replaced)
    with pytest.raises(RequestError, match="destination exists"):
        convert(source, tmp_path / "store")  # killed while it replaced: the old store comes back first
    assert TrajectoryStore.open(tmp_path / "store").num_steps == 5
    assert not partial.exists()
    assert running.exists()


def test_formats_are_named_and_detected(tmp_path: Path, source: Path) -> None:
    with pytest.raises(RequestError, match="no format 'hdf6'") as raised:
        plan_conversion(source, format="hdf6")
    assert "d4rl" in raised.value.mend
    strange = tmp_path / "log.xyz"
    strange.write_text("?")
    with pytest.raises(SourceError, match="format of the source is not known"):
        plan_conversion(strange)
    with pytest.raises(SourceError, match="format of the source is not known"):
        plan_conversion(tmp_path)
    renamed = source.rename(tmp_path / "renamed.bin")
    assert plan_conversion(renamed).format == "d4rl"
    with pytest.raises(SourceError, match=r"damaged|no NumPy"):
        plan_conversion(renamed, format="npz")
    convert(renamed, tmp_path / "store")
    with pytest.raises(RequestError, match="store already"):
        plan_conversion(tmp_path / "store")
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        plan_conversion(tmp_path / "nothing")


_KILLED = """
import sys, time
from offrl.data.convert import conversion, convert
from offrl.data.store import StoreWriter
append = StoreWriter.append
def slowly(self, block):
    append(self, block)
    self.commit()
    print("committed", flush=True)
    time.sleep(60)
StoreWriter.append = slowly
convert(sys.argv[1], sys.argv[2])
"""


def test_a_killed_conversion_leaves_no_store_that_only_looks_complete(tmp_path: Path, source: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(source), str(tmp_path / "store")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "store").exists()
    assert len(list(tmp_path.glob(".store.partial-*"))) == 1
    convert(source, tmp_path / "store")
    assert TrajectoryStore.open(tmp_path / "store").num_steps == 5
    assert list(tmp_path.glob(".store.*")) == []


@pytest.mark.slow
def test_conversions_killed_at_any_moment(tmp_path: Path) -> None:
    """Fifty kills, spread over the time that a conversion takes: the store is whole or not there."""
    source = write_d4rl(tmp_path / "log.hdf5", make_log([200] * 200, ["terminal"] * 200, seed=0))
    command = "import sys; from offrl.data.convert import convert; convert(sys.argv[1], sys.argv[2], overwrite=True)"
    arguments = [sys.executable, "-c", command, str(source), str(tmp_path / "store")]
    started = time.monotonic()
    subprocess.run(arguments, check=True)
    whole = time.monotonic() - started
    fingerprint = TrajectoryStore.open(tmp_path / "store").fingerprint
    for attempt in range(50):
        process = subprocess.Popen(arguments)
        time.sleep(whole * (0.5 + attempt / 80))
        process.send_signal(signal.SIGKILL)
        process.wait()
        conversion._tidy_up(tmp_path / "store")
        assert TrajectoryStore.open(tmp_path / "store").fingerprint == fingerprint
