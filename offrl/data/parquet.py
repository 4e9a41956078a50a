"""Stores as Parquet: small, and readable by everything; how datasets are bundled and handed on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from offrl.checksums import file_sha256, known_sha256
from offrl.data.schema import ColumnSpec, StoreMetadata
from offrl.data.shard import misalignment
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.data.store_folder import CARD_FILE
from offrl.data.trajectories import Trajectories
from offrl.documents import checked, parse_json
from offrl.errors import RequestError, SourceError
from offrl.files import remove_leftovers, whole_folder, write_whole

if TYPE_CHECKING:
    import pyarrow.parquet as pq

STEPS_FILE, EPISODES_FILE = "steps.parquet", "episodes.parquet"
CHECKSUMS_FILE = "SHA256SUMS"
"""As `sha256sum -c` reads it. Version 0.1.0 exported none."""
_METADATA_KEY = b"offrl"
_EPISODE_TYPES = {"length": pa.int64(), "seed": pa.int64(), "source": pa.string()}
_HINT = "fetch or export it again"
_ROWS_PER_GROUP = 131_072
_ALWAYS_UNPACKED, _MAX_EXPANSION = 2**30, 10_000
"""Bytes of a row group that are unpacked in any case, and otherwise at most so many times what is stored of it."""
_NAMES = {STEPS_FILE, EPISODES_FILE, CHECKSUMS_FILE, CARD_FILE}


def write_parquet(store: Trajectories, folder: Path, *, overwrite: bool = False) -> None:
    """Write `steps.parquet` (T + 1 rows an episode, as in the store) and `episodes.parquet` (length, seed, source).

    Row groups hold whole episodes. The store's metadata (spaces, environment, provenance, reference scores) lies in the
    schema metadata of the steps, so the two files are the dataset. Beside them are their checksums.

    Args:
        store: a store or a selection from one.
        folder: a new one; it appears when it is whole.
        overwrite: replace a folder of such files.

    Raises:
        RequestError: something is there already.
        DiskFullError: there is no room; nothing is left behind.
        StoreError: the folder can't be written for another reason.
    """
    import pyarrow.parquet as pq

    require_parquet_or_nothing(folder, overwrite=overwrite)
    columns = store.metadata.columns
    metadata = {key: value for key, value in store.metadata.to_json().items() if key not in ("shards", "statistics")}
    fields = [pa.field(column.name, _arrow_type(column)) for column in columns]
    schema = pa.schema(fields, metadata={_METADATA_KEY: json.dumps(metadata).encode()})
    with whole_folder(folder, overwrite=overwrite) as temporary:
        temporary.mkdir()
        with pq.ParquetWriter(temporary / STEPS_FILE, schema, **_encoding(columns)) as writer:
            for block in store.iterate_blocks(_ROWS_PER_GROUP):
                arrays = [_to_arrow(column, block.columns[column.name]) for column in columns]
                writer.write_table(pa.table(arrays, schema=schema), row_group_size=block.num_rows)
        pq.write_table(_episode_table(store), temporary / EPISODES_FILE, compression="zstd")
        sums = [f"{file_sha256(temporary / name)}  {name}\n" for name in (STEPS_FILE, EPISODES_FILE)]
        write_whole(temporary / CHECKSUMS_FILE, "".join(sums))


def require_parquet_or_nothing(dest: Path, *, overwrite: bool) -> None:
    """Raise `RequestError` unless Parquet files may be written here: nothing is here, or such files to be replaced.

    What a killed writer was replacing is given back first.
    """
    remove_leftovers(dest.parent)
    if not os.path.lexists(dest):
        return
    if not overwrite:
        raise RequestError("the destination exists", where=str(dest), hint="give another folder, or say --overwrite")
    foreign = [] if dest.is_symlink() or not dest.is_dir() else sorted(set(os.listdir(dest)) - _NAMES)
    if not (dest / STEPS_FILE).is_file() or foreign:
        raise RequestError(
            "only a folder of steps.parquet and episodes.parquet is overwritten, and this is something else",
            where=str(dest / foreign[0] if foreign else dest),
            hint="give another folder, or move it away",
        )


def unpack_parquet(folder: Path, destination: Path) -> TrajectoryStore:
    """The inverse of `write_parquet`: a store with the same rows, bit for bit.

    Raises:
        SourceError: a file is missing, damaged, or not of a dataset that offrl wrote.
    """
    import pyarrow.parquet as pq

    content_of(folder)
    try:
        steps, episodes = pq.ParquetFile(folder / STEPS_FILE), pq.ParquetFile(folder / EPISODES_FILE)
        metadata = _metadata(steps, folder)
        _require_stored(steps, episodes, metadata, folder)
        _require_columns(steps.schema_arrow, {each.name: _arrow_type(each) for each in metadata.columns}, folder)
        _require_columns(episodes.schema_arrow, _EPISODE_TYPES, folder)
        with StoreWriter(
            destination,
            metadata.spec,
            environment=metadata.environment,
            provenance=metadata.provenance,
            reference_scores=metadata.reference_scores,
            name=metadata.name,
            fingerprint_version=metadata.fingerprint_version,
        ) as writer:
            for block in _blocks(steps, episodes.read(), metadata.columns, folder):
                writer.append(block)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise SourceError(f"the Parquet dataset can't be read ({error})", where=str(folder), hint=_HINT) from error
    return TrajectoryStore.open(destination)


def content_of(folder: Path) -> str:
    """Names the content of the files by their checksums, which are compared with those that were written.

    Raises:
        SourceError: a file's content has changed, or a file is missing.
    """
    found = {}
    written = _written_checksums(folder / CHECKSUMS_FILE)
    for name in (STEPS_FILE, EPISODES_FILE):
        try:
            found[name] = known_sha256(folder / name)
        except OSError as error:
            raise SourceError(
                f"the Parquet dataset can't be read ({error.strerror})",
                where=str(folder / name),
                hint="fetch or export it again",
            ) from error
        if written.get(name, found[name]) != found[name]:
            raise SourceError(
                f"the file's checksum isn't the one in {CHECKSUMS_FILE}: its content has changed",
                where=str(folder / name),
                hint=f"fetch or export it again; if you changed it yourself, remove {CHECKSUMS_FILE}",
            )
    return hashlib.sha256("".join(found.values()).encode()).hexdigest()


def _written_checksums(path: Path) -> dict[str, str]:
    """By name; empty where there are none."""
    if not path.is_file():
        return {}
    lines = re.findall(r"^([0-9a-f]{64})  (.+)$", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return {name: digest for digest, name in lines}


def read_metadata(folder: Path) -> StoreMetadata:
    """What the steps file says of itself: spaces, environment, provenance, reference scores; no rows are read.

    Raises:
        SourceError: the file is missing, damaged, or not of a dataset that offrl wrote.
    """
    import pyarrow.parquet as pq

    try:
        return _metadata(pq.ParquetFile(folder / STEPS_FILE), folder)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise SourceError(f"the Parquet dataset can't be read ({error})", where=str(folder), hint=_HINT) from error


def count_rows(folder: Path) -> tuple[int, int]:
    """Episodes and transitions, from the files' footers.

    Raises:
        SourceError: a file is missing or damaged.
    """
    import pyarrow.parquet as pq

    try:
        episodes, steps = (pq.ParquetFile(folder / name).metadata.num_rows for name in (EPISODES_FILE, STEPS_FILE))
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"the Parquet dataset can't be read ({error})", where=str(folder), hint=_HINT) from error
    return episodes, steps - episodes


def _metadata(steps: pq.ParquetFile, folder: Path) -> StoreMetadata:
    text = (steps.schema_arrow.metadata or {}).get(_METADATA_KEY)
    if text is None:
        raise SourceError(
            "this Parquet file was not written by offrl datasets export",
            where=str(folder / STEPS_FILE),
            hint="convert it as a table: offrl convert FILE DEST --map column=field",
        )
    try:
        metadata = checked(dict[str, Any], parse_json(text))
    except ValueError as error:
        raise SourceError(
            f"the dataset's description can't be read: {error}", where=str(folder / STEPS_FILE), hint=_HINT
        ) from error
    return StoreMetadata.from_json({**metadata, "shards": [], "statistics": {}}, str(folder / STEPS_FILE))


def _require_stored(steps: pq.ParquetFile, episodes: pq.ParquetFile, metadata: StoreMetadata, folder: Path) -> None:
    """Raise `SourceError` where more rows are declared than what is stored can hold: they would fill the memory."""
    about, row_bytes = steps.metadata, sum(column.row_bytes for column in metadata.columns)
    for index in range(about.num_row_groups):
        group = about.row_group(index)
        stored = sum(group.column(i).total_compressed_size for i in range(about.num_columns))
        if group.num_rows * row_bytes > max(_ALWAYS_UNPACKED, _MAX_EXPANSION * stored):
            raise SourceError(
                f"{stored:,} bytes declare {group.num_rows:,} rows of {row_bytes:,} bytes",
                where=str(folder / STEPS_FILE),
                hint=_HINT,
            )
    if episodes.metadata.num_rows > about.num_rows:
        raise SourceError("there are more episodes than rows of steps", where=str(folder), hint=_HINT)


def _require_columns(schema: pa.Schema, types: Mapping[str, pa.DataType], folder: Path) -> None:
    """Raise `SourceError` unless a file has these columns, each once, of these types."""
    for name, wanted in types.items():
        found = [schema.field(index).type for index in schema.get_all_field_indices(name)]
        if found != [wanted]:
            told = ", ".join(map(str, found)) or "missing"
            raise SourceError(
                f"the Parquet dataset's column '{name}' should be {wanted}, and is {told}",
                where=str(folder),
                hint=_HINT,
            )


def _blocks(
    steps: pq.ParquetFile, episodes: pa.Table, columns: tuple[ColumnSpec, ...], folder: Path
) -> Iterator[EpisodeBlock]:
    """One block for each row group, which holds whole episodes."""
    lengths, seeds = (_without_nulls(episodes[name], name, folder).to_numpy() for name in ("length", "seed"))
    rows = steps.metadata.num_rows
    first_rows = np.cumsum(np.minimum(lengths, rows) + 1) - (np.minimum(lengths, rows) + 1)
    if wrong := misalignment(lengths, first_rows, rows, 0):
        raise SourceError(f"the Parquet dataset can't be read: {wrong}", where=str(folder), hint=_HINT)
    ends, sources = first_rows + lengths + 1, episodes["source"].to_pylist()
    first, end = 0, 0
    for group in range(steps.num_row_groups):
        table = steps.read_row_group(group)
        end += table.num_rows
        last = int(np.searchsorted(ends, end)) + 1
        if last > len(ends) or ends[last - 1] != end:
            raise SourceError(
                f"the Parquet dataset's row group {group} ends within an episode", where=str(folder), hint=_HINT
            )
        yield EpisodeBlock(
            columns={
                each.name: _to_numpy(each, _without_nulls(table[each.name], each.name, folder)) for each in columns
            },
            lengths=lengths[first:last],
            seeds=seeds[first:last],
            sources=[text or "" for text in sources[first:last]],
        )
        first = last


def _without_nulls(values: pa.ChunkedArray, name: str, folder: Path) -> pa.ChunkedArray:
    """The values; raises `SourceError` where one is missing, or one within a row."""
    flat = values.combine_chunks()
    inner = flat.flatten() if pa.types.is_fixed_size_list(values.type) else flat
    if values.null_count or inner.null_count:
        raise SourceError(f"the Parquet dataset's column '{name}' has empty values", where=str(folder), hint=_HINT)
    return values


def _episode_table(store: Trajectories) -> pa.Table:
    table = store.episodes
    sources = pa.chunked_array(table.sources, type=pa.string())
    return pa.table({"length": table.length, "seed": table.seed, "return": table.return_, "source": sources})


def _encoding(columns: tuple[ColumnSpec, ...]) -> dict[str, Any]:
    """Floats compress best split by byte; the rest as Parquet sees fit."""
    floats = [column for column in columns if column.dtype.kind == "f"]
    leaves = {f"{column.name}.list.element" if column.shape else column.name: "BYTE_STREAM_SPLIT" for column in floats}
    return {"compression": "zstd", "compression_level": 15, "use_dictionary": False, "column_encoding": leaves or None}


def _arrow_type(column: ColumnSpec) -> pa.DataType:
    leaf = pa.from_numpy_dtype(column.dtype)
    return pa.list_(leaf, int(np.prod(column.shape))) if column.shape else leaf


def _to_arrow(column: ColumnSpec, values: NDArray[Any]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=pa.from_numpy_dtype(column.dtype))
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(column.shape))) if column.shape else flat


def _to_numpy(column: ColumnSpec, values: pa.ChunkedArray) -> NDArray[Any]:
    whole = values.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks)
    flat = whole.flatten() if column.shape else whole
    numbers: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return numbers.reshape(-1, *column.shape)
