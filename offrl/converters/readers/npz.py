"""NumPy archives: rows of transitions, or OGBench's trajectories of states (Park et al., 2025)."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from offrl.converters.field_mapping import assign_fields
from offrl.converters.infer_spaces import spec_of
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.flagged_arrays import flagged_source
from offrl.converters.readers.imitation import is_imitation_npz
from offrl.converters.report import Log
from offrl.converters.rows_to_episodes import episodes_from, settle, stream
from offrl.converters.source import ColumnInfo, Source, are_set, read_whole
from offrl.data import schema
from offrl.errors import SourceError

_OGBENCH_KEYS = {"observations", "actions", "terminals"}


def open_npz(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand an archive of aligned arrays with one row per transition.

    Raises:
        SourceError: it can't be read, or a required key is missing.
        DataError: its arrays have different lengths.
        RequestError: it has no truncation flags and no time limit was given.
    """
    headers = _headers(path)
    available = {key: header.info for key, header in headers.items()}
    lengths = {key: header.rows for key, header in headers.items()}
    keys, count = assign_fields(available, lengths, options.mapping, where=str(path), log=log)
    columns = {name: info for name, key in keys.items() if (info := available[key])}
    rows = NpzRows(path, keys, columns, count)
    return flagged_source(rows, path, options, log, terminal_may_be_limit=True, provenance={})


def open_ogbench(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand an OGBench file: T + 1 rows per trajectory, `terminals` at the last one, whose action is invalid.

    Raises:
        SourceError: it can't be read, or a required key is missing.
        DataError: its arrays have different lengths.
    """
    headers = _headers(path)
    available = {key: header.info for key, header in headers.items()}
    lengths = {key: header.rows for key, header in headers.items()}
    required = (schema.OBSERVATION, schema.ACTION, schema.TERMINATED)
    keys, count = assign_fields(
        available, lengths, options.mapping, where=str(path), log=log, required=required, keep_others=True
    )
    columns = {name: info for name, key in keys.items() if (info := available[key])}
    rows = NpzRows(path, keys, columns, count)
    ends = are_set(read_whole(rows, schema.TERMINATED))
    last = np.union1d(np.flatnonzero(ends), count - 1)
    if not ends[-1]:
        log.warn("the last trajectory has no end mark; the file may have been cut")
    log.note("OGBench marks the end of a trajectory, which is no terminal state: every episode counts as truncated")
    log.note("the last row of each trajectory gives its final observation; its action is invalid and not used")
    _mention_companion(path, log)
    episodes = episodes_from(last, np.zeros(len(last), np.bool_), ends[last])
    episodes = replace(episodes, shortened=np.ones(len(last), np.bool_))
    episodes = settle(episodes, has_next=True, timeouts="keep", log=log)
    spec = spec_of(rows, options, where=str(path), log=log, without_action=last if len(episodes) else None)
    return Source(
        spec=spec,
        rows=count,
        chunks=lambda: stream(rows, episodes, spec, label=path.name, log=log),
        environment=options.environment,
    )


def detect_npz(path: Path) -> str:
    """The name of an archive's format, by its keys."""
    with _open_archive(path) as archive:
        keys = {name.removesuffix(".npy") for name in archive.namelist()}
    if is_imitation_npz(keys):
        return "imitation"
    # Logs of transitions have rewards or truncation flags, OGBench has neither.
    plain = keys & {"rewards", "timeouts", "truncations", "next_observations"}
    return "ogbench" if keys >= _OGBENCH_KEYS and not plain else "npz"


def _mention_companion(path: Path, log: Log) -> None:
    companion = path.with_name(f"{path.stem}-val{path.suffix}")
    if companion.is_file():
        log.note(
            f"the validation trajectories lie beside it, in {companion.name}: convert them to a store of their own"
        )


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
class _Header:
    rows: int
    info: ColumnInfo | None
    fortran: bool


def _headers(path: Path) -> dict[str, _Header]:
    """Key to what the array's header says; arrays of no dimension are left aside."""
    headers: dict[str, _Header] = {}
    with _open_archive(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                shape, fortran, dtype = _read_header(member)
            info = ColumnInfo(dtype, shape[1:]) if dtype.kind in "biuf" else None
            if shape:
                headers[name.removesuffix(".npy")] = _Header(shape[0], info, fortran)
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
