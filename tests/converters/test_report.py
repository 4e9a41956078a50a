"""What a conversion says: counts worked out by hand, words that add up, and the same plan as deed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest

from offrl.converters import ConversionReport, ConvertOptions, Dropped, convert, plan_conversion
from offrl.converters.report import Chunk, Log, Tally
from offrl.data.block import EpisodeBlock
from offrl.errors import DataError
from offrl.types import Spec
from tests.converters.test_destination import write_rows

SPEC = Spec(gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(2))


def chunk(lengths: list[int], ends: list[str], cut: int = 0) -> Chunk:
    """Episodes that end "t"erminated, truncated by a "l"imit, or both."""
    rows = sum(lengths) + len(lengths)
    final = np.cumsum(np.array(lengths) + 1) - 1
    flags = {name: np.zeros(rows, np.bool_) for name in ("terminated", "truncated")}
    for row, end in zip(final, ends, strict=True):
        flags["terminated"][row - 1] = "t" in end
        flags["truncated"][row - 1] = "l" in end
    columns: dict[str, Any] = {
        "observation": np.zeros((rows, 1), np.float32),
        "action": np.zeros(rows, np.int64),
        "reward": np.zeros(rows),
        **flags,
    }
    return Chunk(EpisodeBlock(columns, np.array(lengths)), str, cut)


def report_of(*chunks: Chunk, rows: int | None = None, log: Log | None = None) -> ConversionReport:
    tally = Tally()
    for item in chunks:
        tally.add(item)
    return tally.report(source="s", format="f", written=None, rows=rows, log=log or Log(True), spec=SPEC)


def test_episodes_are_counted_over_chunks() -> None:
    report = report_of(chunk([2, 7], ["t", "l"]), chunk([3, 4, 1], ["tl", "l", "t"], cut=1), rows=20)
    assert (report.rows, report.episodes, report.steps) == (20, 5, 17)
    assert report.lengths == (1, 3.0, 7)
    assert (report.terminated, report.truncated, report.cut) == (3, 2, 1)
    assert report.columns["observation"] == ("float32", (1,))
    assert report.columns["terminated"] == ("bool", ())


def test_the_median_may_lie_between_two_lengths() -> None:
    assert report_of(chunk([1, 2, 5, 9], ["t"] * 4)).lengths == (1, 3.5, 9)


def test_nothing_is_counted_as_nothing() -> None:
    report = report_of()
    assert (report.rows, report.episodes, report.steps, report.lengths) == (0, 0, 0, (0, 0.0, 0))


def test_where_the_source_does_not_say_its_rows_are_the_steps() -> None:
    assert report_of(chunk([2, 7], ["t", "l"])).rows == 9


def test_log_probabilities_are_told_from_the_columns() -> None:
    plain = chunk([2], ["t"])
    assert report_of(plain).behavior_log_prob is False
    plain.block.columns["behavior_log_prob"] = np.zeros(3)
    assert report_of(plain).behavior_log_prob is True


def test_repeated_warnings_are_one_with_the_first_place() -> None:
    log = Log(False)
    log.warn("it is odd", 3, "row 7")
    log.warn("it is even")
    log.warn("it is odd", 4, "row 90")
    assert log.warnings == ["it is odd (7 in all, first at row 7)", "it is even"]


def test_what_is_dropped_for_one_reason_adds_up() -> None:
    log = Log(False)
    log.drop("short", steps=2)
    log.drop("nothing")
    log.drop("long", episodes=1)
    log.drop("short", steps=3, episodes=1)
    log.leave_out("goal", "no rows")
    log.leave_out("goal", "no rows")
    assert log.dropped == [Dropped("short", 5, 1), Dropped("long", 0, 1), Dropped("'goal': no rows")]


def test_notes_are_said_once() -> None:
    log = Log(False)
    for text in ("a", "b", "a"):
        log.note(text)
    assert log.notes == ["a", "b"]


def test_a_problem_is_raised_or_in_a_dry_run_listed() -> None:
    with pytest.raises(DataError, match="wrong") as raised:
        Log(dry_run=False).problem("wrong", where="there", hint="so")
    assert (raised.value.where, raised.value.hint) == ("there", "so")
    log = Log(dry_run=True)
    log.problem("wrong", where="there", hint="so")
    log.problem("wrong again", where="further on", hint="so")
    log.problem("something else", where="there", hint="otherwise")
    assert [(item.what, item.where) for item in log.problems] == [("wrong", "there"), ("something else", "there")]


def test_the_report_is_plain_json() -> None:
    log = Log(True)
    log.drop("short", steps=2)
    log.problem("wrong", where="there", hint="so")
    value = report_of(chunk([2, 4], ["t", "l"]), log=log).to_dict()
    assert json.loads(json.dumps(value)) == value
    assert value["lengths"] == {"min": 2, "median": 3.0, "max": 4}
    assert value["dropped"] == [{"reason": "short", "steps": 2, "episodes": 0}]
    assert value["problems"] == [{"what": "wrong", "where": "there", "hint": "so"}]
    assert value["columns"]["action"] == {"dtype": "int64", "shape": []}
    assert value["action_space"]["n"] == 2


def test_a_real_report_by_hand(tmp_path: Path) -> None:
    """Six rows: four end in a terminal state, of the two that a time limit cut the last has no successor."""
    path = write_rows(tmp_path / "log.hdf5", goals=np.zeros(6))
    report = convert(path, tmp_path / "store")
    assert (report.source, report.format, report.written) == (str(path), "d4rl", str(tmp_path / "store"))
    assert (report.rows, report.episodes, report.steps, report.lengths) == (6, 2, 5, (1, 2.5, 4))
    assert (report.terminated, report.truncated, report.cut) == (1, 1, 0)
    assert report.columns == {
        "observation": ("float32", (2,)),
        "action": ("float32", (1,)),
        "reward": ("float32", ()),
        "terminated": ("bool", ()),
        "truncated": ("bool", ()),
    }
    assert [(item.steps, item.episodes) for item in report.dropped] == [(0, 0), (1, 0)]
    assert "'goals'" in report.dropped[0].reason
    assert report.reference_scores == {}
    assert report.environment is None


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_plan_for_a_table_says_what_is_then_done(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame({"episode": [0, 0, 0, 1, 1], "observation": np.arange(5.0), "action": [0.0, 2, 1, 0, 1]})
    table = table.assign(reward=1.0, terminated=[False, False, True, False, False])
    path = tmp_path / f"log.{suffix}"
    match suffix:
        case "csv":
            table.to_csv(path, index=False)
        case "jsonl":
            table.to_json(path, orient="records", lines=True)
        case _:
            table.to_parquet(path)
    options = ConvertOptions(action_bounds=(-1, 1), out_of_bounds="clip")
    planned = plan_conversion(path, options=options).to_dict()
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert planned == {**convert(path, tmp_path / "store", options=options).to_dict(), "written": None}
    assert (planned["rows"], planned["steps"], planned["terminated"], planned["cut"]) == (5, 4, 1, 1)
    assert any("1 in all" in warning and "row 1" in warning for warning in planned["warnings"])
