"""Pickled lists of path dictionaries."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offrl.converters import ConvertOptions, convert, plan_conversion
from offrl.data.store import TrajectoryStore
from offrl.errors import DataError, RequestError, SourceError, UnsafeSourceError
from tests.converters.logs import Log, assert_holds, make_log, read_by_hand

TRUSTED = ConvertOptions(allow_pickle=True, time_limit=3)


def to_paths(log: Log) -> list[dict[str, Any]]:
    """A dictionary for each episode, with one flag for both ends, as courses have them."""
    numbers = np.array(log.episode)
    return [
        {
            "observation": log.observation[numbers == number],
            "next_observation": log.next_observation[numbers == number],
            "action": log.action[numbers == number],
            "reward": log.reward[numbers == number],
            "terminal": (log.terminated | log.truncated)[numbers == number].astype(np.float32),
            "image_obs": [],
        }
        for number in range(numbers[-1] + 1)
    ]


def write(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.fixture
def log() -> Log:
    return make_log([3, 2, 1], ["timeout", "terminal", "terminal"], seed=0)


def test_paths_are_read_as_by_hand(tmp_path: Path, log: Log) -> None:
    report = convert(write(tmp_path / "paths.pkl", to_paths(log)), tmp_path / "store", options=TRUSTED)
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=True))
    assert (report.terminated, report.truncated, report.cut) == (2, 1, 0)
    assert any("exactly 3 steps" in note for note in report.notes)


def test_a_flag_that_is_neither_yes_nor_no_is_refused_by_path_and_step(tmp_path: Path, log: Log) -> None:
    paths = to_paths(log)
    paths[1]["terminal"] = np.where(np.arange(len(paths[1]["terminal"])) == 1, np.nan, paths[1]["terminal"])
    with pytest.raises(DataError, match="'terminal' holds nan") as raised:
        convert(write(tmp_path / "paths.pkl", paths), tmp_path / "store", options=TRUSTED)
    assert "path 1, step 1" in raised.value.where


def test_pickles_are_read_only_where_that_is_allowed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = write(tmp_path / "paths.pkl", [Trap()])
    with pytest.raises(UnsafeSourceError, match="runs whatever code"):
        plan_conversion(path)
    assert not (tmp_path / "sprung").exists()


def test_a_terminal_flag_asks_for_the_time_limit(tmp_path: Path, log: Log) -> None:
    path = write(tmp_path / "paths.pkl", to_paths(log))
    with pytest.raises(RequestError, match="only means that the time limit struck"):
        plan_conversion(path, options=ConvertOptions(allow_pickle=True))
    report = plan_conversion(path, options=ConvertOptions(allow_pickle=True, mapping={"truncated": ""}))
    assert (report.terminated, report.truncated) == (3, 0)


def test_paths_without_flags_were_all_cut(tmp_path: Path, log: Log) -> None:
    paths = [{key: value for key, value in path.items() if key != "terminal"} for path in to_paths(log)]
    report = plan_conversion(write(tmp_path / "paths.pkl", paths), options=ConvertOptions(allow_pickle=True))
    assert (report.terminated, report.truncated, report.steps) == (0, 3, 6)


def test_observations_that_are_one_longer_hold_the_final_one(tmp_path: Path, log: Log) -> None:
    paths = to_paths(log)
    for path in paths:
        path["observation"] = np.concatenate([path["observation"], path.pop("next_observation")[-1:]])
    convert(write(tmp_path / "paths.pkl", paths), tmp_path / "store", options=TRUSTED)
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=True))


def test_nested_dictionaries(tmp_path: Path, log: Log) -> None:
    paths = to_paths(log)
    for index, path in enumerate(paths):
        path["infos"] = {"speed": np.full(len(path["action"]), index), "note": ["x"] * len(path["action"])}
    report = convert(write(tmp_path / "paths.pkl", {"paths": paths}), tmp_path / "store", options=TRUSTED)
    assert TrajectoryStore.open(tmp_path / "store").episode(1).extras["info.speed"].tolist() == [1, 1, 0]
    assert any("infos/note" in item.reason for item in report.dropped)


def _early(paths: list[dict[str, Any]]) -> None:
    paths[0]["terminal"][1] = 1


def _short(paths: list[dict[str, Any]]) -> None:
    paths[1]["reward"] = paths[1]["reward"][:-1]


def _nothing_done(paths: list[dict[str, Any]]) -> None:
    del paths[2]["action"]


@pytest.mark.parametrize(
    ("damage", "error", "says", "where"),
    [
        (_early, DataError, "goes on after", "path 0, step 1"),
        (_short, DataError, "reward", "paths.pkl"),
        (_nothing_done, SourceError, "no actions", "path 2"),
    ],
)
def test_wrong_paths_are_refused(  # type: ignore[no-untyped-def]
    tmp_path: Path, log: Log, damage, error: type[Exception], says: str, where: str
) -> None:
    paths = to_paths(log)
    damage(paths)
    with pytest.raises(error, match=says) as raised:
        convert(write(tmp_path / "paths.pkl", paths), tmp_path / "store", options=TRUSTED)
    assert where in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04not a pickle", pickle.dumps([1, 2]), pickle.dumps({"a": 1})])
def test_what_is_no_list_of_paths_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "paths.pkl").write_bytes(content)
    with pytest.raises(SourceError) as raised:
        convert(tmp_path / "paths.pkl", tmp_path / "store", options=TRUSTED)
    assert "paths.pkl" in raised.value.where
