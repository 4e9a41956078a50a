"""What the user can say about a source that the source doesn't say itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from offrl.converters.expansion import MAX_EXPANSION
from offrl.errors import RequestError

Timeouts = Literal["keep", "drop", "terminal"]
OutOfBounds = Literal["error", "clip", "keep"]


@dataclass(frozen=True)
class ConvertOptions:
    """Answers to the questions that a source leaves open.

    Attributes:
        mapping: field to the source's column or key (`parse_mapping` reads it from text). Fields are the store's
            columns (`observation`, `observation.<key>`, `action`, `reward`, `terminated`, `truncated`,
            `behavior_log_prob`, `action_mask`, `info.<key>`) and `episode`, `step`, `next_observation` and
            `behavior_prob`. In a table, several columns (`a,b,c`) or a prefix (`obs_*`) make a vector. The empty text
            says that the source has no such thing, or that it is to be left out.
        timeouts: what becomes of a transition that the source marks as cut by a time limit: `keep` it, truncated;
            `drop` it, as D4RL's own reader does; or take it as `terminal`.
        time_limit: steps after which episodes were cut, for sources that don't mark it. Where a source has one flag
            for both, a flag at exactly this length means truncated.
        environment: a Gymnasium id; the spaces are taken from it and it is recorded.
        action_bounds: (low, high) of every action dimension, where neither source nor environment says.
        out_of_bounds: what to do with actions outside their bounds: refuse them, `clip` or `keep` them.
        allow_pickle: read pickled data, which can run any code that its author wished.
        max_expansion: how many times larger than its files a source may be once unpacked; see
            `offrl.converters.expansion`.
        bandit: each row of a table is an episode of one step, as in the log of a contextual bandit.
        episode_per_file: each file of a folder of tables is an episode.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    timeouts: Timeouts = "keep"
    time_limit: int | None = None
    environment: str | None = None
    action_bounds: tuple[float, float] | None = None
    out_of_bounds: OutOfBounds = "error"
    allow_pickle: bool = False
    max_expansion: int = MAX_EXPANSION
    bandit: bool = False
    episode_per_file: bool = False

    def __post_init__(self) -> None:
        _check_choice("timeouts", self.timeouts, get_args(Timeouts))
        _check_choice("out_of_bounds", self.out_of_bounds, get_args(OutOfBounds))
        if self.max_expansion < 1:
            raise RequestError(f"a largest expansion of {self.max_expansion} can't be", hint="give at least 1")
        if self.time_limit is not None and self.time_limit < 1:
            raise RequestError(f"a time limit of {self.time_limit} steps can't be", hint="give at least 1")
        if self.bandit and (self.episode_per_file or self.time_limit is not None):
            other = "--episode-per-file" if self.episode_per_file else "--time-limit"
            raise RequestError(f"--bandit and {other} contradict each other", hint="leave one of them out")
        if self.action_bounds is not None:
            low, high = self.action_bounds
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise RequestError(f"action bounds of {low} to {high} can't be", hint="give finite bounds, low < high")


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RequestError(f"'{value}' is not a value of '{option}'", hint=f"choose one of {', '.join(choices)}")


def parse_mapping(items: Iterable[str]) -> dict[str, str]:
    """Read `field=columns` texts, as in `--map observation=x,y,vel_* --map action=torque`.

    Raises:
        RequestError: a text has no `=`, an unknown field, or a field is given twice.
    """
    mapping: dict[str, str] = {}
    for item in items:
        name, equals, columns = (part.strip() for part in item.partition("="))
        if not equals or not name:
            raise RequestError(f"'{item}' doesn't map anything", hint="write field=column, such as reward=cost")
        if name in mapping:
            raise RequestError(f"'{name}' is mapped twice", where=f"'{item}'")
        mapping[name] = columns
    check_fields(mapping)
    return mapping


_FIELDS = (
    *("observation", "action", "reward", "terminated", "truncated", "next_observation", "info"),
    *("episode", "step", "behavior_log_prob", "behavior_prob", "action_mask"),
)
_NESTED = ("observation", "action", "next_observation", "info")


def check_fields(mapping: Mapping[str, str]) -> None:
    """Raises RequestError where a mapping names a field that doesn't exist."""
    for name in mapping:
        root, *keys = name.split(".")
        if name not in _FIELDS and not (root in _NESTED and all(keys)):
            raise RequestError(
                f"'{name}' is not a field that columns can be mapped to",
                hint=f"fields are {', '.join(_FIELDS)}, observation.<key>, action.<key> and info.<key>",
            )
