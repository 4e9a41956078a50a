"""Sources of aligned arrays whose flags tell where an episode ends: D4RL, npz and path dictionaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from offrl.converters.field_mapping import NEXT_OBSERVATION
from offrl.converters.infer_spaces import spec_of
from offrl.converters.options import ConvertOptions
from offrl.converters.report import Log
from offrl.converters.rows_to_episodes import (
    Bools,
    Episodes,
    limit_flags,
    reinterpret_terminals,
    settle,
    split_at_flags,
    stream,
)
from offrl.converters.source import Rows, Source, flags_of
from offrl.data import schema
from offrl.errors import RequestError, SourceError, listed

LIMIT_NOT_USED = "the source marks truncation itself: the time limit is not used"


def flagged_source(
    rows: Rows,
    path: Path,
    options: ConvertOptions,
    log: Log,
    *,
    terminal_may_be_limit: bool,
    provenance: dict[str, Any],
    pointer: str,
) -> Source:
    """A source of row-aligned arrays with flags, once its keys are matched.

    Args:
        rows: the arrays, under the store's names.
        path: the file.
        options: the user's answers.
        log: is told of what is decided and dropped.
        terminal_may_be_limit: a terminal flag at exactly the time limit means truncated.
        provenance: what the file says of its origin.
        pointer: what is said of arrays that may tell where episodes end and aren't mapped.

    Raises:
        DataError: a flag is neither yes nor no.
        RequestError: nothing tells truncation apart, and no time limit was given.
    """
    terminated, truncated = (
        flags_of(rows, name, str(path)) if name in rows.columns else None
        for name in (schema.TERMINATED, schema.TRUNCATED)
    )
    episodes = limited_episodes(
        np.zeros(rows.count, np.bool_) if terminated is None else terminated,
        truncated,
        options,
        log,
        where=str(path),
        terminal_may_be_limit=terminal_may_be_limit,
        pointer=pointer,
    )
    episodes = settle(episodes, has_next=has_next(rows, where=str(path)), timeouts=options.timeouts, log=log)
    spec = spec_of(rows, options, where=str(path), log=log)
    return Source(
        spec=spec,
        rows=rows.count,
        chunks=lambda: stream(rows, episodes, spec, label=path.name, log=log),
        environment=options.environment,
        keys=rows.keys,
        provenance=provenance,
    )


def has_next(rows: Rows, *, where: str) -> bool:
    """Whether next observations are stored.

    Raises:
        SourceError: they are, but not with the same parts as the observations, or of other shapes.
    """
    following = {name for name in rows.columns if name.split(".")[0] == NEXT_OBSERVATION}
    observed = {name for name in rows.columns if name.split(".")[0] == schema.OBSERVATION}
    if following and {name.replace(NEXT_OBSERVATION, schema.OBSERVATION, 1) for name in following} != observed:
        raise SourceError(
            f"next observations have the parts {listed(sorted(following))}, observations {listed(sorted(observed))}",
            where=where,
            hint=f"map the same parts of both, or leave the next observations out: --map {NEXT_OBSERVATION}=",
        )
    for name in following:
        twin = name.replace(NEXT_OBSERVATION, schema.OBSERVATION, 1)
        here, there = rows.columns[twin].shape, rows.columns[name].shape
        if here != there:
            raise SourceError(
                f"rows of '{rows.keys.get(name, name)}' have the shape {there}, those of '{rows.keys.get(twin, twin)}' "
                f"{here}",
                where=where,
                hint=f"map the same parts of both, or leave the next observations out: --map {NEXT_OBSERVATION}=",
            )
    return bool(following)


def limited_episodes(
    terminated: Bools,
    truncated: Bools | None,
    options: ConvertOptions,
    log: Log,
    *,
    where: str,
    terminal_may_be_limit: bool,
    pointer: str,
) -> Episodes:
    """Episodes that end at flags or, where there are none for truncation, at the time limit that the user names.

    Args:
        terminated: bool [rows].
        truncated: bool [rows]; None where there are no such flags.
        options: the user's answers.
        log: is told of what is decided.
        where: the file.
        terminal_may_be_limit: a terminal flag at exactly the time limit means truncated.
        pointer: what is said of columns that may tell where episodes end and aren't mapped.

    Raises:
        RequestError: there are no truncation flags, and the user said nothing.
    """
    limit = options.time_limit
    if truncated is not None:
        if limit is not None:
            log.note(LIMIT_NOT_USED)
        return split_at_flags(terminated, truncated)
    if limit is None and options.mapping.get(schema.TRUNCATED) != "":
        raise RequestError(
            "nothing in the source tells a time limit from a terminal state or from the next episode"
            + (f"; {pointer}" if pointer else ""),
            where=where,
            hint="say after how many steps episodes were cut (--time-limit 1000), what marks it "
            "(--map truncated=KEY), or that none was (--map truncated=)",
        )
    if pointer:
        log.warn(pointer)
    if limit is None:
        return split_at_flags(terminated, np.zeros_like(terminated))
    log.note(f"no truncation flags are stored: episodes are cut after {limit} steps (--time-limit)")
    struck = limit_flags(terminated, limit)
    episodes = split_at_flags(terminated, struck & ~terminated)
    return reinterpret_terminals(episodes, limit, log) if terminal_may_be_limit else episodes
