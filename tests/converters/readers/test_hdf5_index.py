"""Reading HDF5 past its library gives what the library gives, or refuses."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offrl.converters.readers.hdf5_index import DirectFile, UnusualLayout


def address_of(file: h5py.File, name: str) -> int:
    return int(h5py.h5o.get_info(file[name].id).addr)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    chunk=st.lists(st.integers(1, 15), min_size=3, max_size=3),
    dtype=st.sampled_from(["f4", "f8", "i8", "u1", "?"]),
    resizable=st.booleans(),
)
def test_chunked_arrays(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], chunk: list[int], dtype: str, resizable: bool
) -> None:
    path = tmp_path_factory.mktemp("direct") / "file.hdf5"
    data = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    chunks = tuple(min(c, n) for c, n in zip(chunk, shape, strict=False))
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=data, chunks=chunks, maxshape=(None, *shape[1:]) if resizable else None)
    with h5py.File(path, "r") as file, DirectFile(path) as direct:
        array = direct.array(address_of(file, "a"), "a")
        assert array.shape == tuple(shape)
        out = np.empty(shape, dtype)
        direct.read(array, out)
    np.testing.assert_array_equal(out, data)


def test_arrays_that_were_taken_for_alike_and_are_not(tmp_path: Path) -> None:
    """The form of one header is tried on the next: it must not be mistaken for it."""
    path = tmp_path / "file.hdf5"
    rng = np.random.default_rng(0)
    arrays: list[NDArray[Any]] = [rng.standard_normal(shape) for shape in [(5,), (7,), (3, 4), (9,), (2, 2, 2), (8,)]]
    arrays += [np.arange(6), np.arange(6, dtype=np.float32), np.arange(6) > 2]
    with h5py.File(path, "w") as file:
        for index, array in enumerate(arrays):
            file.create_dataset(f"{index}", data=array, chunks=True, maxshape=(None, *array.shape[1:]))
        file.create_dataset("packed", data=arrays[0], chunks=True, compression="gzip")
        file.create_dataset("fixed", data=arrays[0], chunks=(2,))
    with h5py.File(path, "r") as file, DirectFile(path) as direct:
        for index, array in enumerate(arrays):
            found = direct.array(address_of(file, f"{index}"), "same")
            out = np.empty_like(array)
            direct.read(found, out)
            np.testing.assert_array_equal(out, array)
        assert direct.array(address_of(file, "0"), "same").datatype == direct.array(address_of(file, "5"), "x").datatype
        assert direct.array(address_of(file, "6"), "same").datatype != direct.array(address_of(file, "5"), "x").datatype
        with pytest.raises(UnusualLayout):
            direct.array(address_of(file, "packed"), "same")
        assert direct.array(address_of(file, "fixed"), "same").chunk == (2,)


def test_groups_with_many_members_and_nested_ones(tmp_path: Path) -> None:
    path = tmp_path / "file.hdf5"
    with h5py.File(path, "w") as file:
        for i in range(300):  # several nodes of the group's tree
            file[f"group/member {i}"] = i
        file["group/sub/e"] = 1
    with h5py.File(path, "r") as file, DirectFile(path) as direct:
        found = direct.members(address_of(file, "group"), "")
        assert found == {name: address_of(file, f"group/{name}") for name in file["group"]}
        assert list(direct.members(found["sub"], "sub")) == ["e"]


def test_groups_that_were_taken_for_alike_and_are_not(tmp_path: Path) -> None:
    path = tmp_path / "file.hdf5"
    members = [["a", "b"], ["a", "b"], ["a", "c"], ["a"], ["aa", "bb", "c"], ["b", "a"]]
    with h5py.File(path, "w") as file:
        for index, names in enumerate(members):
            for name in names:
                file[f"{index}/{name}"] = 0
    with h5py.File(path, "r") as file, DirectFile(path) as direct:
        for index in range(len(members)):
            found = direct.members(address_of(file, f"{index}"), "same")
            assert found == {name: address_of(file, f"{index}/{name}") for name in file[f"{index}"]}


def test_integer_attributes(tmp_path: Path) -> None:
    path = tmp_path / "file.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("group")
        for name, value in {"id": 3, "seed": 2**64 - 1, "offset": -5, "total_steps": np.int64(7)}.items():
            group.attrs[name] = value
        group.attrs["ratio"] = 0.5
        group.attrs["small"] = np.int8(1)
    with h5py.File(path, "r") as file, DirectFile(path) as direct:
        address = address_of(file, "group")
        values = {name: direct.integer_attribute(address, name) for name in ("id", "seed", "offset", "none")}
        assert values == {"id": 3, "seed": 2**64 - 1, "offset": -5, "none": None}
        for name in ("ratio", "small"):
            with pytest.raises(UnusualLayout):
                direct.integer_attribute(address, name)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (5,), "compression": "gzip"},
        {"chunks": (5,), "shuffle": True},
        {},  # contiguous
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "file.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=np.arange(20), **options)
    with h5py.File(path, "r") as file, DirectFile(path) as direct, pytest.raises(UnusualLayout):
        direct.array(address_of(file, "a"), "a")


def test_chunks_that_were_never_written_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (20,), np.float32, chunks=(5,))[:5] = 1
    with h5py.File(path, "r") as file, DirectFile(path) as direct, pytest.raises(UnusualLayout):
        direct.array(address_of(file, "a"), "a")


def test_newer_files_and_wrong_addresses_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.hdf5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("g/a", data=np.arange(20), chunks=(5,))
    with h5py.File(path, "r") as file, DirectFile(path) as direct:
        for read in (direct.members, direct.array):
            with pytest.raises(UnusualLayout):
                read(address_of(file, "g"), "")
            for address in (0, 7, path.stat().st_size - 3, 2**62):
                with pytest.raises(UnusualLayout):
                    read(address, "")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, list[int]]:
    """A file to damage, what is in it, and the addresses of a group and of an array."""
    path = tmp_path_factory.mktemp("direct") / "file.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("g/a", data=np.arange(20.0), chunks=(5,))
        file["g"].attrs["seed"] = 1
        addresses = [address_of(file, "g"), address_of(file, "g/a")]
    return path, path.read_bytes(), addresses


def read_damaged(intact: tuple[Path, bytes, list[int]], at: int, value: int) -> None:
    """One byte of the file is changed: nothing but `UnusualLayout` may come of reading its structures."""
    path, data, addresses = intact
    path.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
    with DirectFile(path) as direct:
        for address in addresses:
            with suppress(UnusualLayout):
                direct.members(address, "")
            with suppress(UnusualLayout):
                direct.integer_attribute(address, "seed")
            with suppress(UnusualLayout):
                array = direct.array(address, "a")
                if math.prod(array.shape) < 10_000:
                    direct.read(array, np.empty(array.shape))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_damage_anywhere_is_refused_or_harmless(intact: tuple[Path, bytes, list[int]], value: int) -> None:
    for at in range(100, len(intact[1])):
        read_damaged(intact, at, value)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), value=st.integers(0, 255))
def test_any_damage_is_refused_or_harmless(
    intact: tuple[Path, bytes, list[int]], data: st.DataObject, value: int
) -> None:
    read_damaged(intact, data.draw(st.integers(100, len(intact[1]) - 1)), value)
