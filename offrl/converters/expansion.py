"""How much larger than its file a source may be once it is unpacked.

A few kilobytes can declare terabytes: arrays that were never written, runs of equal values, archives of zeros. What a
file declares is compared with what it holds before any of it is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from offrl.errors import SourceError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAX_EXPANSION = 200
"""Logs of robots unpack to 1 to 10 times their size, those of screens to 100 times."""
ALWAYS_READ = 256 * 2**20
"""Bytes that are unpacked whatever the file's size is."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


def check_expansion(declared: int, files: Iterable[Path], most: int) -> None:
    """Refuse a source that declares much more than its files hold.

    Args:
        declared: bytes that it unpacks to, as far as it says.
        files: what it lies in.
        most: how many times larger than these it may be, where it takes more than `ALWAYS_READ`.

    Raises:
        SourceError: it is larger.
    """
    if declared <= ALWAYS_READ:
        return
    every = list(files)
    stored = sum(file.stat().st_size for file in every)
    if declared <= most * stored:
        return
    times = -(-declared // max(stored, 1))
    raise SourceError(
        f"{stored:,} bytes declare {declared:,} bytes of data, {times:,} times as many: at most {most:,} times as many "
        f"are unpacked, or {ALWAYS_READ:,}",
        where=str(every[0]),
        hint=f"if you expect that, allow it: --max-expansion {times}",
    )


def parquet_bytes(file: pq.ParquetFile) -> int:
    """What a Parquet file unpacks to, by its footer: runs of equal values count as often as they are there."""
    about = file.metadata
    total = 0
    for group in range(about.num_row_groups):
        for index in range(about.num_columns):
            column = about.row_group(group).column(index)
            width = _WIDTHS.get(column.physical_type, about.schema.column(index).length)
            total += max(column.total_uncompressed_size, column.num_values * max(width, 0))
    return int(total)


def check_compressed_text(file: Path, most: int) -> None:
    """The same for a table of text within gzip or the like, which doesn't say how large it is: it is unpacked to see.

    Raises:
        SourceError: it is larger.
    """
    import pyarrow as pa

    allowed, size = max(ALWAYS_READ, most * file.stat().st_size), 0
    with pa.input_stream(str(file), compression="detect") as stream:
        while piece := stream.read(2**20):
            size += len(piece)
            if size > allowed:
                check_expansion(size, [file], most)
