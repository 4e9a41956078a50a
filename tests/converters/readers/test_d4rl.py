"""D4RL files: every rule of the format, and every way in which a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offrl.converters import ConvertOptions, convert, plan_conversion, rows_to_episodes
from offrl.data.store import TrajectoryStore
from offrl.errors import DataError, DatasetNotFoundError, RequestError, SourceError, SpaceMismatchError
from tests.converters.logs import Log, assert_holds, logs, make_log, read_by_hand, write_d4rl

ENDS = ["terminal", "timeout", ""]
LENGTHS = [2, 3, 2]


@pytest.fixture
def log() -> Log:
    """Three episodes: one terminates, one is cut by the time limit, the file's end cuts the last."""
    return make_log(LENGTHS, ENDS, seed=1)


def test_stored_next_observations_lose_no_row(tmp_path: Path, log: Log) -> None:
    report = convert(write_d4rl(tmp_path / "log.hdf5", log), tmp_path / "store")

    store = TrajectoryStore.open(tmp_path / "store")
    assert_holds(store, read_by_hand(log, has_next=True))
    assert (report.rows, report.steps, report.episodes) == (7, 7, 3)
    assert (report.terminated, report.truncated, report.cut) == (1, 2, 1)
    assert report.lengths == (2, 2.0, 3)
    assert report.dropped == []
    assert store.episodes.source(1) == "log.hdf5#1"
    assert store.metadata.columns[0].dtype == np.float32


def test_without_next_observations_the_last_step_of_an_open_episode_is_dropped(tmp_path: Path, log: Log) -> None:
    report = convert(write_d4rl(tmp_path / "log.hdf5", log, has_next=False), tmp_path / "store")

    store = TrajectoryStore.open(tmp_path / "store")
    assert store.episodes.length.tolist() == [2, 2, 1]
    first = store.episode(0)
    np.testing.assert_array_equal(first.observation, log.observation[[0, 1, 1]])  # never row 2, the next episode's
    np.testing.assert_array_equal(store.episode(1).observation, log.observation[2:5])
    np.testing.assert_array_equal(store.episode(2).observation, log.observation[5:7])
    (dropped,) = report.dropped
    assert dropped.steps == 2
    assert "next observation isn't stored" in dropped.reason
    assert any("repeated as the final" in note for note in report.notes)


def test_an_episode_of_which_nothing_remains_is_counted(tmp_path: Path) -> None:
    log = make_log([1, 2], ["timeout", "terminal"], seed=0)
    report = convert(write_d4rl(tmp_path / "log.hdf5", log, has_next=False), tmp_path / "store")
    assert report.episodes == 1
    assert [item.episodes for item in report.dropped] == [0, 1]
    np.testing.assert_array_equal(
        TrajectoryStore.open(tmp_path / "store").episode(0).observation[0], log.observation[1]
    )


@pytest.mark.parametrize("timeouts", ["keep", "drop", "terminal"])
@pytest.mark.parametrize("has_next", [True, False])
def test_timeouts_are_kept_dropped_or_terminal(tmp_path: Path, log: Log, timeouts: str, has_next: bool) -> None:
    path = write_d4rl(tmp_path / "log.hdf5", log, has_next=has_next)
    convert(path, tmp_path / "store", options=ConvertOptions(timeouts=timeouts))  # type: ignore[arg-type]
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=has_next, timeouts=timeouts))


def test_columns_of_one_component_and_other_kinds_of_flags(tmp_path: Path, log: Log) -> None:
    path = write_d4rl(
        tmp_path / "log.hdf5",
        log,
        rewards=log.reward[:, None],
        terminals=log.terminated.astype(np.float32)[:, None],
        timeouts=log.truncated.astype(np.uint8),
    )
    convert(path, tmp_path / "store")
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=True))


def test_a_file_without_timeouts_asks_for_the_time_limit(tmp_path: Path) -> None:
    log = make_log([3, 2, 1], ["timeout", "terminal", ""], seed=2)
    path = write_d4rl(tmp_path / "log.hdf5", log, has_timeouts=False)
    with pytest.raises(RequestError, match="--time-limit"):
        convert(path, tmp_path / "store")
    assert not (tmp_path / "store").exists()

    convert(path, tmp_path / "store", options=ConvertOptions(time_limit=3))
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=True))


def test_a_terminal_state_at_the_time_limit_stays_one(tmp_path: Path) -> None:
    log = make_log([3, 3], ["terminal", "timeout"], seed=2)
    convert(
        write_d4rl(tmp_path / "log.hdf5", log, has_timeouts=False),
        tmp_path / "store",
        options=ConvertOptions(time_limit=3),
    )
    assert_holds(TrajectoryStore.open(tmp_path / "store"), read_by_hand(log, has_next=True))


def test_the_user_may_say_that_nothing_was_truncated(tmp_path: Path) -> None:
    log = make_log([3, 2], ["terminal", ""], seed=2)
    path = write_d4rl(tmp_path / "log.hdf5", log, has_timeouts=False)
    report = convert(path, tmp_path / "store", options=ConvertOptions(mapping={"truncated": ""}))
    assert (report.terminated, report.truncated, report.cut) == (1, 1, 1)


def test_infos_are_kept_and_metadata_is_not_taken_for_rows(tmp_path: Path, log: Log) -> None:
    probabilities = np.linspace(-2, -1, 7)
    qpos = np.arange(14, dtype=np.float64).reshape(7, 2)
    path = write_d4rl(
        tmp_path / "log.hdf5",
        log,
        infos__action_log_probs=probabilities[:, None],
        infos__qpos=qpos,
        infos__short=np.zeros(3),
        infos__names=[b"a"] * 7,
        goals=np.zeros(7),
        metadata__algorithm="SAC",
        metadata__iteration=42,
        metadata__policy__fc0__weight=np.zeros((7, 4)),
    )
    report = convert(path, tmp_path / "store")

    store = TrajectoryStore.open(tmp_path / "store")
    assert set(store.column_names) >= {"behavior_log_prob", "info.qpos"}
    assert report.behavior_log_prob
    np.testing.assert_array_equal(store.episode(1).extras["behavior_log_prob"], probabilities[2:5])
    np.testing.assert_array_equal(store.episode(1).extras["info.qpos"][:3], qpos[2:5])
    reasons = " ".join(item.reason for item in report.dropped)
    for expected in ("'infos/short': 3 rows", "'infos/names': not numbers", "'goals': not a known key"):
        assert expected in reasons
    metadata = store.metadata.provenance["metadata"]
    assert metadata == {"algorithm": "SAC", "iteration": 42, "arrays_not_copied": ["policy/fc0/weight"]}


def test_next_observations_that_disagree_are_reported_with_their_row(tmp_path: Path) -> None:
    log = make_log([20], ["terminal"], seed=0)
    log.next_observation[4] += 1
    report = convert(write_d4rl(tmp_path / "log.hdf5", log), tmp_path / "store")
    (warning,) = report.warnings
    assert "log.hdf5, row 4" in warning
    assert "1 in all" in warning
    np.testing.assert_array_equal(TrajectoryStore.open(tmp_path / "store").episode(0).observation[:20], log.observation)


def test_rows_that_are_not_in_the_order_of_time_are_refused(tmp_path: Path) -> None:
    log = make_log([20], ["terminal"], seed=0)
    order = np.random.default_rng(0).permutation(19)
    log.observation[:19], log.next_observation[:19] = log.observation[order], log.next_observation[order]
    path = write_d4rl(tmp_path / "log.hdf5", log)
    with pytest.raises(DataError, match="order of time") as error:
        convert(path, tmp_path / "store")
    assert "row 0" in error.value.where
    convert(path, tmp_path / "store", options=ConvertOptions(mapping={"next_observation": ""}))


def test_unknown_bounds_are_taken_from_the_data_and_said(tmp_path: Path, log: Log) -> None:
    inside = plan_conversion(write_d4rl(tmp_path / "inside.hdf5", log))
    assert inside.spec.action_space == spaces.Box(-1, 1, (2,), np.float32)
    assert any("[-1, 1]" in note for note in inside.notes)

    log.action[0, 0] = 5
    path = write_d4rl(tmp_path / "outside.hdf5", log)
    outside = plan_conversion(path)
    assert isinstance(outside.spec.action_space, spaces.Box)
    np.testing.assert_array_equal(outside.spec.action_space.low, log.action.min(0))
    np.testing.assert_array_equal(outside.spec.action_space.high, log.action.max(0))
    assert any("bounds" in warning for warning in outside.warnings)

    said = plan_conversion(path, options=ConvertOptions(action_bounds=(-6, 6)))
    assert said.spec.action_space == spaces.Box(-6, 6, (2,), np.float32)


def test_the_environment_gives_the_spaces(tmp_path: Path) -> None:
    log = make_log([3], ["timeout"], seed=0)
    path = write_d4rl(tmp_path / "log.hdf5", log, actions=log.action[:, :1] * 2)
    report = convert(path, tmp_path / "store", options=ConvertOptions(environment="Pendulum-v1"))
    assert report.spec.action_space == spaces.Box(-2, 2, (1,), np.float32)
    assert TrajectoryStore.open(tmp_path / "store").metadata.environment == "Pendulum-v1"
    with pytest.raises(SpaceMismatchError, match="CartPole-v1"):
        plan_conversion(path, options=ConvertOptions(environment="CartPole-v1"))
    with pytest.raises(RequestError, match="No-v9"):
        plan_conversion(path, options=ConvertOptions(environment="No-v9"))


def test_whole_numbers_are_discrete(tmp_path: Path, log: Log) -> None:
    path = write_d4rl(tmp_path / "log.hdf5", log, actions=np.array([0, 1, 2, 0, 1, 2, 0], np.int32)[:, None])
    convert(path, tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.spec.action_space == spaces.Discrete(3)
    assert store.episode(1).action.tolist() == [2, 0, 1]


def test_nested_and_image_observations(tmp_path: Path, log: Log) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    starts = np.arange(7) + np.array(log.episode)  # T + 1 images an episode: row t of episode k is image t + k
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
    path = write_d4rl(
        tmp_path / "log.hdf5",
        log,
        observations=None,
        next_observations=None,
        observations__state=log.observation,
        observations__camera__left=images[starts],
        next_observations__state=log.next_observation,
        next_observations__camera__left=images[starts + 1],
    )
    convert(path, tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert isinstance(store.spec.observation_space, spaces.Dict)
    episode = store.episode(1)
    np.testing.assert_array_equal(episode.observation["camera"]["left"], images[3:7])
    assert episode.observation["camera"]["left"].dtype == np.uint8


@pytest.mark.parametrize("has_next", [True, False])
def test_a_dry_run_says_what_a_real_one_does_and_writes_nothing(tmp_path: Path, log: Log, has_next: bool) -> None:
    path = write_d4rl(tmp_path / "log.hdf5", log, has_next=has_next)
    before = sorted(tmp_path.rglob("*"))
    planned = plan_conversion(path).to_dict()
    assert sorted(tmp_path.rglob("*")) == before
    assert planned == convert(path, tmp_path / "x", dry_run=True).to_dict()
    done = convert(path, tmp_path / "store").to_dict()
    assert (planned.pop("written"), done.pop("written")) == (None, str(tmp_path / "store"))
    assert planned == done
    json.dumps(planned)


def test_small_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log([4, 1, 6, 2, 3], ["terminal", "timeout", "timeout", "terminal", ""], seed=3)
    monkeypatch.setattr(rows_to_episodes, "BLOCK_BYTES", 100)
    for has_next in (True, False):
        convert(write_d4rl(tmp_path / "log.hdf5", log, has_next=has_next), tmp_path / f"store{has_next}")
        assert_holds(TrajectoryStore.open(tmp_path / f"store{has_next}"), read_by_hand(log, has_next=has_next))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=logs(), has_next=st.booleans(), timeouts=st.sampled_from(["keep", "drop", "terminal"]))
def test_any_file_is_read_as_by_hand(
    tmp_path_factory: pytest.TempPathFactory, log: Log, has_next: bool, timeouts: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    expected = read_by_hand(log, has_next=has_next, timeouts=timeouts)
    options = ConvertOptions(timeouts=timeouts)  # type: ignore[arg-type]
    path = write_d4rl(folder / "log.hdf5", log, has_next=has_next)
    if not expected:
        with pytest.raises(DataError, match="no transition remains"):
            convert(path, folder / "store", options=options)
        return
    report = convert(path, folder / "store", options=options)
    assert_holds(TrajectoryStore.open(folder / "store"), expected)
    assert report.terminated == sum(episode.terminated for episode in expected)
    assert report.steps + sum(item.steps for item in report.dropped) == report.rows


def _empty(path: Path, log: Log) -> None:
    path.write_bytes(b"")


def _cut_short(path: Path, log: Log) -> None:
    write_d4rl(path, log)
    path.write_bytes(path.read_bytes()[:-2000])


def _text(path: Path, log: Log) -> None:
    path.write_text("observations, actions")


def _no_rewards(path: Path, log: Log) -> None:
    write_d4rl(path, log, rewards=None)


def _no_rows(path: Path, log: Log) -> None:
    write_d4rl(path, make_log([1], [""], 0), observations=np.zeros((0, 3)), actions=np.zeros((0, 2)), **_NOTHING)


_NOTHING: dict[str, Any] = {key: np.zeros(0) for key in ("rewards", "terminals", "timeouts", "next_observations")}


def _short_actions(path: Path, log: Log) -> None:
    write_d4rl(path, log, actions=log.action[:-1])


def _words(path: Path, log: Log) -> None:
    write_d4rl(path, log, rewards=[b"much"] * 7)


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (_empty, SourceError, "empty"),
        (_cut_short, SourceError, "cut short"),
        (_text, SourceError, "not an HDF5 file"),
        (_no_rewards, SourceError, "no 'rewards'"),
        (_no_rows, DataError, "no rows"),
        (_short_actions, DataError, "'actions' has 6 rows, the observations have 7"),
        (_words, SourceError, "no numbers"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, log: Log, damage, error, says: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "log.hdf5"
    damage(path, log)
    with pytest.raises(error, match=says) as raised:
        convert(path, tmp_path / "store", format="d4rl")
    assert "log.hdf5" in raised.value.where
    assert not (tmp_path / "store").exists()
    assert [item.name for item in tmp_path.iterdir()] == ["log.hdf5"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rewards_that_are_no_numbers_are_refused_with_their_row(tmp_path: Path, log: Log, value: float) -> None:
    log.reward[5] = value
    path = write_d4rl(tmp_path / "log.hdf5", log)
    with pytest.raises(DataError, match="reward") as raised:
        convert(path, tmp_path / "store")
    assert "row 5" in raised.value.where
    assert not (tmp_path / "store").exists()
    (problem,) = plan_conversion(path).problems
    assert problem.where == raised.value.where


def test_gaps_in_observations_are_warned_of(tmp_path: Path, log: Log) -> None:
    log.observation[3, 1] = log.next_observation[2, 1] = np.nan
    report = convert(write_d4rl(tmp_path / "log.hdf5", log), tmp_path / "store")
    assert any("NaN" in warning and "row 3" in warning for warning in report.warnings)


def test_actions_outside_their_bounds(tmp_path: Path, log: Log) -> None:
    log.action[4, 1] = 1.5
    path = write_d4rl(tmp_path / "log.hdf5", log)
    with pytest.raises(DataError, match="outside") as raised:
        convert(path, tmp_path / "store", options=ConvertOptions(action_bounds=(-1, 1)))
    assert "row 4" in raised.value.where
    convert(path, tmp_path / "clip", options=ConvertOptions(action_bounds=(-1, 1), out_of_bounds="clip"))
    assert TrajectoryStore.open(tmp_path / "clip").episode(1).action[2, 1] == 1.0
    report = convert(path, tmp_path / "keep", options=ConvertOptions(action_bounds=(-1, 1), out_of_bounds="keep"))
    assert TrajectoryStore.open(tmp_path / "keep").episode(1).action[2, 1] == 1.5
    assert any("row 4" in warning for warning in report.warnings)


def test_a_minari_data_file_is_recognized(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        file.create_group("episode_0")
    with pytest.raises(SourceError, match="Minari"):
        convert(tmp_path / "main_data.hdf5", tmp_path / "store")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="no such file"):
        convert(tmp_path / "nothing.hdf5", tmp_path / "store")
