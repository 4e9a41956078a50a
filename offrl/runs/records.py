"""What the text files of a run hold, as far as it is read back, and their readers, which check it.

Values stay the plain ones that they are; the dataclasses here are what they must fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Lt, MinLen
from pydantic import Field

from offrl.data.schema import ReferenceScores
from offrl.documents import checked, parse_json, read_bytes, read_json, shortened
from offrl.errors import RunError

METRICS, EVALUATIONS, CROSS_VALIDATION = "metrics.jsonl", "evaluations.jsonl", "cross_validation.json"
MOST_LOGGED = 2**31
"""Bytes of a log that are read."""
CHECKPOINT_NAME = re.compile(r"(best-)?step-\d+(-again)?")
"""What the directories of checkpoints are called; whatever else lies beside them is somebody else's."""

Step = Annotated[int, Ge(0), Lt(2**63)]
CheckpointName = Annotated[str, Field(pattern=f"^{CHECKPOINT_NAME.pattern}$")]
Figures = Annotated[list[float], MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class Checksummed:
    """`facts.json` of a checkpoint, as far as it tells the other files."""

    checksums: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts(Checksummed):
    """`facts.json` of a checkpoint."""

    step: Step
    normalized: bool
    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    environment: str | None
    dataset: str | None
    fingerprint: str | None
    reference_scores: ReferenceScores


@dataclass(frozen=True, kw_only=True)
class LoggedStep:
    """What every line of `metrics.jsonl` and `evaluations.jsonl` has; the rate only the former."""

    step: Step
    steps_per_second: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationLine(LoggedStep):
    """A line of `evaluations.jsonl`."""

    mean_return_per_seed: list[float | None]
    final: bool = False
    checkpoint: str | None = None
    reference_scores: ReferenceScores | None = None


@dataclass(frozen=True, kw_only=True)
class WholeEvaluation(EvaluationLine):
    """A line of `evaluations.jsonl` with all that `offrl.runs.scores.Scores` reads."""

    environment: str
    episodes: int
    seeds: Annotated[list[int], MinLen(1)]
    returns: list[Figures]
    lengths: list[Figures]
    normalized_score: float | None
    normalized_score_per_seed: list[float | None] | None
    reference_scores: ReferenceScores

    def __post_init__(self) -> None:
        per_seed = [self.returns, self.lengths, self.normalized_score_per_seed or self.seeds]
        if any(len(values) != len(self.seeds) for values in per_seed):
            raise ValueError("should have returns, lengths and scores for each of its seeds")
        if {len(figures) for figures in (*self.returns, *self.lengths)} != {self.episodes}:
            raise ValueError("should have a return and a length for each of its episodes")
        if self.normalized_score is not None and None in (self.reference_scores.random, self.reference_scores.expert):
            raise ValueError("should name the reference scores that its normalized score is of")


@dataclass(frozen=True, kw_only=True)
class TriedCoefficient:
    """A row of the table in a `ChosenCoefficient`."""

    coefficient: float
    held_out_loss: float
    standard_error: float


@dataclass(frozen=True, kw_only=True)
class ChosenCoefficient:
    """`cross_validation.json` as it was when coefficients alone could be chosen."""

    kind: str
    coefficient: float
    folds: int
    table: list[TriedCoefficient]


@dataclass(frozen=True, kw_only=True)
class TriedOptions:
    """A row of the table in `cross_validation.json`; losses that aren't finite are None."""

    settings: dict[str, Any]
    held_out_loss: float | None
    standard_error: float | None
    per_fold: list[float | None]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """`cross_validation.json`; nothing is chosen as long as some candidates are to be tried."""

    folds: int
    chosen: dict[str, Any] | None
    table: list[TriedOptions]


def choice_of_coefficient(values: Mapping[str, Any]) -> dict[str, Any]:
    """A `ChosenCoefficient` as a `Choice`; its losses per fold weren't kept."""
    key = f"agent.{values['kind']}"
    table = [
        {
            "settings": {key: row["coefficient"]},
            "held_out_loss": row["held_out_loss"],
            "standard_error": row["standard_error"],
            "per_fold": [],
        }
        for row in values["table"]
    ]
    return {"folds": values["folds"], "chosen": {key: values["coefficient"]}, "table": table}


def read_record(path: Path, kind: Any, what: str, hint: str) -> dict[str, Any]:
    """The plain values in a JSON file.

    Args:
        path: the file.
        kind: the dataclass that they must fit.
        what: the file holds, for the message.
        hint: what to do about a damaged one.

    Raises:
        RunError: it isn't there, can't be read, or holds something else.
    """
    try:
        values: dict[str, Any] = read_json(path)
        checked(kind, values)
    except (OSError, ValueError) as error:
        raise RunError(f"{what} can't be read: {error}", where=str(path), hint=hint) from error
    return values


def read_lines(path: Path, kind: Any = LoggedStep) -> list[dict[str, Any]]:
    """The plain values of a file of JSON lines; empty where there is none.

    A kill may have cut a line short, and what came behind it is then part of that line: what isn't JSON is left out.

    Args:
        path: the file.
        kind: the dataclass that each line must fit.

    Raises:
        RunError: the file can't be read, or a line of it is JSON but something else.
    """
    try:
        content = read_bytes(path, MOST_LOGGED) if path.exists() else b""
    except (OSError, ValueError) as error:
        raise RunError(f"the run's log can't be read: {error}", where=str(path), hint="check the file") from error
    lines = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            values = parse_json(line)
        except ValueError:
            continue
        try:
            checked(kind, values)
        except ValueError as error:
            raise RunError(
                f"line {number} of the run's log is damaged: {error}", where=str(path), hint="take that line out"
            ) from error
        lines.append(values)
    return lines


def read_metrics(path: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, whose lists hold a number for each seed.

    Raises:
        RunError: the file can't be read, or a line of it is JSON but something else.
    """
    lines = read_lines(path)
    for line in lines:
        for name, value in line.items():
            if isinstance(value, list) and not (len(value) == len(seeds) and all(map(_is_metric, value))):
                raise RunError(
                    f"{shortened(name)} of step {line['step']} is {shortened(value)} in the run's log, and should be "
                    f"a list of {len(seeds)}: a number for each seed",
                    where=str(path),
                    hint="take that line out",
                )
    return lines


def _is_metric(value: Any) -> bool:
    """Whether this is a number that arrays can hold, or None."""
    return value is None or type(value) is float or (type(value) is int and abs(value) < 2**63)
