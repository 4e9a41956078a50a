"""The files of a table, read through Arrow in batches: CSV, Parquet and JSON lines, in one file or in parts."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from offrl.converters.expansion import check_compressed_text, check_expansion, parquet_bytes
from offrl.converters.field_mapping import BEHAVIOR_PROB, NEXT_OBSERVATION
from offrl.converters.natural_order import natural_key
from offrl.converters.readers import csv_table, jsonl_table, parquet_table
from offrl.converters.report import Log
from offrl.data import schema
from offrl.errors import SourceError, listed

_DELIMITERS = {"\t": "tabs", ";": "semicolons", "|": "bars"}
_UNICODE_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4", ".br")
_LOOKED_AT = 2**16
_FORMATS = {"csv": csv_table.FORMAT, "json": jsonl_table.FORMAT, "parquet": parquet_table.FORMAT}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn Arrow's errors into a SourceError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"the table can't be read ({str(error).strip().splitlines()[0]})",
            where=str(path),
            hint="correct that row, copy the file again, or name its format with --from",
        ) from error


def open_table(path: Path, format: str, log: Log) -> ds.Dataset:
    """Open a table, or a folder of its parts in the order of their numbers; types are found from its first rows.

    Args:
        path: the file or folder.
        format: "csv", "json" or "parquet".
        log: is told of parts, and of a CSV table's delimiter and encoding where they aren't the usual ones.

    Raises:
        SourceError: it is empty, or no such table.
    """
    files = [path] if path.is_file() else _parts_of(path, format, log)
    filled = [file for file in files if file.stat().st_size]
    if not filled:
        what = "the file is empty" if path.is_file() else "the folder holds no files with rows"
        raise SourceError(what, where=str(path), hint="give a table with a header and rows")
    if len(filled) < len(files):
        log.note(f"{len(files) - len(filled)} empty files are left out")
    parser = format
    if format == "csv":
        parser = _csv_format(filled[0], log)
    elif format == "json" and _encoding_of(_start_of(filled[0])) != "utf8":
        raise SourceError("the text is not UTF-8, as JSON is", where=str(filled[0]), hint="save it as UTF-8")
    return ds.dataset([str(file) for file in filled], format=parser)


def check_sizes(table: ds.Dataset, max_expansion: int) -> None:
    """Raises SourceError where the files declare much more than they hold; see `offrl.converters.expansion`."""
    files = [Path(file) for file in table.files]
    if isinstance(table.format, ds.ParquetFileFormat):
        check_expansion(sum(parquet_bytes(pq.ParquetFile(file)) for file in files), files, max_expansion)
    for file in files:
        if file.suffix.lower() in _COMPRESSED:
            check_compressed_text(file, max_expansion)


def _parts_of(folder: Path, format: str, log: Log) -> list[Path]:
    """The files of a table in parts: those that end as its format does or, where none does, all."""
    # Arrow and Spark leave out names that begin so: they are no parts.
    inside = {file: file.relative_to(folder).parts for file in folder.rglob("*") if file.is_file()}
    every = {file: parts for file, parts in inside.items() if not any(part.startswith((".", "_")) for part in parts)}
    named = [file for file in every if {suffix.lower() for suffix in file.suffixes} & {*_FORMATS[format].suffixes}]
    files = sorted(named or every, key=lambda file: [natural_key(part) for part in every[file]])
    if len(files) < len(every):
        log.note(f"{len(every) - len(files)} files of other kinds are left out")
    if len(files) > 1:
        first, last = ("/".join(every[files[index]]) for index in (0, -1))
        log.note(f"{len(files)} files are read in the order of the numbers in their names: {first} to {last}")
    return files


def check_parts(table: ds.Dataset, columns: Sequence[str]) -> None:
    """Raises SourceError unless each part of a table has all of these columns."""
    for fragment in table.get_fragments() if len(table.files) > 1 else ():
        missing = [column for column in columns if column not in fragment.physical_schema.names]
        if missing:
            raise SourceError(
                f"this part of the table has no column '{missing[0]}', and the first one has",
                where=fragment.path,
                hint="give all parts the same columns, or convert them apart",
            )


def _start_of(file: Path) -> bytes:
    """What a file begins with, unpacked where its name says that it is compressed."""
    with pa.input_stream(str(file)) as stream:
        start: bytes = stream.read(_LOOKED_AT)
    return start


def _csv_format(file: Path, log: Log) -> ds.CsvFileFormat:
    """How a file of text is written: its delimiter and its encoding, as far as its beginning tells."""
    start = _start_of(file)
    encoding = _encoding_of(start)
    if encoding != "utf8":
        log.note(f"the text is not UTF-8: it is read as {encoding}; save it as UTF-8 if names or words look wrong")
    header = start.decode(encoding, "replace").partition("\n")[0]
    counts = {delimiter: header.count(delimiter) for delimiter in _DELIMITERS}
    delimiter = max(counts, key=lambda each: counts[each])
    if file.suffix.lower() == ".tsv":
        delimiter = "\t"
    elif "," in header or not counts[delimiter]:
        delimiter = ","
    else:
        log.note(f"the columns are separated by {_DELIMITERS[delimiter]}, not by commas")
    return ds.CsvFileFormat(pv.ParseOptions(delimiter=delimiter), read_options=pv.ReadOptions(encoding=encoding))


def _encoding_of(start: bytes) -> str:
    for mark, encoding in _UNICODE_MARKS.items():
        if start.startswith(mark):
            return encoding
    try:
        codecs.getincrementaldecoder("utf8")().decode(start)  # what is cut at the end is no error
    except UnicodeDecodeError:
        return "latin-1"
    return "utf8"


def read_columns(table: ds.Dataset, columns: Sequence[str]) -> pa.Table:
    """Columns in full, rows in order."""
    return table.to_table(columns=list(columns), use_threads=_may_use_threads(table))


def batches_of(table: ds.Dataset, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns in batches, rows in order."""
    return iter(table.to_batches(columns=list(columns), use_threads=_may_use_threads(table)))


def _may_use_threads(table: ds.Dataset) -> bool:
    """Arrow's reader of JSON waits within a thread of its pool for another one: with several files it never ends."""
    return not isinstance(table.format, ds.JsonFileFormat)


def find_columns(table: ds.Dataset, mapping: Mapping[str, str], *, where: str) -> dict[str, list[str]]:
    """Field to the columns that make it up: as mapped, or columns that have a field's name.

    Raises:
        SourceError: a column that was asked for isn't there.
    """
    names = table.schema.names
    found = {field: _expand(field, text, names, where) for field, text in mapping.items() if text}
    roots = {field.split(".")[0] for field in mapping}
    for name in names:
        root, dot, _ = name.partition(".")
        if root in _FIELDS and root not in roots and (not dot or root in _NESTED):
            found[name] = [name]
    return found


_NESTED = (schema.OBSERVATION, schema.ACTION, schema.INFO, NEXT_OBSERVATION)
_FIELDS = (
    *_NESTED,
    *(schema.REWARD, schema.TERMINATED, schema.TRUNCATED, schema.BEHAVIOR_LOG_PROB, schema.ACTION_MASK),
    *("episode", "step", BEHAVIOR_PROB),
)


def _expand(field: str, text: str, names: list[str], where: str) -> list[str]:
    """`a,b,obs_*` to the columns meant, patterns in the order of the table."""
    columns: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        matches = [name for name in names if name == part] or [name for name in names if fnmatchcase(name, part)]
        if not matches:
            raise SourceError(
                f"there is no column '{part}' (asked for as {field})",
                where=where,
                hint=f"the columns are {listed(names)}",
            )
        columns += [name for name in matches if name not in columns]
    return columns


def as_text(table: ds.Dataset, columns: Sequence[str]) -> ds.Dataset:
    """The same CSV table, with these columns read as words."""
    fields = [pa.field(item.name, pa.string() if item.name in columns else item.type) for item in table.schema]
    return ds.dataset(table.files, format=table.format, schema=pa.schema(fields))


def widen(table: ds.Dataset, columns: Sequence[str]) -> ds.Dataset:
    """The same text table, with these columns' whole numbers read as floating-point ones."""
    fields = [pa.field(item.name, _floating(item.type)) if item.name in columns else item for item in table.schema]
    return ds.dataset(table.files, format=table.format, schema=pa.schema(fields))


def _floating(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return pa.float64()
    if pa.types.is_list(kind):
        return pa.list_(_floating(kind.value_type))
    return kind
