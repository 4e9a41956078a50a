"""NumPy archives: logs of transitions, and OGBench's trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offrl.converters import ConvertOptions, convert, plan_conversion, rows_to_episodes
from offrl.converters.formats import detect
from offrl.data.store import TrajectoryStore
from offrl.errors import DataError, RequestError, SourceError
from tests.converters.logs import Log, assert_holds, logs, make_log, read_by_hand


def write_npz(path: Path, log: Log, *, has_next: bool = True, **extra: Any) -> Path:
    """A log under keys of offrl's choice; None leaves one out."""
    arrays = {
        "obs": log.observation,
        "actions": log.action,
        "rewards": log.reward,
        "terminals": log.terminated,
        "truncations": log.truncated,
        "next_obs": log.next_observation if has_next else None,
        **extra,
    }
    np.savez_compressed(path, **{key: array for key, array in arrays.items() if array is not None})
    return path


@settings(max_examples=25, deadline=None)
@given(log=logs(), has_next=st.booleans(), fortran=st.booleans(), block=st.sampled_from([60, 10_000]))
def test_any_archive_is_read_as_by_hand(
    tmp_path_factory: pytest.TempPathFactory, log: Log, has_next: bool, fortran: bool, block: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    expected = read_by_hand(log, has_next=has_next)
    actions = np.asfortranarray(log.action) if fortran else log.action
    path = write_npz(folder / "log.npz", log, has_next=has_next, actions=actions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_to_episodes, "BLOCK_BYTES", block)
        if not expected:
            with pytest.raises(DataError, match="no transition remains"):
                convert(path, folder / "store")
            return
        convert(path, folder / "store")
    assert_holds(TrajectoryStore.open(folder / "store"), expected)


@pytest.mark.parametrize("value", [np.nan, 0.5, -100.0])
def test_a_flag_that_is_neither_yes_nor_no_is_refused_by_row_and_key(tmp_path: Path, value: float) -> None:
    log = make_log([2, 3], ["terminal", "timeout"], seed=0)
    terminals = np.where(np.arange(5) == 2, value, log.terminated)
    path = write_npz(tmp_path / "log.npz", log, terminals=terminals)
    with pytest.raises(DataError, match=f"'terminals' holds {value}, which is neither") as raised:
        plan_conversion(path)
    assert "row 2, column 'terminals'" in raised.value.where


@pytest.mark.parametrize("value", [np.nan, 0.5, 2.0])
def test_a_mask_that_is_neither_yes_nor_no_is_refused(tmp_path: Path, value: float) -> None:
    log = make_log([2, 3], ["terminal", "timeout"], seed=0)
    mask = np.ones((5, 4))
    keys = {"actions": np.array([0, 1, 2, 3, 0]), "action_masks": mask}
    convert(write_npz(tmp_path / "log.npz", log, **keys), tmp_path / "store")
    stored = TrajectoryStore.open(tmp_path / "store").episode(0).extras["action_mask"]
    assert stored.dtype == np.bool_
    mask[3, 1] = value
    with pytest.raises(DataError, match=f"'action_masks' holds {value}, which is neither") as raised:
        plan_conversion(write_npz(tmp_path / "log.npz", log, **keys))
    assert "row 3" in raised.value.where


def test_keys_of_ones_own(tmp_path: Path) -> None:
    log = make_log([2, 2], ["terminal", "timeout"], seed=0)
    keys: dict[str, Any] = {
        "obs": None,
        "states": log.observation,
        "rewards": None,
        "cost": log.reward,
        "gripper": np.arange(4.0),
    }
    path = write_npz(tmp_path / "log.npz", log, **keys)
    with pytest.raises(SourceError, match="no 'observations'") as raised:
        convert(path, tmp_path / "store")
    assert "states" in raised.value.hint
    mapping = {"observation": "states", "reward": "cost", "info.gripper": "gripper"}
    convert(path, tmp_path / "store", options=ConvertOptions(mapping=mapping))
    store = TrajectoryStore.open(tmp_path / "store")
    assert_holds(store, read_by_hand(log, has_next=True))
    assert store.episode(1).extras["info.gripper"].tolist() == [2, 3, 0]
    with pytest.raises(SourceError, match="no key 'prize'"):
        convert(path, tmp_path / "x", options=ConvertOptions(mapping={**mapping, "reward": "prize"}))
    with pytest.raises(RequestError, match="table only"):
        convert(path, tmp_path / "x", options=ConvertOptions(mapping={**mapping, "episode": "cost"}))


def test_one_flag_for_both_ends_asks_for_the_time_limit(tmp_path: Path) -> None:
    log = make_log([3, 2], ["terminal", "terminal"], seed=0)
    path = write_npz(tmp_path / "log.npz", log, truncations=None)
    with pytest.raises(RequestError, match="--time-limit"):
        convert(path, tmp_path / "store")
    report = convert(path, tmp_path / "store", options=ConvertOptions(time_limit=3))
    assert (report.terminated, report.truncated) == (1, 1)
    assert TrajectoryStore.open(tmp_path / "store").episode(0).truncated.tolist() == [False, False, True]


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    log = make_log([2], ["terminal"], seed=0)
    path = write_npz(tmp_path / "log.npz", log, rewards=np.array([{}, []], dtype=object))
    with pytest.raises(SourceError, match="no numbers"):
        convert(path, tmp_path / "store")


@pytest.mark.parametrize("keep", [0, 100, 700])
def test_a_cut_archive_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_npz(tmp_path / "log.npz", make_log([50], ["terminal"], seed=0))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SourceError, match=r"empty|cut short") as raised:
        convert(path, tmp_path / "store")
    assert "log.npz" in raised.value.where


def test_damaged_bytes_are_found(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "log.npz", make_log([200], ["terminal"], seed=0))
    data = bytearray(path.read_bytes())
    data[1000:1020] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(SourceError, match="damaged"):
        convert(path, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def write_ogbench(path: Path, lengths: list[int], seed: int = 0, **extra: Any) -> list[dict[str, Any]]:
    """T + 1 rows per trajectory, `terminals` at the last of them; returns the trajectories."""
    rng = np.random.default_rng(seed)
    trajectories = [
        {
            "observations": rng.standard_normal((length + 1, 3)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32),
            "terminals": np.arange(length + 1) == length,
            "qpos": rng.standard_normal((length + 1, 4)),
        }
        for length in lengths
    ]
    arrays = {key: np.concatenate([item[key] for item in trajectories]) for key in trajectories[0]}
    np.savez(path, **{**arrays, **extra})
    return trajectories


@pytest.mark.parametrize("block", [50, 10_000])
def test_ogbench_trajectories(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_to_episodes, "BLOCK_BYTES", block)
    path = tmp_path / "cube-v0.npz"
    trajectories = write_ogbench(path, [3, 1, 5])
    write_ogbench(tmp_path / "cube-v0-val.npz", [2])
    assert detect(path) == "ogbench"
    report = convert(path, tmp_path / "store")

    store = TrajectoryStore.open(tmp_path / "store")
    for index, wanted in enumerate(trajectories):
        episode = store.episode(index)
        np.testing.assert_array_equal(episode.observation, wanted["observations"])
        np.testing.assert_array_equal(episode.action, wanted["actions"][:-1])  # the last action is invalid
        assert not episode.terminated.any()  # the end of a trajectory is no terminal state
        assert episode.truncated.tolist() == [False] * (len(episode.action) - 1) + [True]
        assert not episode.reward.any()
        np.testing.assert_array_equal(episode.extras["info.qpos"][:-1], wanted["qpos"][:-1])
    assert (report.rows, report.steps, report.terminated, report.truncated) == (12, 9, 0, 3)
    assert any("no rewards" in warning for warning in report.warnings)
    assert any("cube-v0-val.npz" in note for note in report.notes)
    assert not any(item.steps for item in report.dropped)


def test_an_ogbench_file_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "cube-v0.npz"
    write_ogbench(path, [3, 2], terminals=np.arange(7) == 3)
    report = plan_conversion(path)
    assert report.lengths == (2, 2.5, 3)
    assert any("may have been cut" in warning for warning in report.warnings)
