"""Which format a path holds, and formats of other packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offrl import plugins
from offrl.converters import ConvertOptions, Format, convert, plan_conversion
from offrl.converters.formats import detect, format_of
from offrl.converters.report import Log
from offrl.converters.source import Source
from offrl.errors import PluginError, RequestError, SourceError
from tests.plugged import plug


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros(3)


def write_npz(*keys: str) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **{key: np.zeros(3) for key in keys})


def write_json(name: str, value: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / name).parent.mkdir(parents=True)
        (path / name).write_text(json.dumps(value))

    return write


def write_hugging_face(path: Path) -> None:
    write_json("dataset_info.json", {"features": {"obs": 0, "acts": 0, "terminal": 0}})(path)
    (path / "state.json").write_text("{}")


@pytest.mark.parametrize(
    ("name", "write", "format"),
    [
        ("log.hdf5", write_hdf5, "d4rl"),
        ("log.bin", write_hdf5, "d4rl"),
        ("log.csv", write_hdf5, "d4rl"),
        ("log.npz", write_npz("observations", "actions", "terminals"), "ogbench"),
        ("log.npz", write_npz("observations", "actions", "terminals", "rewards"), "npz"),
        ("log.npz", write_npz("obs", "acts", "terminal", "indices"), "imitation"),
        ("log.npz", write_npz("x"), "npz"),
        ("log.parquet", lambda path: pq.write_table(pa.table({"x": [1]}), path), "parquet"),
        ("log", lambda path: pq.write_table(pa.table({"x": [1]}), path), "parquet"),
        ("log.csv", lambda path: path.write_text("x\n1\n"), "csv"),
        ("log.TSV", lambda path: path.write_text("x\n1\n"), "csv"),
        ("log.ndjson", lambda path: path.write_text("{}\n"), "jsonl"),
        ("log.pkl", lambda path: path.write_bytes(b"\x80"), "paths"),
        ("set", write_json("metadata.json", {"data_format": "hdf5"}), "minari"),
        ("set.csv", write_json("data/metadata.json", {"data_format": "hdf5"}), "minari"),
        ("set", write_hugging_face, "imitation"),
    ],
)
def test_each_format_is_recognized(name: str, write: Callable[[Path], None], format: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    assert detect(tmp_path / name) == format


def test_what_is_no_source_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.xyz").write_text("?")
    with pytest.raises(SourceError, match="not known") as caught:
        detect(tmp_path / "log.xyz")
    assert caught.value.hint == f"name it with --from: {', '.join(plugins.formats)}"
    (tmp_path / "log.csv").touch()
    with pytest.raises(SourceError, match="empty"):
        detect(tmp_path / "log.csv")
    (tmp_path / "log.npz").write_bytes(b"PK\x03\x04, and cut")
    with pytest.raises(SourceError, match="cut short or damaged"):
        detect(tmp_path / "log.npz")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SourceError, match="not known"):
        detect(tmp_path / "folder.csv")
    (tmp_path / "folder.csv" / "steps.parquet").touch()
    with pytest.raises(RequestError, match="offrl exported"):
        detect(tmp_path / "folder.csv")


def test_every_format_says_what_it_is() -> None:
    for name in plugins.formats:
        assert format_of(name).description, name
    with pytest.raises(RequestError, match="no format 'cvs'") as caught:
        format_of("cvs")
    assert caught.value.hint.startswith("did you mean csv? ")


def test_telling_formats_apart_loads_no_library_that_reads_them(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("x\n1\n")
    code = (
        "import sys; from pathlib import Path; from offrl.converters.formats import detect\n"
        "assert detect(Path(sys.argv[1])) == 'csv'\n"
        "print(*sorted({'h5py', 'minari', 'pyarrow.dataset', 'pyarrow.parquet', 'pandas'} & sys.modules.keys()))"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "log.csv")]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.split() == []


def open_as_csv(path: Path, options: ConvertOptions, log: Log) -> Source:
    """What a package that adds a format would bring."""
    log.note("read by another package")
    return format_of("csv").open(path, options, log)


SIMULATOR = Format(
    "my simulator's log", open_as_csv, (".simlog",), detect=lambda path, start: start.startswith(b"step")
)
SUFFIX = Format("another table", f"{__name__}:open_as_csv", (".csv", ".simlog"))
MAPPING = {"observation": "x", "action": "a", "truncated": ""}
OPTIONS = ConvertOptions(mapping=MAPPING, action_bounds=(-1, 1))
TABLE = "step,x,a,reward,terminated\n0,1,0.5,1,0\n1,2,0.5,1,1\n"


def test_another_packages_format_is_detected_and_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, plugins.formats, simulator=f"{__name__}:SIMULATOR", similar=f"{__name__}:SUFFIX")
    path = tmp_path / "log.csv"
    path.write_text(TABLE)
    # What looks into a file goes before what only knows its suffix, be it offrl's own.
    assert detect(path) == "simulator"
    report = convert(path, tmp_path / "store", options=OPTIONS)
    assert (report.format, report.steps) == ("simulator", 2)
    assert "read by another package" in report.notes
    assert plan_conversion(path, format="similar", options=OPTIONS).format == "similar"


def test_a_path_that_may_be_of_two_formats_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, plugins.formats, similar=f"{__name__}:SUFFIX")
    (tmp_path / "log.csv").write_text("x\n1\n")
    with pytest.raises(RequestError, match="this may be csv or similar") as caught:
        detect(tmp_path / "log.csv")
    assert "--from" in caught.value.hint


def test_a_format_that_does_not_load_is_told_only_where_nothing_else_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(monkeypatch, plugins.formats, broken="no_such_module:FORMAT", wrong="json:dumps")
    (tmp_path / "log.csv").write_text("x\n1\n")
    assert detect(tmp_path / "log.csv") == "csv"
    (tmp_path / "log.xyz").write_text("x")
    with pytest.raises(PluginError):
        detect(tmp_path / "log.xyz")
    with pytest.raises(PluginError, match="'wrong' is a function, not a") as caught:
        format_of("wrong")
    assert caught.value.where == "other 1.2"
