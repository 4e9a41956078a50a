"""OGBench archives: T + 1 rows per trajectory, an end mark that is no terminal state, a last action that means nothing.

What is expected is worked out from plain lists, one trajectory after the other.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from offrl.converters import ConvertOptions, convert, plan_conversion
from offrl.converters.formats import detect
from offrl.data.store import TrajectoryStore
from offrl.data.validate import validate
from offrl.errors import DataError, SourceError

INVALID = 0.75


def trajectory(number: int, steps: int) -> list[dict[str, Any]]:
    """T + 1 rows of numbers that occur nowhere else."""
    return [
        {
            "observations": [number + row / 16, -row - 0.5],
            "actions": [INVALID if row == steps else row / 16],
            "terminals": row == steps,
            "qpos": [number * 100.0 + row],
        }
        for row in range(steps + 1)
    ]


def write(path: Path, lengths: list[int], **changed: Any) -> list[list[dict[str, Any]]]:
    """Write trajectories of these lengths, and return their rows; `changed` replaces arrays, None leaves them out."""
    trajectories = [trajectory(number, steps) for number, steps in enumerate(lengths)]
    rows = [row for rows in trajectories for row in rows]
    arrays = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    np.savez_compressed(path, **{key: array for key, array in {**arrays, **changed}.items() if array is not None})
    return trajectories


def assert_holds(store: TrajectoryStore, trajectories: list[list[dict[str, Any]]]) -> None:
    assert store.num_episodes == len(trajectories)
    for index, rows in enumerate(trajectories):
        episode = store.episode(index)
        steps = len(rows) - 1
        assert episode.observation.tolist() == [row["observations"] for row in rows]
        assert episode.action.tolist() == [row["actions"] for row in rows[:-1]]
        assert episode.reward.tolist() == [0.0] * steps
        assert episode.terminated.tolist() == [False] * steps
        assert episode.truncated.tolist() == [False] * (steps - 1) + [True]
        assert episode.extras["info.qpos"].tolist() == [row["qpos"] for row in rows]


def test_the_end_of_a_trajectory_is_no_terminal_state(tmp_path: Path) -> None:
    trajectories = write(tmp_path / "maze.npz", [3, 1, 4])
    assert detect(tmp_path / "maze.npz") == "ogbench"
    report = convert(tmp_path / "maze.npz", tmp_path / "store")

    store = TrajectoryStore.open(tmp_path / "store")
    assert_holds(store, trajectories)
    assert validate(store) == []
    assert (report.format, report.rows, report.steps, report.episodes) == ("ogbench", 11, 8, 3)
    assert (report.terminated, report.truncated, report.cut) == (0, 3, 0)
    assert (report.lengths, report.dropped) == ((1, 3.0, 4), [])
    assert any("no terminal state" in note for note in report.notes)
    assert any("action is invalid" in note for note in report.notes)
    assert any("no rewards" in warning for warning in report.warnings)


@pytest.mark.parametrize("invalid", [99.0, np.nan, -np.inf])
def test_the_last_action_never_matters(tmp_path: Path, invalid: float) -> None:
    trajectories = write(tmp_path / "maze.npz", [3, 1, 4])
    actions = np.array([row["actions"] for rows in trajectories for row in rows])
    actions[[3, 5, 10]] = invalid
    write(tmp_path / "other.npz", [3, 1, 4], actions=actions)
    convert(tmp_path / "maze.npz", tmp_path / "store")
    report = convert(tmp_path / "other.npz", tmp_path / "other")

    store, other = (TrajectoryStore.open(tmp_path / name) for name in ("store", "other"))
    assert other.spec == store.spec
    assert store.spec.action_space == spaces.Box(-1.0, 1.0, (1,), np.float64)
    assert not any("bounds" in warning for warning in report.warnings)
    assert_holds(other, trajectories)


def test_the_last_choice_never_matters(tmp_path: Path) -> None:
    write(tmp_path / "maze.npz", [3, 2], actions=np.array([0, 2, 1, -7, 2, 1, 50]))
    convert(tmp_path / "maze.npz", tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.spec.action_space == spaces.Discrete(3)
    assert [store.episode(index).action.tolist() for index in range(2)] == [[0, 2, 1], [2, 1]]


def test_a_file_that_was_cut_ends_in_a_trajectory_without_a_mark(tmp_path: Path) -> None:
    marks = np.array([False, False, True, False, False, False])
    trajectories = write(tmp_path / "maze.npz", [2, 2], terminals=marks)
    report = convert(tmp_path / "maze.npz", tmp_path / "store")
    assert_holds(TrajectoryStore.open(tmp_path / "store"), trajectories)
    assert (report.truncated, report.cut) == (2, 1)
    assert any("no end mark" in warning for warning in report.warnings)


def test_a_trajectory_of_one_row_has_no_transition(tmp_path: Path) -> None:
    trajectories = write(tmp_path / "maze.npz", [2, 0, 1, 0])
    report = convert(tmp_path / "maze.npz", tmp_path / "store")
    assert_holds(TrajectoryStore.open(tmp_path / "store"), [trajectories[0], trajectories[2]])
    assert sum(item.episodes for item in report.dropped) == 2
    assert TrajectoryStore.open(tmp_path / "store").episodes.source(1) == "maze.npz#2"

    write(tmp_path / "states.npz", [0, 0])
    with pytest.raises(DataError, match="no transition remains"):
        convert(tmp_path / "states.npz", tmp_path / "states")


def test_rewards_make_it_a_log_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "maze.npz"
    rewards = np.arange(5.0)[:, None]
    write(path, [2, 1], rewards=rewards, terminals=np.array([[0.0], [0], [1], [0], [1]]))
    assert detect(path) == "npz"
    convert(path, tmp_path / "store", format="ogbench")
    store = TrajectoryStore.open(tmp_path / "store")
    assert [store.episode(index).reward.tolist() for index in range(2)] == [[0.0, 1.0], [3.0]]
    assert not store.read("terminated", 0, store.num_rows).any()


def test_the_validation_file_is_pointed_out(tmp_path: Path) -> None:
    write(tmp_path / "maze.npz", [2])
    assert not any("validation" in note for note in plan_conversion(tmp_path / "maze.npz").notes)
    write(tmp_path / "maze-val.npz", [1])
    assert any("maze-val.npz" in note for note in plan_conversion(tmp_path / "maze.npz").notes)
    assert plan_conversion(tmp_path / "maze-val.npz").episodes == 1


def test_an_array_can_be_left_out_or_renamed(tmp_path: Path) -> None:
    write(tmp_path / "maze.npz", [2])
    left_out = plan_conversion(tmp_path / "maze.npz", options=ConvertOptions(mapping={"info": ""}))
    assert set(left_out.columns) == {"observation", "action", "reward", "terminated", "truncated"}
    renamed = plan_conversion(tmp_path / "maze.npz", options=ConvertOptions(mapping={"info.joints": "qpos"}))
    assert "info.joints" in renamed.columns
    assert "info.qpos" not in renamed.columns


@pytest.mark.parametrize("missing", ["observations", "actions", "terminals"])
def test_a_missing_key_is_answered_with_those_there_are(tmp_path: Path, missing: str) -> None:
    write(tmp_path / "maze.npz", [2], **{missing: None})
    with pytest.raises(SourceError, match=f"no '{missing}'") as raised:
        convert(tmp_path / "maze.npz", tmp_path / "store", format="ogbench")
    assert "qpos" in raised.value.hint
    assert not (tmp_path / "store").exists()


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 8), min_size=1, max_size=6).filter(any))
def test_any_trajectories_are_held_row_by_row(lengths: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trajectories = write(Path(folder, "maze.npz"), lengths)
        planned = plan_conversion(Path(folder, "maze.npz")).to_dict()
        done = convert(Path(folder, "maze.npz"), Path(folder, "store")).to_dict()
        assert_holds(TrajectoryStore.open(Path(folder, "store")), [rows for rows in trajectories if len(rows) > 1])
        assert planned == {**done, "written": None}
        assert done["rows"] == sum(lengths) + len(lengths)
        assert done["steps"] == sum(lengths)
