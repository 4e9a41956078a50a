"""Sources that declare much more than they hold are refused before anything of that size is made."""

from __future__ import annotations

import gzip
import resource
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offrl.converters import ConvertOptions, plan_conversion
from offrl.converters.expansion import ALWAYS_READ, check_expansion
from offrl.errors import RequestError, SourceError

ROWS = 10**9
WAYS: dict[str, Callable[[Path], Path]] = {}


def way(function: Callable[[Path], Path]) -> Callable[[Path], Path]:
    WAYS[function.__name__] = function
    return function


@way
def hdf5_that_was_never_written(folder: Path) -> Path:
    path = folder / "log.hdf5"
    with h5py.File(path, "w") as file:
        for name, shape in (("observations", (ROWS, 4)), ("actions", (ROWS, 1)), ("rewards", (ROWS,))):
            file.create_dataset(name, shape, "f4", chunks=True)
        for name in ("terminals", "timeouts"):
            file.create_dataset(name, (ROWS,), "b1", chunks=True)
    return path


@way
def archive_of_zeros(folder: Path) -> Path:
    path = folder / "log.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("observations", "actions", "rewards", "terminals", "timeouts"):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "|u1", "fortran_order": False, "shape": (2**26, 1)}
                )
                for _ in range(64):
                    member.write(bytes(2**20))
    return path


@way
def runs_in_parquet(folder: Path) -> Path:
    path = folder / "log.parquet"
    zeros = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2**22, np.int8)), pa.array([0.0]))
    names = ("observation", "action", "reward", "terminated", "truncated", "info.a", "info.b", "info.c", "info.d")
    pq.write_table(pa.table(dict.fromkeys(names, zeros)), path, store_schema=False)
    return path


@way
def text_in_gzip(folder: Path) -> Path:
    path = folder / "log.csv.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"observation,action,reward,terminated\n")
        for _ in range(300):
            file.write(b"0,0,0,0\n" * 2**17)
    return path


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Two gigabytes more than there are in use: what is declared would not fit."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("way", WAYS)
def test_much_more_than_there_is_is_refused(tmp_path: Path, way: str) -> None:
    path = WAYS[way](tmp_path)
    format = "csv" if path.suffix == ".gz" else None
    with pytest.raises(SourceError, match=r"bytes declare") as refused:
        plan_conversion(path, format=format)
    assert "--max-expansion" in refused.value.hint


def test_an_array_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("observations.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": True, "shape": (10**12, 2)})
    with pytest.raises(SourceError, match="declares 16,000,000,000,000 bytes"):
        plan_conversion(path)


def test_what_is_allowed_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(2**20))
    check_expansion(ALWAYS_READ, [file], 1)
    check_expansion(300 * 2**20, [file], 300)
    with pytest.raises(SourceError, match="301 times as many"):
        check_expansion(300 * 2**20 + 1, [file], 299)
    with pytest.raises(RequestError, match="largest expansion of 0"):
        ConvertOptions(max_expansion=0)


def test_the_user_may_allow_more(tmp_path: Path) -> None:
    path = tmp_path / "log.hdf5"
    with h5py.File(path, "w") as file:
        for name, shape in (("observations", (2**16, 2**10)), ("actions", (2**16, 1)), ("rewards", (2**16,))):
            file.create_dataset(name, shape, "f4" if name != "observations" else "f8", chunks=True, compression="gzip")
        for name in ("terminals", "timeouts"):
            file.create_dataset(name, data=np.arange(2**16) == 2**16 - 1, chunks=True, compression="gzip")
    with pytest.raises(SourceError, match="bytes declare"):
        plan_conversion(path)
    options = ConvertOptions(max_expansion=10**6)
    assert plan_conversion(path, options=options).steps == 2**16
