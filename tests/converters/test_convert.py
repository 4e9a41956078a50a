"""What a conversion records, which format it takes a source for, and what it tidies up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from offrl.converters import ConvertOptions, convert, plan_conversion
from offrl.data.store import StoreWriter, TrajectoryStore
from offrl.errors import DatasetNotFoundError, DiskFullError, RequestError, SourceError
from tests.converters.logs import make_log, write_d4rl


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


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DiskFullError("the disk is full", where="here", hint="free some space")

    monkeypatch.setattr(StoreWriter, "append", full)
    with pytest.raises(DiskFullError):
        convert(source, tmp_path / "out" / "store")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_killed_conversions_left_is_removed_or_given_back(tmp_path: Path, source: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    partial = tmp_path / f".store.partial-{process.pid}-00000000"
    replaced = tmp_path / f".store.replaced-{process.pid}-00000000"
    running = tmp_path / f".store.partial-{os.getpid()}-00000000"
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
    assert "d4rl" in raised.value.hint
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
