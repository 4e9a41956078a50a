"""Git LFS pointers in the place of sources: named as such, whatever the format."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.converters import ConvertOptions, plan_conversion
from offrl.converters.lfs_pointers import naming_pointers
from offrl.errors import OffrlError, RequestError, SourceError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1048576\n"


@pytest.mark.parametrize("name", ["d.hdf5", "d.h5", "d.npz", "d.parquet", "d.csv", "d.tsv", "d.jsonl", "d.pkl", "d"])
@pytest.mark.parametrize("format", [None, "d4rl", "npz", "parquet", "csv", "jsonl", "ogbench", "paths"])
def test_a_pointer_is_named(tmp_path: Path, name: str, format: str | None) -> None:
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(SourceError, match="Git LFS pointer") as raised:
        plan_conversion(tmp_path / name, format=format, options=ConvertOptions(allow_pickle=True))
    assert raised.value.where == str(tmp_path / name)
    assert "git lfs pull" in raised.value.hint


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_pointer_in_a_folder_is_named(tmp_path: Path, format: str) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / f"part.0.{format}").write_text(POINTER)
    with pytest.raises(SourceError, match="Git LFS pointer") as raised:
        plan_conversion(tmp_path / "log", format=format)
    assert "part.0" in raised.value.where


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("x\n1\n")
    error = RequestError("something else")
    with pytest.raises(OffrlError) as raised, naming_pointers(tmp_path):
        raise error
    assert raised.value is error
