"""HDF5 files that lead to other files are refused by whoever opens them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from offrl.converters import plan_conversion
from offrl.converters.expansion import MAX_EXPANSION
from offrl.converters.readers.hdf5 import open_hdf5
from offrl.errors import SourceError

WAYS: dict[str, Callable[[h5py.File, Path], object]] = {}


def way(function: Callable[[h5py.File, Path], object]) -> Callable[[h5py.File, Path], object]:
    WAYS[function.__name__] = function
    return function


@way
def external_storage(file: h5py.File, secret: Path) -> object:
    return file.create_dataset("observations", shape=(16, 4), dtype="u1", external=[(str(secret), 0, 64)])


@way
def external_link(file: h5py.File, secret: Path) -> object:
    file["observations"] = h5py.ExternalLink(str(secret), "/observations")
    return file


@way
def external_link_behind_a_soft_one(file: h5py.File, secret: Path) -> object:
    file["away"] = h5py.ExternalLink(str(secret), "/")
    file["observations"] = h5py.SoftLink("/away/observations")
    return file


@way
def virtual_layout(file: h5py.File, secret: Path) -> object:
    layout = h5py.VirtualLayout((16, 4), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "observations", (16, 4))
    return file.create_virtual_dataset("observations", layout)


@way
def within_a_group(file: h5py.File, secret: Path) -> object:
    return external_storage(file.create_group("metadata"), secret)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(64, dtype="f4").reshape(16, 4)
    return path


def fill(file: h5py.File) -> None:
    file["actions"], file["rewards"] = np.zeros((16, 1), "f4"), np.zeros(16, "f4")
    file["terminals"], file["timeouts"] = np.arange(16) == 15, np.zeros(16, bool)


@pytest.mark.parametrize("way", WAYS)
def test_what_lies_in_another_file_is_not_read(tmp_path: Path, secret: Path, way: str) -> None:
    path = tmp_path / "log.hdf5"
    with h5py.File(path, "w") as file:
        fill(file)
        WAYS[way](file, secret)
    with pytest.raises(SourceError, match=r"another file, and only the file that was named is read"):
        plan_conversion(path)


def test_links_within_the_file_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "log.hdf5"
    with h5py.File(path, "w") as file:
        fill(file)
        file["observations"] = np.zeros((16, 4), "f4")
        file["again"] = h5py.SoftLink("/observations")
        file["loop"] = file["/"]
    with open_hdf5(path, MAX_EXPANSION) as file:
        assert file["again"].shape == (16, 4)
    assert plan_conversion(path).steps == 16
