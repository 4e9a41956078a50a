"""OGBench archives: trajectories of states (Park et al., 2025)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from offrl.converters.field_mapping import assign_fields
from offrl.converters.formats import Format
from offrl.converters.infer_spaces import spec_of
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.flagged_arrays import LIMIT_NOT_USED
from offrl.converters.readers.npz import NpzRows, archive_keys, read_headers
from offrl.converters.report import Log
from offrl.converters.rows_to_episodes import episodes_from, settle, stream
from offrl.converters.source import Source, flags_of
from offrl.data import schema

_KEYS = {"observations", "actions", "terminals"}
_KEYS_OF_TRANSITIONS = {"rewards", "timeouts", "truncations", "next_observations"}
"""Logs of transitions have one of them, OGBench has none."""


def open_ogbench(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand an OGBench file: T + 1 rows per trajectory, `terminals` at the last one, whose action is invalid.

    Raises:
        SourceError: it can't be read, or a required key is missing.
        DataError: its arrays have different lengths.
    """
    headers = read_headers(path, options.max_expansion)
    available = {key: header.info for key, header in headers.items()}
    lengths = {key: header.rows for key, header in headers.items()}
    required = (schema.OBSERVATION, schema.ACTION, schema.TERMINATED)
    keys, count = assign_fields(
        available, lengths, options.mapping, where=str(path), log=log, required=required, keep_others=True
    )
    columns = {name: info for name, key in keys.items() if (info := available[key])}
    rows = NpzRows(path, keys, columns, count)
    ends = flags_of(rows, schema.TERMINATED, str(path))
    last = np.union1d(np.flatnonzero(ends), count - 1)
    if not ends[-1]:
        log.warn("the last trajectory has no end mark; the file may have been cut")
    log.note("OGBench marks the end of a trajectory, which is no terminal state: every episode counts as truncated")
    log.note("the last row of each trajectory gives its final observation; its action is invalid and not used")
    if options.time_limit is not None:
        log.note(LIMIT_NOT_USED)
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
        keys=rows.keys,
    )


def _mention_companion(path: Path, log: Log) -> None:
    companion = path.with_name(f"{path.stem}-val{path.suffix}")
    if companion.is_file():
        log.note(
            f"the validation trajectories lie beside it, in {companion.name}: convert them to a store of their own"
        )


def is_ogbench(path: Path, start: bytes) -> bool:
    """Whether an archive has OGBench's arrays, and none of those that logs of transitions have."""
    keys = archive_keys(path, start)
    return keys >= _KEYS and not keys & _KEYS_OF_TRANSITIONS


FORMAT = Format("OGBench: npz, T + 1 rows per trajectory", open_ogbench, detect=is_ogbench)
