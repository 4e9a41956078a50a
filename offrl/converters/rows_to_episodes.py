"""From rows of transitions, as logs have them, to episodes of T + 1 rows, as a store has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl.converters.field_mapping import NEXT_OBSERVATION
from offrl.converters.infer_spaces import conform
from offrl.converters.options import Timeouts
from offrl.converters.report import Chunk, Log
from offrl.converters.source import BLOCK_BYTES, Rows
from offrl.data import schema
from offrl.data.block import EpisodeBlock
from offrl.data.schema import required_columns
from offrl.errors import DataError
from offrl.types import Spec

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Episodes:
    """Where each episode lies among a source's rows, and how it ended; all arrays are [episodes].

    Attributes:
        first: int64, its first row.
        last: int64, its last row.
        terminated: bool, it ended in a terminal state.
        truncated: bool, it was cut.
        cut: bool, it was cut without a flag that says so: the source simply ends.
        shortened: bool, the transition of the last row is left out, and its observation is the final one.
        number: int64, its position in the source, for messages.
    """

    first: Ints
    last: Ints
    terminated: Bools
    truncated: Bools
    cut: Bools
    shortened: Bools
    number: Ints

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: slice | Bools) -> Episodes:
        return Episodes(**{name: array[index] for name, array in vars(self).items()})

    @property
    def lengths(self) -> Ints:
        """Transitions that are kept."""
        return self.last - self.first + 1 - self.shortened


def episodes_from(last: Ints, terminated: Bools, truncated: Bools) -> Episodes:
    """Episodes back to back that end at these rows; those without a flag were cut.

    Args:
        last: int64 [episodes], ascending.
        terminated: bool [episodes].
        truncated: bool [episodes].
    """
    cut = ~(terminated | truncated)
    first = np.concatenate([[0], last[:-1] + 1]).astype(np.int64)
    shortened = np.zeros(len(last), np.bool_)
    return Episodes(first, last, terminated, truncated | cut, cut, shortened, np.arange(len(last)))


def split_at_flags(terminated: Bools, truncated: Bools) -> Episodes:
    """Episodes end where a flag is set, and at the last row."""
    ends = terminated | truncated
    ends[-1] = True
    last = np.flatnonzero(ends)
    return episodes_from(last, terminated[last], truncated[last])


def limit_flags(terminated: Bools, time_limit: int) -> Bools:
    """Truncation flags for a source that has none: every `time_limit` steps since the start of an episode."""
    rows = np.arange(len(terminated))
    starts = np.concatenate([[0], np.flatnonzero(terminated[:-1]) + 1])
    steps = rows - starts[np.searchsorted(starts, rows, side="right") - 1] + 1
    return np.asarray(steps % time_limit == 0)


def reinterpret_terminals(episodes: Episodes, time_limit: int, log: Log) -> Episodes:
    """Where one flag serves for both ends, an episode of exactly `time_limit` steps was truncated."""
    struck = episodes.terminated & (episodes.last - episodes.first + 1 == time_limit)
    if struck.any():
        log.note(
            f"{np.count_nonzero(struck)} episodes of exactly {time_limit} steps carry a terminal flag: they count as "
            "truncated by the time limit"
        )
    return replace(episodes, terminated=episodes.terminated & ~struck, truncated=episodes.truncated | struck)


def settle(episodes: Episodes, *, has_next: bool, timeouts: Timeouts, log: Log) -> Episodes:
    """Decide what becomes of each episode's last transition, and leave out episodes of which nothing remains.

    Args:
        episodes: as the source's flags tell.
        has_next: whether the source stores next observations.
        timeouts: what the user wants of transitions that a time limit cut.
        log: is told what is dropped and why.
    """
    timed_out = episodes.truncated & ~episodes.terminated & ~episodes.cut
    if timeouts == "terminal" and timed_out.any():
        log.note(f"{np.count_nonzero(timed_out)} timeouts count as terminal states (--timeouts terminal)")
        episodes = replace(
            episodes, terminated=episodes.terminated | timed_out, truncated=episodes.truncated & ~timed_out
        )
        timed_out = np.zeros_like(timed_out)
    unwanted = timed_out if timeouts == "drop" else np.zeros_like(timed_out)
    unknown = ~episodes.terminated & ~unwanted & (not has_next)
    if not has_next and episodes.terminated.any():
        log.note(
            "no next observations are stored: after a terminal state the last observation is repeated as the final "
            "one (nothing bootstraps from it)"
        )
    log.drop("transitions cut by a time limit (--timeouts drop)", steps=int(np.count_nonzero(unwanted)))
    log.drop(
        "last step of an episode that did not terminate: its next observation isn't stored",
        steps=int(np.count_nonzero(unknown)),
    )
    settled = replace(episodes, shortened=episodes.shortened | unwanted | unknown)
    empty = settled.lengths < 1
    log.drop("episodes of which no transition remains", episodes=int(np.count_nonzero(empty)))
    return settled[~empty]


def stream(
    rows: Rows, episodes: Episodes, spec: Spec, *, label: str, log: Log, order: Ints | None = None
) -> Iterator[Chunk]:
    """Read the episodes in order, in blocks of about `BLOCK_BYTES`, and give each its final row.

    Args:
        rows: the source's rows under the store's names, `next_observation` among them where it is stored.
        episodes: settled ones.
        spec: the spaces; scalars and whole numbers take the shape and dtype that these have.
        label: the file, for messages.
        log: is told where next observations and following rows disagree.
        order: the row of the file that each row of `rows` was, where they were sorted.

    Raises:
        DataError: most next observations in a block disagree with the rows that follow, or a value isn't one that its
            space can hold (unless the log only lists problems).
    """
    names = [name for name in rows.columns if name not in (schema.TERMINATED, schema.TRUNCATED)]
    groups = list(_groups(episodes, max(1, BLOCK_BYTES // sum(rows.columns[name].row_bytes for name in names))))
    bounds = [(int(group.first[0]), int(group.last[-1]) + 1) for group in groups]
    spaces = required_columns(spec)
    if schema.REWARD not in names:
        log.warn("the source has no rewards: 0 is written everywhere")
    for group, (start, _), data in zip(groups, bounds, rows.slices(bounds, names), strict=True):
        numbers = np.arange(start, start + _length(data)) if order is None else order[start:]
        conformed = {name: _conform(name, array, spaces) for name, array in data.items()}
        _check_exact(data, conformed, group, start, label, numbers, log, rows.keys)
        _check_successors(conformed, group, start, label, numbers, log)
        yield _chunk(conformed, group, start, label, numbers)


def _conform(name: str, array: NDArray[Any], spaces: dict[str, gym.Space[Any] | None]) -> NDArray[Any]:
    root = name.split(".")[0]
    if root in (schema.INFO, schema.ACTION_MASK):
        return array
    return conform(array, spaces.get(name.replace(NEXT_OBSERVATION, schema.OBSERVATION, 1)))


def _check_exact(
    before: dict[str, NDArray[Any]],
    after: dict[str, NDArray[Any]],
    episodes: Episodes,
    start: int,
    label: str,
    numbers: Ints,
    log: Log,
    keys: Mapping[str, str],
) -> None:
    """Where numbers became those of a space, none may have changed: 0.5 is no choice, and 300 no byte."""
    for name, array in before.items():
        root, count = name.split(".")[0], len(array)
        if array.dtype == after[name].dtype:
            continue
        changed = (array.reshape(count, -1) != after[name].reshape(count, -1)).any(axis=1)
        if root not in (schema.OBSERVATION, NEXT_OBSERVATION):
            changed &= _kept(episodes, start, count)
        rows = np.flatnonzero(changed)
        if len(rows):
            log.problem(
                f"the {name} is {array[rows[0]]}, which {after[name].dtype} can't hold ({len(rows)} such rows from "
                "here on)",
                where=f"{label}, row {int(numbers[rows[0]])}, column '{keys.get(name, name)}'",
                hint=f"give the environment that the data was made in, or correct the {name} in the source",
            )


def _kept(episodes: Episodes, start: int, count: int) -> Bools:
    """Which of the rows from `start` on are transitions that are kept."""
    marks = np.zeros(count + 1, np.int8)
    np.add.at(marks, episodes.first - start, 1)
    np.subtract.at(marks, episodes.first + episodes.lengths - start, 1)
    return np.asarray(marks[:-1].cumsum(dtype=np.int8) == 1)


def _groups(episodes: Episodes, max_rows: int) -> Iterator[Episodes]:
    begin = 0
    while begin < len(episodes):
        limit = episodes.first[begin] + max_rows
        end = max(begin + 1, int(np.searchsorted(episodes.last, limit)))
        yield episodes[begin:end]
        begin = end


def _length(data: dict[str, NDArray[Any]]) -> int:
    return len(next(iter(data.values())))


def _chunk(data: dict[str, NDArray[Any]], episodes: Episodes, start: int, label: str, numbers: Ints) -> Chunk:
    lengths = episodes.lengths
    final = np.cumsum(lengths + 1) - 1
    source = np.arange(final[-1] + 1) + np.repeat(episodes.first - start - (final - lengths), lengths + 1)
    source[final] = np.minimum(source[final], episodes.last - start)
    following = {name: data.pop(name) for name in list(data) if name.split(".")[0] == NEXT_OBSERVATION}
    in_place = len(source) == _length(data) and bool(episodes.shortened.all())
    columns = {name: array if in_place else array.take(source, 0, mode="clip") for name, array in data.items()}
    known = ~episodes.shortened
    for name, array in columns.items():
        match name.split(".")[0]:
            case schema.INFO | schema.ACTION_MASK:
                array[final[known]] = 0  # a shortened episode's final row is a row of the source, and has its own
            case root if root != schema.OBSERVATION:
                array[final] = 0
    for name, array in following.items():
        columns[name.replace(NEXT_OBSERVATION, schema.OBSERVATION, 1)][final[known]] = array[
            episodes.last[known] - start
        ]
    columns.setdefault(schema.REWARD, np.zeros(len(source), np.float32))
    for name in (schema.TERMINATED, schema.TRUNCATED):
        flags = np.zeros(len(source), np.bool_)
        flags[final - 1] = getattr(episodes, name)
        columns[name] = flags
    sources = [f"{label}#{number}" for number in episodes.number.tolist()]
    block = EpisodeBlock(columns, lengths, sources=sources)
    return Chunk(block, lambda row: f"row {int(numbers[source[row]])}", int(np.count_nonzero(episodes.cut)))


def _check_successors(
    data: dict[str, NDArray[Any]], episodes: Episodes, start: int, label: str, numbers: Ints, log: Log
) -> None:
    """Inside an episode, a stored next observation must be the next row's observation."""
    for name, following in data.items():
        if name.split(".")[0] != NEXT_OBSERVATION or len(following) < 2:
            continue
        observation = data[name.replace(NEXT_OBSERVATION, schema.OBSERVATION, 1)]
        inside = np.zeros(len(following), np.int8)
        np.add.at(inside, episodes.first - start, 1)
        np.subtract.at(inside, episodes.last - start, 1)
        inside = inside.cumsum(dtype=np.int8)[:-1]
        different = following[:-1] != observation[1:]
        different = different.any(axis=tuple(range(1, different.ndim)))
        wrong = np.flatnonzero(different & (inside == 1))
        wrong = wrong[~_close(following[wrong], observation[wrong + 1])]
        if not len(wrong):
            continue
        where = f"{label}, row {int(numbers[wrong[0]])}"
        count = int(np.count_nonzero(inside))
        if len(wrong) > max(1, count // 2):
            raise DataError(
                f"most of the {name}s stored in this part of the file differ from the observation of the following "
                f"row ({len(wrong)} of {count})",
                where=where,
                hint="the rows may not be in the order of time; if they are, leave the stored ones out: "
                f"--map {NEXT_OBSERVATION}=",
            )
        log.warn(
            f"{name} differs from the following row's observation inside an episode; the following row is used",
            len(wrong),
            where,
        )


def _close(left: NDArray[Any], right: NDArray[Any]) -> Bools:
    same = np.isclose(left, right, rtol=1e-5, atol=1e-7, equal_nan=True)
    return np.asarray(same.all(axis=tuple(range(1, same.ndim))))
