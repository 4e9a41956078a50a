"""NumPy archives with one row per transition, and the rows of any archive."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from offrl.converters.boundary_columns import point_at
from offrl.converters.expansion import check_expansion
from offrl.converters.field_mapping import assign_fields
from offrl.converters.formats import Format
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.flagged_arrays import flagged_source
from offrl.converters.report import Log
from offrl.converters.source import ColumnInfo, Source
from offrl.errors import SourceError


def open_npz(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand an archive of aligned arrays with one row per transition.

    Raises:
        SourceError: it can't be read, or a required key is missing.
        DataError: its arrays have different lengths.
        RequestError: it has no truncation flags and no time limit was given.
    """
    headers = read_headers(path, options.max_expansion)
    available = {key: header.info for key, header in headers.items()}
    lengths = {key: header.rows for key, header in headers.items()}
    keys, count = assign_fields(available, lengths, options.mapping, where=str(path), log=log)
    columns = {name: info for name, key in keys.items() if (info := available[key])}
    rows = NpzRows(path, keys, columns, count)
    pointer = point_at(available, keys.values())
    return flagged_source(rows, path, options, log, terminal_may_be_limit=True, provenance={}, pointer=pointer)


def archive_keys(path: Path, start: bytes) -> set[str]:
    """The names of an archive's arrays; empty unless a file is one, by its suffix and its first bytes.

    Raises:
        SourceError: it is cut short or damaged.
    """
    if path.suffix.lower() != ".npz" or not start.startswith(b"PK"):
        return set()
    with _open_archive(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


@contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; errors while it is read become a SourceError too."""
    if path.stat().st_size == 0:
        raise SourceError("the file is empty", where=str(path), hint="copy or download it again")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(
            f"the file is cut short or damaged, or no NumPy archive ({error})",
            where=str(path),
            hint="copy or download it again",
        ) from error


@dataclass(frozen=True)
class Header:
    """What an array's header says: rows, what one holds (None where it is no numbers), and the order in memory."""

    rows: int
    info: ColumnInfo | None
    fortran: bool


def read_headers(path: Path, max_expansion: int) -> dict[str, Header]:
    """Key to what the array's header says; arrays of no dimension are left aside.

    Raises:
        SourceError: the file is damaged, or an array is declared that isn't there, or is much larger than the file.
    """
    headers: dict[str, Header] = {}
    with _open_archive(path) as archive:
        check_expansion(sum(item.file_size for item in archive.infolist()), [path], max_expansion)
        for item in archive.infolist():
            name = item.filename
            with archive.open(name) as member:
                shape, fortran, dtype = _read_header(member)
            if not dtype.hasobject and (size := math.prod(shape) * dtype.itemsize) > item.file_size:
                raise ValueError(f"'{name}' declares {size:,} bytes, and {item.file_size:,} are there")
            info = ColumnInfo(dtype, shape[1:]) if dtype.kind in "biuf" else None
            if shape:
                headers[name.removesuffix(".npy")] = Header(shape[0], info, fortran)
    return headers


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(member)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(member)


@dataclass(frozen=True)
class NpzRows:
    """The rows of an archive, under the store's names: `keys` tells which of its arrays each column is."""

    path: Path
    keys: Mapping[str, str]
    columns: Mapping[str, ColumnInfo]
    count: int

    def slices(self, bounds: Sequence[tuple[int, int]], names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
        with _open_archive(self.path) as archive, ExitStack() as stack:
            members = {name: stack.enter_context(archive.open(f"{self.keys[name]}.npy")) for name in names}
            arrays = {name: _Reader(member) for name, member in members.items()}
            for start, stop in bounds:
                yield {name: array.read(start, stop) for name, array in arrays.items()}


class _Reader:
    """Reads rows of one array as the archive unpacks it; arrays in Fortran order are read whole."""

    def __init__(self, member: IO[bytes]) -> None:
        shape, fortran, self._dtype = _read_header(member)
        self._shape = shape[1:]
        self._row_bytes = int(self._dtype.itemsize * np.prod(self._shape, dtype=np.int64))
        self._member = member
        self._position = 0
        self._whole: NDArray[Any] | None = None
        if fortran:
            flat = np.frombuffer(self._exactly(shape[0] * self._row_bytes), self._dtype)
            self._whole = flat.reshape(shape, order="F")

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if self._whole is not None:
            return np.array(self._whole[start:stop], order="C")
        self._skip((start - self._position) * self._row_bytes)
        data = self._exactly((stop - start) * self._row_bytes)
        self._position = stop
        array = np.frombuffer(data, self._dtype).reshape(stop - start, *self._shape)
        return array.astype(self._dtype.newbyteorder("="))

    def _skip(self, count: int) -> None:
        while count > 0:
            piece = min(count, 2**20)
            self._exactly(piece)
            count -= piece

    def _exactly(self, count: int) -> bytes:
        data = self._member.read(count)
        if len(data) != count:
            raise EOFError(f"{len(data)} of {count} bytes are there")
        return data


FORMAT = Format("NumPy archive, one row per transition", open_npz, suffixes=(".npz",))
