"""The files of a table: parts in order, delimiters, encodings, one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offrl.converters import ConvertOptions, convert, plan_conversion
from offrl.data.store import TrajectoryStore
from offrl.errors import SourceError

FORMATS = ["csv", "jsonl", "parquet"]
OPTIONS = ConvertOptions(mapping={"observation": "x", "next_observation": "y"})


def table(rows: int) -> pd.DataFrame:
    ends = np.arange(rows) == rows - 1
    columns = {"x": np.arange(rows) * 1.0, "y": np.arange(rows) + 1.0, "action": np.arange(rows) % 3}
    return pd.DataFrame({**columns, "reward": 0.5, "terminated": False, "truncated": ends})


def write(part: pd.DataFrame, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".csv":
        part.to_csv(file, index=False)
    elif file.suffix == ".parquet":
        part.to_parquet(file, index=False)
    else:
        part.to_json(file, orient="records", lines=True)


def observations(path: Path) -> list[float]:
    episode: Any = TrajectoryStore.open(path).episode(0)
    return episode.observation[:, 0].tolist()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["part.{}", "part-{}-c0ffee", "{}", "day{}/log"])
def test_parts_come_in_the_order_of_their_numbers(tmp_path: Path, format: str, name: str) -> None:
    whole = table(24)
    for number in range(12):
        write(whole[2 * number : 2 * number + 2], tmp_path / "log" / f"{name.format(number)}.{format}")
    (tmp_path / "log" / "_SUCCESS").touch()
    (tmp_path / "log" / ".part.0.crc").write_bytes(b"\0\1")
    report = convert(tmp_path / "log", tmp_path / "store", format=format, options=OPTIONS)
    assert observations(tmp_path / "store") == list(range(25))
    assert any("12 files are read in the order" in note for note in report.notes)
    assert any("nothing but the names of the 12 files" in warning for warning in report.warnings)


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=2, max_size=14), first=st.integers(0, 120))
def test_any_parts_are_the_whole(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], first: int) -> None:
    folder = tmp_path_factory.mktemp("parts")
    whole, starts = table(sum(sizes)), np.cumsum([0, *sizes])
    for number, (start, size) in enumerate(zip(starts, sizes, strict=False)):
        write(whole[start : start + size], folder / "log" / f"part.{first + number}.csv")
    convert(folder / "log", folder / "store", format="csv", options=OPTIONS)
    assert observations(folder / "store") == list(range(len(whole) + 1))


def test_a_column_that_orders_the_rows_needs_no_warning(tmp_path: Path) -> None:
    whole = table(8).assign(t=range(8), trip=0)
    for number, rows in enumerate((whole[4:], whole[:4])):
        write(rows, tmp_path / "log" / f"{number}.csv")
    options = ConvertOptions(mapping={**OPTIONS.mapping, "episode": "trip", "step": "t"})
    report = convert(tmp_path / "log", tmp_path / "store", format="csv", options=options)
    assert observations(tmp_path / "store") == list(range(9))
    assert not any("files" in warning for warning in report.warnings)


def test_empty_parts_are_left_out_and_nothing_but_such_is_refused(tmp_path: Path) -> None:
    write(table(4), tmp_path / "log" / "1.csv")
    (tmp_path / "log" / "2.csv").touch()
    report = plan_conversion(tmp_path / "log", format="csv", options=OPTIONS)
    assert any("1 empty files" in note for note in report.notes)
    (tmp_path / "log" / "1.csv").unlink()
    with pytest.raises(SourceError, match="no files with rows"):
        plan_conversion(tmp_path / "log", format="csv", options=OPTIONS)


@pytest.mark.parametrize("format", FORMATS)
def test_one_thread_suffices(tmp_path: Path, format: str) -> None:
    """Arrow's pool has as many threads as this variable says; with one, its reader of JSON waited for itself."""
    for number in range(12):
        write(table(36)[3 * number : 3 * number + 3], tmp_path / "log" / f"part.{number}.{format}")
    code = (
        "from offrl.converters import ConvertOptions, plan_conversion\n"
        f"options = ConvertOptions(mapping={OPTIONS.mapping!r})\n"
        f"print(plan_conversion({str(tmp_path / 'log')!r}, format={format!r}, options=options).steps)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "36"


@pytest.mark.parametrize(("delimiter", "word"), [("\t", "tabs"), (";", "semicolons"), ("|", "bars")])
def test_another_delimiter_is_found_and_said(tmp_path: Path, delimiter: str, word: str) -> None:
    table(4).to_csv(tmp_path / "log.csv", index=False, sep=delimiter)
    report = convert(tmp_path / "log.csv", tmp_path / "store", options=OPTIONS)
    assert observations(tmp_path / "store") == list(range(5))
    assert f"the columns are separated by {word}, not by commas" in report.notes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_names_in_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    table(4).rename(columns={"x": "Höhe"}).to_csv(tmp_path / "log.csv", index=False, encoding=encoding)
    options = ConvertOptions(mapping={"observation": "Höhe", "next_observation": "y"})
    report = convert(tmp_path / "log.csv", tmp_path / "store", options=options)
    assert observations(tmp_path / "store") == list(range(5))
    said = [note for note in report.notes if f"not UTF-8: it is read as {encoding};" in note]
    assert len(said) == (encoding in ("latin-1", "utf-16"))


def test_json_in_another_encoding_is_refused(tmp_path: Path) -> None:
    lines = table(4).assign(ort="Köln").to_json(orient="records", lines=True, force_ascii=False)
    (tmp_path / "log.jsonl").write_bytes(lines.encode("latin-1"))
    with pytest.raises(SourceError, match="not UTF-8"):
        plan_conversion(tmp_path / "log.jsonl", options=OPTIONS)


def test_a_packed_table_is_unpacked(tmp_path: Path) -> None:
    table(4).to_csv(tmp_path / "log.csv.gz", index=False, sep="\t")
    report = convert(tmp_path / "log.csv.gz", tmp_path / "store", format="csv", options=OPTIONS)
    assert observations(tmp_path / "store") == list(range(5))
    assert "the columns are separated by tabs, not by commas" in report.notes


def test_files_of_other_kinds_are_left_out(tmp_path: Path) -> None:
    write(table(4), tmp_path / "log" / "part.0.csv")
    (tmp_path / "log" / "README.md").write_text("About these logs")
    report = convert(tmp_path / "log", tmp_path / "store", format="csv", options=OPTIONS)
    assert observations(tmp_path / "store") == list(range(5))
    assert "1 files of other kinds are left out" in report.notes


@pytest.mark.parametrize("format", FORMATS)
def test_a_part_that_lacks_a_column_is_named(tmp_path: Path, format: str) -> None:
    whole = table(6).assign(more=1.0)
    write(whole[:3], tmp_path / "log" / f"part.0.{format}")
    write(whole[3:].drop(columns="more"), tmp_path / "log" / f"part.1.{format}")
    assert plan_conversion(tmp_path / "log", format=format, options=OPTIONS).steps == 6
    write(whole[3:].drop(columns="x"), tmp_path / "log" / f"part.1.{format}")
    with pytest.raises(SourceError, match="no column 'x'") as raised:
        plan_conversion(tmp_path / "log", format=format, options=OPTIONS)
    assert f"part.1.{format}" in raised.value.where


def test_a_refusal_lists_twenty_columns_at_most(tmp_path: Path) -> None:
    names = ["action", "reward", *(f"c{number}" for number in range(504))]
    (tmp_path / "log.csv").write_text(",".join(names) + "\n" + ",".join("0" for _ in names) + "\n")
    with pytest.raises(SourceError, match="no column 'z'") as raised:
        plan_conversion(tmp_path / "log.csv", options=ConvertOptions(mapping={"observation": "z"}))
    assert "and 486 more" in raised.value.hint
    assert len(raised.value.hint) < 300
