"""Trajectories recorded with the `imitation` package (Gleave et al., 2022): its npz and its Hugging Face layout.

Both have T + 1 observations and T actions per trajectory, and one flag, `terminal`: whether the episode was over, be it
in a terminal state or at a time limit. Infos are pickled in the one layout and pickled as JSON in the other: they are
never decoded, but of the JSON the plain text of `TimeLimit.truncated` is read where it is there.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offrl.converters.flags import read_flags
from offrl.converters.formats import Format
from offrl.converters.infer_spaces import spec_of
from offrl.converters.options import ConvertOptions
from offrl.converters.readers.flagged_arrays import LIMIT_NOT_USED
from offrl.converters.readers.npz import archive_keys, read_headers
from offrl.converters.report import Log
from offrl.converters.rows_to_episodes import Bools, Ints, episodes_from, settle, stream
from offrl.converters.source import ColumnInfo, Source
from offrl.data import schema
from offrl.documents import parse_json, read_json
from offrl.errors import DataError, RequestError, SourceError

if TYPE_CHECKING:
    import pyarrow as pa

NPZ_KEYS = {"obs", "acts", "terminal", "indices"}
HUGGING_FACE_KEYS = {"obs", "acts", "terminal"}
_HINT = "record or save it again with imitation.data.serialize.save"
_LEAVABLE = (schema.REWARD, schema.TRUNCATED)


@dataclass(frozen=True)
class Part:
    """Trajectories back to back, as one file or a piece of it holds them.

    Attributes:
        observation: [Σ (T + 1), ...].
        action: [Σ T, ...].
        reward: [Σ T]; None where none were recorded.
        lengths: int64 [n], T of each.
        over: bool [n]; whether the episode was over.
        limit: int8 [n]; 1 where the last info says that a time limit struck, 0 where it says that none did, else -1.
    """

    observation: NDArray[Any]
    action: NDArray[Any]
    reward: NDArray[Any] | None
    lengths: Ints
    over: Bools
    limit: NDArray[np.int8]

    @cached_property
    def actions(self) -> Ints:
        """int64 [Σ (T + 1)]: the row of the action beside each observation; the last one is there twice."""
        rows = np.arange(len(self.observation)) - np.repeat(np.arange(len(self.lengths)), self.lengths + 1)
        rows[np.cumsum(self.lengths + 1) - 1] -= 1
        return rows


def open_imitation(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand an npz file, or a folder that `save_to_disk` wrote.

    Raises:
        SourceError: it can't be read, or a part of it is missing.
        DataError: its arrays don't fit each other, or a trajectory has no steps.
        RequestError: nothing tells a time limit from a terminal state, and the user said nothing.
    """
    _check_mapping(options, path)
    parts = _read_hugging_face(path) if path.is_dir() else [_read_npz(path, options)]
    if not sum(len(part.lengths) for part in parts):
        raise SourceError("there are no trajectories", where=str(path), hint="give a recording with at least one")
    for part in parts:
        _check(part, path)
    has_reward = parts[0].reward is not None and options.mapping.get(schema.REWARD) != ""
    rows = PartRows(parts, has_reward)
    lengths, over = (np.concatenate([getattr(part, name) for part in parts]) for name in ("lengths", "over"))
    struck = _struck(np.concatenate([part.limit for part in parts]), lengths, over, options, path, log)
    log.note("infos are pickled objects: they are not read, so that no code runs")
    last = np.cumsum(lengths + 1) - 1
    unwanted = struck & over & (options.timeouts == "drop")
    if unwanted.any():
        log.drop("transitions cut by a time limit (--timeouts drop)", steps=int(np.count_nonzero(unwanted)))
    first = last - lengths
    episodes = replace(
        episodes_from(last, over & ~struck, over & struck),
        first=first,
        last=last - unwanted,
        shortened=np.ones(len(last), np.bool_),
    )
    timeouts = "keep" if options.timeouts == "drop" else options.timeouts
    episodes = settle(episodes, has_next=True, timeouts=timeouts, log=log)
    spec = spec_of(rows, options, where=str(path), log=log)
    return Source(
        spec=spec,
        rows=int(lengths.sum()),
        chunks=lambda: stream(rows, episodes, spec, label=path.name, log=log),
        environment=options.environment,
        keys=rows.keys,
    )


def is_imitation(path: Path, start: bytes) -> bool:
    """Whether an archive has imitation's arrays, or a folder is a Hugging Face dataset of trajectories."""
    if archive_keys(path, start) >= NPZ_KEYS:
        return True
    try:
        about = read_json(path / "dataset_info.json")
        return (path / "state.json").is_file() and set(about["features"]) >= HUGGING_FACE_KEYS
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True)
class PartRows:
    """T + 1 rows per trajectory, as OGBench has them: the last action and reward of each mean nothing."""

    parts: list[Part]
    has_reward: bool

    @cached_property
    def _starts(self) -> Ints:
        return np.cumsum([0, *(len(part.observation) for part in self.parts)])

    @property
    def count(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def columns(self) -> Mapping[str, ColumnInfo]:
        first = self.parts[0]
        arrays = {schema.OBSERVATION: first.observation, schema.ACTION: first.action}
        if self.has_reward and first.reward is not None:
            arrays[schema.REWARD] = first.reward
        return {name: ColumnInfo(array.dtype, array.shape[1:]) for name, array in arrays.items()}

    @property
    def keys(self) -> Mapping[str, str]:
        return {schema.OBSERVATION: "obs", schema.ACTION: "acts", schema.REWARD: "rews"}

    def slices(self, bounds: Sequence[tuple[int, int]], names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
        for start, stop in bounds:
            touched = [
                (part, max(start - begin, 0), min(stop, end) - begin)
                for part, begin, end in zip(self.parts, self._starts[:-1], self._starts[1:], strict=True)
                if begin < stop and end > start
            ]
            yield {name: np.concatenate([_rows(part, name, a, b) for part, a, b in touched]) for name in names}


def _rows(part: Part, name: str, start: int, stop: int) -> NDArray[Any]:
    if name == schema.OBSERVATION:
        return part.observation[start:stop]
    array = part.action if name == schema.ACTION else part.reward
    assert array is not None
    return array[part.actions[start:stop]]


def _check_mapping(options: ConvertOptions, path: Path) -> None:
    for name, key in options.mapping.items():
        if key or name not in _LEAVABLE:
            raise RequestError(
                f"'{name}' can't be mapped: the layout of imitation's trajectories is fixed",
                where=str(path),
                hint="leave --map out, but for --map truncated= (no time limit struck) or --map reward= (none)",
            )


def _check(part: Part, path: Path) -> None:
    """Raises DataError unless there is one more observation than actions in every trajectory."""
    steps = int(part.lengths.sum())
    empty = np.flatnonzero(part.lengths < 1)
    if len(empty):
        raise DataError(
            f"a trajectory has no steps ({len(empty)} such ones)",
            where=f"{path}, trajectory {int(empty[0])}",
            hint="leave trajectories without steps out",
        )
    for name, array, rows in (
        ("obs", part.observation, steps + len(part.lengths)),
        ("acts", part.action, steps),
        ("rews", part.reward, steps),
    ):
        if array is not None and len(array) != rows:
            raise DataError(
                f"'{name}' has {len(array)} rows, {rows} are expected of {len(part.lengths)} trajectories of {steps} "
                "steps in all",
                where=str(path),
                hint=_HINT,
            )
        if array is not None and array.dtype.kind not in "biuf":
            raise SourceError(f"'{name}' holds {array.dtype}, no numbers", where=str(path), hint=_HINT)
    if len(part.over) != len(part.lengths):
        raise DataError(
            f"there are {len(part.over)} flags for {len(part.lengths)} trajectories", where=str(path), hint=_HINT
        )


def _struck(
    limit: NDArray[np.int8], lengths: Ints, over: Bools, options: ConvertOptions, path: Path, log: Log
) -> Bools:
    """Which of the episodes that were over were ended by a time limit.

    Raises:
        RequestError: the source doesn't say, and neither does the user.
    """
    unknown = over & (limit < 0)
    known = np.asarray(over & (limit == 1))
    if not unknown.any():
        if over.any():
            log.note("the last info of each trajectory says whether a time limit struck (TimeLimit.truncated)")
        if options.time_limit is not None:
            log.note(LIMIT_NOT_USED)
        return known
    if options.time_limit is not None:
        struck = np.asarray(known | (unknown & (lengths == options.time_limit)))
        log.note(
            f"{np.count_nonzero(struck & unknown)} episodes of exactly {options.time_limit} steps carry a terminal "
            "flag: they count as truncated by the time limit"
        )
        return struck
    if options.mapping.get(schema.TRUNCATED) != "":
        raise RequestError(
            "imitation's terminal flag says that an episode was over, not whether a time limit ended it, and the infos "
            f"don't say either for {np.count_nonzero(unknown)} of the {len(over)} trajectories",
            where=str(path),
            hint="say after how many steps episodes were cut (--time-limit 1000), or that none was (--map truncated=)",
        )
    return known


def _read_npz(path: Path, options: ConvertOptions) -> Part:
    """Read the arrays of an archive into memory, all but the infos."""
    read_headers(path, options.max_expansion)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in (*sorted(NPZ_KEYS), "rews") if key in archive.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise SourceError(
            f"the file is cut short or damaged, or no NumPy archive ({error})",
            where=str(path),
            hint="copy or download it again",
        ) from error
    missing = NPZ_KEYS - arrays.keys()
    if missing:
        raise SourceError(f"there is no '{sorted(missing)[0]}'", where=str(path), hint=_HINT)
    ends = np.append(arrays["indices"].astype(np.int64), len(arrays["acts"]))
    return Part(
        observation=arrays["obs"],
        action=arrays["acts"],
        reward=arrays.get("rews"),
        lengths=np.diff(ends, prepend=0),
        over=_flags(arrays["terminal"], path),
        limit=np.full(len(arrays["terminal"]), -1, np.int8),
    )


def _read_hugging_face(path: Path) -> list[Part]:
    """Map the files of a folder into memory; arrays are views of them."""
    import pyarrow as pa

    try:
        state = read_json(path / "state.json")
        names = [str(item["filename"]) for item in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"the folder's state.json can't be read ({error})",
            where=str(path),
            hint="give the folder that save_to_disk wrote; of one with splits, the folder of a split",
        ) from error
    for name in names:
        if Path(name).name != name:
            raise SourceError(
                f"state.json names '{name}', and only files in the folder that was named are read",
                where=str(path),
                hint="save it again with save_to_disk",
            )
    parts = []
    for file in map(path.joinpath, names):
        try:
            with pa.memory_map(str(file)) as mapped:
                batches = list(pa.ipc.open_stream(mapped))
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                f"the file can't be read ({str(error).strip().splitlines()[0]})",
                where=str(file),
                hint="copy the folder again",
            ) from error
        parts += [_part_of(batch, file) for batch in batches if batch.num_rows]
    return parts


def _part_of(batch: pa.RecordBatch, file: Path) -> Part:
    missing = HUGGING_FACE_KEYS - set(batch.schema.names)
    if missing:
        raise SourceError(f"there is no '{sorted(missing)[0]}'", where=str(file), hint=_HINT)
    action, lengths = _flattened(batch.column("acts"), "acts", file)
    observation, rows = _flattened(batch.column("obs"), "obs", file)
    wrong = np.flatnonzero(rows != lengths + 1)
    if len(wrong):
        raise DataError(
            f"a trajectory has {rows[wrong[0]]} observations and {lengths[wrong[0]]} actions ({len(wrong)} such ones)",
            where=f"{file}, trajectory {int(wrong[0])}",
            hint="give every trajectory one more observation than actions",
        )
    reward = _flattened(batch.column("rews"), "rews", file)[0] if "rews" in batch.schema.names else None
    return Part(
        observation=observation,
        action=action,
        reward=reward,
        lengths=lengths,
        over=_flags(batch.column("terminal").to_numpy(zero_copy_only=False), file),
        limit=_limits(batch),
    )


def _flags(terminal: NDArray[Any], file: Path) -> Bools:
    return read_flags(
        terminal.reshape(-1),
        field=schema.TERMINATED,
        key="terminal",
        where=str(file),
        locate=lambda index: f"trajectory {index}",
    )


def _flattened(column: pa.Array, name: str, file: Path) -> tuple[NDArray[Any], Ints]:
    """A column of nested lists as an array of rows, and how many of them each trajectory has."""
    import pyarrow as pa

    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise SourceError(f"'{name}' holds {column.type}, no arrays", where=str(file), hint=_HINT)
    lengths = np.diff(column.offsets.to_numpy()).astype(np.int64)
    inner, shape, nulls = column.flatten(), [], column.null_count
    while pa.types.is_list(inner.type) or pa.types.is_large_list(inner.type):
        sizes = np.diff(inner.offsets.to_numpy())
        if len(sizes) and (sizes != sizes[0]).any():
            raise DataError(f"rows of '{name}' have different shapes", where=str(file), hint=_HINT)
        shape.append(int(sizes[0]) if len(sizes) else 0)
        nulls += inner.null_count
        inner = inner.flatten()
    kind = inner.type
    if nulls or inner.null_count or not (pa.types.is_boolean(kind) or pa.types.is_primitive(kind)):
        raise SourceError(f"'{name}' holds gaps, or {kind}, no numbers", where=str(file), hint=_HINT)
    values: NDArray[Any] = inner.to_numpy(zero_copy_only=False)
    return values.reshape(int(lengths.sum()), *shape), lengths


def _limits(batch: pa.RecordBatch) -> NDArray[np.int8]:
    """What the last info of each trajectory says of a time limit."""
    said = np.full(batch.num_rows, -1, np.int8)
    if "infos" not in batch.schema.names:
        return said
    column = batch.column("infos")
    texts, ends = column.flatten(), np.diff(column.offsets.to_numpy()).cumsum()
    for index, end in enumerate(ends.tolist()):
        try:
            flag = parse_json(texts[end - 1].as_py())["TimeLimit.truncated"]
        except (TypeError, ValueError, KeyError, IndexError):
            continue
        if isinstance(flag, bool):
            said[index] = int(flag)
    return said


FORMAT = Format("imitation: trajectories as npz, or as a Hugging Face folder", open_imitation, detect=is_imitation)
