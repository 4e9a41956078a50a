"""What a conversion understood of its source: collected while the episodes pass by, the same for dry and real runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.data import schema
from offrl.data.block import EpisodeBlock
from offrl.data.space_encoding import space_to_json
from offrl.errors import DataError
from offrl.types import Spec


@dataclass(frozen=True)
class Chunk:
    """Whole episodes of a source, and where each of their rows came from.

    Attributes:
        block: the episodes.
        locate: turns a row of the block into words that find it in the source ("row 1234", "episode 7, step 3").
        cut: how many of the episodes the source ends without a flag that says why.
    """

    block: EpisodeBlock
    locate: Callable[[int], str]
    cut: int = 0


@dataclass(frozen=True)
class Dropped:
    """Data that was left out, and why."""

    reason: str
    steps: int = 0
    episodes: int = 0


@dataclass(frozen=True)
class Problem:
    """Why a conversion would be refused; a dry run lists what a real one raises."""

    what: str
    where: str
    hint: str


@dataclass(frozen=True)
class ConversionReport:
    """What was understood of a source, and what became of it.

    Attributes:
        source: the path, or the name it was asked for by.
        format: the name of the format it was read as.
        written: the store's folder; None after a dry run, which writes nothing.
        rows: time steps in the source, those dropped among them.
        episodes: episodes that the store has.
        steps: transitions that the store has.
        lengths: (shortest, median, longest) episode in transitions; zeros without episodes.
        terminated: episodes that end in a terminal state.
        truncated: episodes that were cut, by a time limit or because recording stopped.
        cut: those of the truncated ones that the source doesn't mark: its end struck.
        spec: the spaces.
        columns: column name to (dtype, shape of one row).
        behavior_log_prob: whether the log-probabilities of the logged actions were found.
        dropped: what is left out, and why.
        warnings: what the data may not mean to say.
        notes: what was decided where the source left a choice.
        problems: what a real conversion would be refused for (dry run only).
        environment: the environment's id, if known.
        reference_scores: returns of a random and an expert policy, if known.
    """

    source: str
    format: str
    written: str | None
    rows: int
    episodes: int
    steps: int
    lengths: tuple[int, float, int]
    terminated: int
    truncated: int
    cut: int
    spec: Spec
    columns: dict[str, tuple[str, tuple[int, ...]]]
    dropped: list[Dropped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    environment: str | None = None
    reference_scores: dict[str, Any] = field(default_factory=dict)

    @property
    def behavior_log_prob(self) -> bool:
        return schema.BEHAVIOR_LOG_PROB in self.columns

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        shortest, median, longest = self.lengths
        return {
            "source": self.source,
            "format": self.format,
            "written": self.written,
            "rows": self.rows,
            "episodes": self.episodes,
            "steps": self.steps,
            "lengths": {"min": shortest, "median": median, "max": longest},
            "terminated": self.terminated,
            "truncated": self.truncated,
            "cut": self.cut,
            "observation_space": space_to_json(self.spec.observation_space),
            "action_space": space_to_json(self.spec.action_space),
            "columns": {name: {"dtype": dtype, "shape": list(s)} for name, (dtype, s) in self.columns.items()},
            "behavior_log_prob": self.behavior_log_prob,
            "dropped": [vars(item) for item in self.dropped],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "problems": [vars(item) for item in self.problems],
            "environment": self.environment,
            "reference_scores": dict(self.reference_scores),
        }


class Log:
    """What a reader has to say while it reads. Repeated warnings and drops add up.

    Args:
        dry_run: list problems instead of raising them.
    """

    def __init__(self, dry_run: bool) -> None:
        self._dry_run = dry_run
        self._notes: dict[str, None] = {}
        self._warnings: dict[str, _Counted] = {}
        self._drops: dict[str, Dropped] = {}
        self._problems: dict[str, Problem] = {}

    def note(self, text: str) -> None:
        """Say what was decided."""
        self._notes[text] = None

    def warn(self, text: str, count: int | None = None, where: str = "") -> None:
        """Warn; warnings of the same text are one, with the counts added and the first place."""
        known = self._warnings.get(text)
        if known is None:
            self._warnings[text] = _Counted(text, count, where)
        elif count is not None:
            known.count = (known.count or 0) + count

    def drop(self, reason: str, *, steps: int = 0, episodes: int = 0) -> None:
        """Say what is left out; the counts of one reason add up."""
        if steps or episodes:
            known = self._drops.get(reason, Dropped(reason))
            self._drops[reason] = Dropped(reason, known.steps + steps, known.episodes + episodes)

    def leave_out(self, name: str, reason: str) -> None:
        """Say that a column of the source is left out."""
        text = f"'{name}': {reason}"
        self._drops.setdefault(text, Dropped(text))

    def problem(self, what: str, *, where: str, hint: str) -> None:
        """Raise a DataError, or list the first of its kind in a dry run."""
        if not self._dry_run:
            raise DataError(what, where=where, hint=hint)
        self._problems.setdefault(hint, Problem(what, where, hint))

    @property
    def notes(self) -> list[str]:
        return list(self._notes)

    @property
    def warnings(self) -> list[str]:
        return [str(item) for item in self._warnings.values()]

    @property
    def dropped(self) -> list[Dropped]:
        return list(self._drops.values())

    @property
    def problems(self) -> list[Problem]:
        return list(self._problems.values())


@dataclass
class _Counted:
    text: str
    count: int | None
    where: str

    def __str__(self) -> str:
        details = [] if self.count is None else [f"{self.count} in all"]
        details += [f"first at {self.where}"] if self.where else []
        return self.text + (f" ({', '.join(details)})" if details else "")


class Tally:
    """Counts over the chunks of one conversion."""

    def __init__(self) -> None:
        self._lengths: list[NDArray[np.int64]] = []
        self._columns: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._terminated = self._truncated = self._cut = 0

    def add(self, chunk: Chunk) -> None:
        """Count the episodes of one chunk."""
        block = chunk.block
        last = block.final_rows - 1
        terminated = block.columns[schema.TERMINATED][last]
        self._lengths.append(block.lengths)
        self._columns = self._columns or {n: (a.dtype.name, a.shape[1:]) for n, a in block.columns.items()}
        self._terminated += int(np.count_nonzero(terminated))
        self._truncated += int(np.count_nonzero(block.columns[schema.TRUNCATED][last] & ~terminated))
        self._cut += chunk.cut

    def report(
        self, *, source: str, format: str, written: str | None, rows: int | None, log: Log, **about: Any
    ) -> ConversionReport:
        """The report, with `about` as its remaining fields."""
        lengths = np.concatenate([np.empty(0, np.int64), *self._lengths])
        extent = (int(lengths.min()), float(np.median(lengths)), int(lengths.max())) if len(lengths) else (0, 0.0, 0)
        return ConversionReport(
            source=source,
            format=format,
            written=written,
            rows=int(lengths.sum()) if rows is None else rows,
            episodes=len(lengths),
            steps=int(lengths.sum()),
            lengths=extent,
            terminated=self._terminated,
            truncated=self._truncated,
            cut=self._cut,
            columns=self._columns,
            dropped=log.dropped,
            warnings=log.warnings,
            notes=log.notes,
            problems=log.problems,
            **about,
        )
