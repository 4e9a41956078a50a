"""Stores as Parquet: small, and readable by everything; how datasets are bundled and handed on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from offrl.data.schema import ColumnSpec, StoreMetadata
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.data.trajectories import Trajectories
from offrl.errors import SourceError, StoreError
from offrl.files import whole_folder

if TYPE_CHECKING:
    import pyarrow.parquet as pq

STEPS_FILE, EPISODES_FILE = "steps.parquet", "episodes.parquet"
_METADATA_KEY = b"offrl"
_ROWS_PER_GROUP = 131_072


def write_parquet(store: Trajectories, folder: Path) -> None:
    """Write `steps.parquet` (T + 1 rows an episode, as in the store) and `episodes.parquet` (length, seed, source).

    Row groups hold whole episodes. The store's metadata (spaces, environment, provenance, reference scores) lies in the
    schema metadata of the steps, so the two files are the dataset.

    Args:
        store: a store or a selection from one.
        folder: made if need be; the files appear there when they are whole.

    Raises:
        DiskFullError: there is no room; nothing is left behind.
        StoreError: the folder holds such files already, or can't be written.
    """
    import pyarrow.parquet as pq

    for path in (folder / STEPS_FILE, folder / EPISODES_FILE):
        if path.exists():
            raise StoreError("there is such a file already", where=str(path), hint="choose another folder")
    columns = store.metadata.columns
    metadata = {key: value for key, value in store.metadata.to_json().items() if key not in ("shards", "statistics")}
    fields = [pa.field(column.name, _arrow_type(column)) for column in columns]
    schema = pa.schema(fields, metadata={_METADATA_KEY: json.dumps(metadata).encode()})
    with whole_folder(folder, merge=True) as temporary:
        temporary.mkdir()
        with pq.ParquetWriter(temporary / STEPS_FILE, schema, **_encoding(columns)) as writer:
            for block in store.iterate_blocks(_ROWS_PER_GROUP):
                arrays = [_to_arrow(column, block.columns[column.name]) for column in columns]
                writer.write_table(pa.table(arrays, schema=schema), row_group_size=block.num_rows)
        pq.write_table(_episode_table(store), temporary / EPISODES_FILE, compression="zstd")


def unpack_parquet(folder: Path, destination: Path) -> TrajectoryStore:
    """The inverse of `write_parquet`: a store with the same rows, bit for bit.

    Raises:
        SourceError: a file is missing, damaged, or not of a dataset that offrl wrote.
    """
    import pyarrow.parquet as pq

    try:
        steps, episodes = pq.ParquetFile(folder / STEPS_FILE), pq.read_table(folder / EPISODES_FILE)
        metadata = _metadata(steps, folder)
        with StoreWriter(
            destination,
            metadata.spec,
            environment=metadata.environment,
            provenance=metadata.provenance,
            reference_scores=metadata.reference_scores,
            name=metadata.name,
        ) as writer:
            for block in _blocks(steps, episodes, metadata.columns):
                writer.append(block)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise SourceError(
            f"the Parquet dataset can't be read ({error})", where=str(folder), hint="fetch or export it again"
        ) from error
    return TrajectoryStore.open(destination)


def read_metadata(folder: Path) -> StoreMetadata:
    """What the steps file says of itself: spaces, environment, provenance, reference scores; no rows are read.

    Raises:
        SourceError: the file is missing, damaged, or not of a dataset that offrl wrote.
    """
    import pyarrow.parquet as pq

    try:
        return _metadata(pq.ParquetFile(folder / STEPS_FILE), folder)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"the Parquet dataset can't be read ({error})", where=str(folder)) from error


def count_rows(folder: Path) -> tuple[int, int]:
    """Episodes and transitions, from the files' footers."""
    import pyarrow.parquet as pq

    episodes = int(pq.ParquetFile(folder / EPISODES_FILE).metadata.num_rows)
    return episodes, int(pq.ParquetFile(folder / STEPS_FILE).metadata.num_rows) - episodes


def _metadata(steps: pq.ParquetFile, folder: Path) -> StoreMetadata:
    text = (steps.schema_arrow.metadata or {}).get(_METADATA_KEY)
    if text is None:
        raise SourceError(
            "this Parquet file was not written by offrl datasets export",
            where=str(folder / STEPS_FILE),
            hint="convert it as a table: offrl convert FILE DEST --map column=field",
        )
    return StoreMetadata.from_json({**json.loads(text), "shards": [], "statistics": {}}, str(folder / STEPS_FILE))


def _blocks(steps: pq.ParquetFile, episodes: pa.Table, columns: tuple[ColumnSpec, ...]) -> Iterator[EpisodeBlock]:
    """One block for each row group."""
    lengths = episodes["length"].to_numpy()
    ends = np.cumsum(lengths + 1)
    first, rows = 0, 0
    for group in range(steps.num_row_groups):
        table = steps.read_row_group(group)
        rows += table.num_rows
        last = int(np.searchsorted(ends, rows)) + 1
        part = episodes.slice(first, last - first)
        yield EpisodeBlock(
            columns={column.name: _to_numpy(column, table[column.name]) for column in columns},
            lengths=lengths[first:last],
            seeds=part["seed"].to_numpy(),
            sources=[text or "" for text in part["source"].to_pylist()],
        )
        first = last


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
