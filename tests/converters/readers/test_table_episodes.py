"""Where a table's episodes begin and end: what is asked, and what the answers mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from offrl.converters import ConvertOptions, convert, plan_conversion
from offrl.converters.formats import Format
from offrl.data.store import TrajectoryStore
from offrl.errors import RequestError

NINE = pd.DataFrame({"x": np.arange(9.0), "y": np.arange(9.0) + 1, "a": np.linspace(-1, 1, 9), "r": 1.0})
NINE["done"] = NINE.x == 5
FIELDS = {"observation": "x", "action": "a", "reward": "r"}


def plan(path: Path, table: pd.DataFrame = NINE, **options: Any) -> Any:
    table.to_csv(path / "log.csv", index=False)
    mapping = {**FIELDS, **options.pop("mapping", {})}
    return plan_conversion(path / "log.csv", options=ConvertOptions(mapping=mapping, **options))


@pytest.mark.parametrize("time_limit", [None, 500])
def test_a_table_that_does_not_say_where_episodes_end_is_asked_about(tmp_path: Path, time_limit: int | None) -> None:
    with pytest.raises(RequestError, match="nothing tells where episodes end; 'done' is not mapped") as raised:
        plan(tmp_path, time_limit=time_limit)
    assert "--map terminated=done" in raised.value.what
    for answer in ("--map terminated=COLUMN", "--map episode=COLUMN", "--bandit", "--episode-per-file"):
        assert answer in raised.value.hint


def test_a_time_limit_cuts_where_no_episode_terminates(tmp_path: Path) -> None:
    report = plan(tmp_path, mapping={"terminated": "", "next_observation": "y"}, time_limit=3)
    assert (report.episodes, report.terminated, report.truncated, report.cut) == (3, 0, 3, 0)


def test_a_time_limit_beside_flags(tmp_path: Path) -> None:
    report = plan(tmp_path, mapping={"terminated": "done", "next_observation": "y"}, time_limit=4)
    assert (report.episodes, report.terminated, report.lengths) == (3, 1, (2, 3, 4))
    cut = NINE.assign(cut=np.arange(9) == 8)
    for episode in ({}, {"episode": "trip"}):
        table = cut.assign(trip=np.repeat([0, 1], [6, 3]))
        report = plan(tmp_path, table, mapping={"terminated": "done", "truncated": "cut", **episode}, time_limit=4)
        assert any("the time limit is not used" in note for note in report.notes)


def test_each_row_of_a_bandit_log_is_an_episode(tmp_path: Path) -> None:
    report = plan(tmp_path, bandit=True)
    assert (report.episodes, report.terminated, report.lengths) == (9, 9, (1, 1.0, 1))
    named = NINE.rename(columns={"done": "terminated"}).assign(step=[0, 0, 0, *range(6)])
    report = plan(tmp_path, named, bandit=True)
    assert report.episodes == 9
    assert sum("--bandit" in item.reason for item in report.dropped) == 2


@pytest.mark.parametrize("field", ["terminated", "truncated", "episode", "step", "next_observation"])
def test_a_bandit_log_has_nothing_that_tells_episodes_apart(tmp_path: Path, field: str) -> None:
    with pytest.raises(RequestError, match=f"{field} is mapped"):
        plan(tmp_path, bandit=True, mapping={field: "done"})


def test_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="contradict"):
        ConvertOptions(bandit=True, time_limit=5)
    with pytest.raises(RequestError, match="contradict"):
        ConvertOptions(bandit=True, episode_per_file=True)
    with pytest.raises(RequestError, match="a column tells episodes apart"):
        plan(tmp_path, episode_per_file=True, mapping={"episode": "done", "terminated": ""})
    np.savez(tmp_path / "log.npz", observations=np.zeros(3))
    for options in (ConvertOptions(bandit=True), ConvertOptions(episode_per_file=True)):
        with pytest.raises(RequestError, match="is for tables"):
            plan_conversion(tmp_path / "log.npz", options=options)
    assert not Format("a log", "module:opener").table


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_each_file_may_be_an_episode(tmp_path: Path, format: str) -> None:
    (tmp_path / "logs").mkdir()
    for number in range(11):
        part = NINE[:3].assign(x=np.arange(3) + 100.0 * number)
        part["done"] = (np.arange(3) == 2) & (number % 2 == 0)
        file = tmp_path / "logs" / f"trip{number}.{format}"
        if format == "csv":
            part.to_csv(file, index=False)
        elif format == "jsonl":
            part.to_json(file, orient="records", lines=True)
        else:
            part.to_parquet(file, index=False)
    options = ConvertOptions(mapping={**FIELDS, "terminated": "done"}, episode_per_file=True)
    report = convert(tmp_path / "logs", tmp_path / "store", format=format, options=options)
    store = TrajectoryStore.open(tmp_path / "store")
    firsts = [float(store.episode(index).observation[0, 0]) for index in range(store.num_episodes)]
    assert firsts == [100.0 * number for number in range(11)]
    assert (report.terminated, report.truncated) == (6, 5)
    assert not any("names of the" in warning for warning in report.warnings)


def test_a_single_file_may_be_an_episode_that_never_terminates(tmp_path: Path) -> None:
    report = plan(tmp_path, episode_per_file=True, mapping={"terminated": "", "next_observation": "y"})
    assert (report.episodes, report.steps, report.truncated) == (1, 9, 1)


def test_an_episode_column_asks_how_they_ended_and_points_at_what_may_tell(tmp_path: Path) -> None:
    table = NINE.assign(trip=np.repeat([0, 1], [6, 3]))
    with pytest.raises(RequestError, match=r"terminal state or was cut; 'done' is not mapped"):
        plan(tmp_path, table, mapping={"episode": "trip"})
