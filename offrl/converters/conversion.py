"""The conversion itself: understand a source, pass its episodes by the checks, write them to a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import offrl
from offrl.converters.chunk_checks import Checker
from offrl.converters.formats import detect, format_of
from offrl.converters.lfs_pointers import naming_pointers
from offrl.converters.options import ConvertOptions, check_fields
from offrl.converters.remote import Located, locate
from offrl.converters.report import Chunk, ConversionReport, Log, Tally
from offrl.converters.source import Source
from offrl.data.store import StoreWriter
from offrl.data.store_folder import require_store_or_nothing
from offrl.errors import RequestError
from offrl.files import whole_folder

_SMALL_SOURCE = 256 * 2**20
_SMALL_SHARD, _SHARD = 16 * 2**20, 64 * 2**20


def plan_conversion(
    source: str | os.PathLike[str], *, format: str | None = None, options: ConvertOptions | None = None
) -> ConversionReport:
    """Read a source and say exactly what converting it would do; nothing is written.

    Args:
        source: a path, or `minari:<id>` or `d4rl:<id>`.
        format: a name in `offrl.plugins.formats`; found out from the source unless given.
        options: what the source leaves open.

    Raises:
        DatasetNotFoundError: there is no such source, and none could be fetched.
        SourceError: it can't be read as its format.
        RequestError: it leaves something open that must be said. Wrong values are listed as problems instead.
    """
    return _run(source, None, format, options or ConvertOptions())


def convert(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    format: str | None = None,
    dry_run: bool = False,
    options: ConvertOptions | None = None,
    overwrite: bool = False,
    name: str | None = None,
) -> ConversionReport:
    """Convert a source to a store.

    The store is written under a temporary name beside `dest` and renamed at the end, so `dest` is either whole or not
    there, whenever the conversion is killed. What an earlier, killed one left is removed.

    Args:
        source: a path, or `minari:<id>` or `d4rl:<id>`.
        dest: the store's folder.
        format: a name in `offrl.plugins.formats`; found out from the source unless given.
        dry_run: only plan: the report is that of `plan_conversion`.
        options: what the source leaves open.
        overwrite: replace a store at `dest`, once the new one is whole.
        name: what people call the dataset; the name of `dest` unless given.

    Raises:
        DatasetNotFoundError: there is no such source, and none could be fetched.
        SourceError: it can't be read as its format.
        DataError: its values are wrong.
        RequestError: it leaves something open that must be said, or `dest` exists.
        StoreError: the store can't be written.
    """
    return _run(source, None if dry_run else Path(dest), format, options or ConvertOptions(), overwrite, name)


def _run(
    source: str | os.PathLike[str],
    dest: Path | None,
    format: str | None,
    options: ConvertOptions,
    overwrite: bool = False,
    name: str | None = None,
) -> ConversionReport:
    check_fields(options.mapping)
    if dest is not None:
        require_store_or_nothing(dest, overwrite=overwrite)
    located = locate(source)
    with naming_pointers(located.path):
        return _run_located(located, dest, format, options, overwrite, name)


def _run_located(
    located: Located,
    dest: Path | None,
    format: str | None,
    options: ConvertOptions,
    overwrite: bool,
    name: str | None,
) -> ConversionReport:
    chosen = format or located.format or detect(located.path)
    reader = format_of(chosen)
    if (options.bandit or options.episode_per_file) and not reader.table:
        said = "--bandit" if options.bandit else "--episode-per-file"
        raise RequestError(f"{said} is for tables, and the source is read as {chosen}", hint=f"leave {said} out")
    log, tally = Log(dry_run=dest is None), Tally()
    for note in located.notes:
        log.note(note)
    opened = reader.open(located.path, options, log)
    opened = replace(opened, reference_scores=located.reference_scores or opened.reference_scores)
    chunks = _checked(opened, options, located.path.name, tally, log)
    if dest is None:
        for _ in chunks:
            pass
    else:
        with whole_folder(dest, overwrite=overwrite) as folder:
            provenance = _provenance(located, chosen, options, opened)
            _write(folder, name or dest.name, opened, chunks, provenance, _shard_bytes(located.path))
    return tally.report(
        source=located.label,
        format=chosen,
        written=None if dest is None else str(dest),
        rows=opened.rows,
        log=log,
        spec=opened.spec,
        environment=opened.environment,
        reference_scores=opened.reference_scores,
    )


def _checked(source: Source, options: ConvertOptions, label: str, tally: Tally, log: Log) -> Iterator[Chunk]:
    checker = Checker(source.spec, options.out_of_bounds, label, log, source.keys)
    steps = 0
    for chunk in source.chunks():
        checked = checker.check(chunk)
        tally.add(checked)
        steps += int(checked.block.lengths.sum())
        yield checked
    if steps == 0:
        log.problem("no transition remains", where=label, hint="see what is dropped and why with --dry-run")


def _shard_bytes(path: Path) -> int:
    """Small shards for small sources: the first is being written while the rest is still read."""
    files = [path] if path.is_file() else path.rglob("*")
    size = sum(file.stat().st_size for file in files)
    return _SMALL_SHARD if size <= _SMALL_SOURCE else _SHARD


def _write(
    folder: Path, name: str, source: Source, chunks: Iterator[Chunk], provenance: dict[str, Any], shard_bytes: int
) -> None:
    with StoreWriter(
        folder,
        source.spec,
        environment=source.environment,
        provenance=provenance,
        reference_scores=source.reference_scores,
        name=name,
        shard_bytes=shard_bytes,
    ) as writer:
        _append_all(writer, chunks)


def _append_all(writer: StoreWriter, chunks: Iterator[Chunk]) -> None:
    """Write each chunk while the next one is read."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        pending: Future[None] | None = None
        for chunk in chunks:
            if pending is not None:
                pending.result()
            pending = thread.submit(writer.append, chunk.block)
        if pending is not None:
            pending.result()


def _provenance(located: Located, format: str, options: ConvertOptions, source: Source) -> dict[str, Any]:
    defaults = asdict(ConvertOptions())
    given = {key: value for key, value in asdict(options).items() if value != defaults[key]}
    return {
        "converted_from": located.label,
        "format": format,
        "options": given,
        "offrl_version": offrl.__version__,
        **source.provenance,
    }
