"""Recorded environments: what a dataset holds of them is what was shown, done and earned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offrl.collection.record import RecordedEnvironment
from offrl.data.store import StoreWriter, TrajectoryStore
from offrl.data.validate import validate
from offrl.errors import DatasetNotFoundError, EnvironmentFailedError, RequestError
from tests.envs.any_space import environment_of
from tests.envs.counting import NESTED
from tests.envs.faulty import FAULT_STEP, UNSAFE
from tests.envs.menus import MENU


def recorded(name: str, path: Path, **options: Any) -> RecordedEnvironment:
    return RecordedEnvironment(gym.make(name), path, environment=name, **options)


def test_every_step_is_stored_as_it_was_shown(tmp_path: Path) -> None:
    shown, taken, earned = [], [], []
    with recorded("Pendulum-v1", tmp_path / "demos", source="a test") as env:
        observation, _ = env.reset(seed=3)
        shown.append(observation)
        action = np.zeros(1, np.float32)
        for step in range(200):
            # The same array again and again, as a controller may do.
            action[:] = np.sin(step)
            taken.append(action.copy())
            observation, reward, terminated, truncated, _ = env.step(action)
            shown.append(observation)
            earned.append(reward)
        assert (terminated, truncated, env.recorded) == (False, True, 1)
        assert env.dataset().num_episodes == 1
    store = TrajectoryStore.open(tmp_path / "demos")
    assert validate(store) == []
    episode = store.episode(0)
    np.testing.assert_array_equal(episode.observation, np.array(shown, np.float32))
    np.testing.assert_array_equal(episode.action, np.array(taken))
    np.testing.assert_allclose(episode.reward, earned, rtol=1e-6)
    assert np.flatnonzero(episode.truncated).tolist() == [199]
    assert not episode.terminated.any()
    assert (episode.seed, episode.source, store.metadata.environment) == (3, "a test", "Pendulum-v1")
    assert store.metadata.provenance["made_by"].endswith("record")


def test_a_dataset_is_there_with_its_first_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """Stands for a process that ends here."""

    def dying(*_: Any) -> None:
        raise Killed

    env = recorded("CartPole-v1", tmp_path / "demos")
    env.reset(seed=0)
    env.step(0)
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "commit", dying)
        with pytest.raises(Killed):
            env.reset()
    assert list(tmp_path.iterdir()) == []
    with recorded("CartPole-v1", tmp_path / "demos") as env:
        env.reset(seed=0)
        env.step(0)
        env.reset()
        assert TrajectoryStore.open(tmp_path / "demos").num_episodes == 1
        env.step(0)
    store = TrajectoryStore.open(tmp_path / "demos")
    assert (store.num_episodes, store.metadata.name) == (2, "demos")


def test_a_running_episode_is_cut_as_truncated_by_closing_and_by_a_reset(tmp_path: Path) -> None:
    with recorded("CartPole-v1", tmp_path / "demos") as env:
        env.reset(seed=0)
        env.step(0)
        env.step(1)
        env.reset()
        env.reset()
        env.step(1)
    store = TrajectoryStore.open(tmp_path / "demos")
    assert store.episodes.length.tolist() == [2, 1]
    assert [store.episode(i).truncated.tolist() for i in range(2)] == [[False, True], [True]]
    assert store.episodes.seed.tolist() == [0, -1]


def test_an_error_within_the_block_keeps_what_was_done(tmp_path: Path) -> None:
    def interrupted() -> None:
        with recorded("CartPole-v1", tmp_path / "demos") as env:
            env.reset(seed=0)
            env.step(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert TrajectoryStore.open(tmp_path / "demos").episodes.length.tolist() == [1]


def test_without_a_step_there_is_no_dataset(tmp_path: Path) -> None:
    with recorded("CartPole-v1", tmp_path / "demos") as env:
        with pytest.raises(DatasetNotFoundError):
            env.dataset()
        with pytest.raises(RequestError, match="reset"):
            env.step(0)
        env.reset()
    assert not (tmp_path / "demos").exists()


def test_nested_observations_are_flat_columns(tmp_path: Path) -> None:
    with recorded(NESTED, tmp_path / "demos") as env:
        env.reset(seed=6)
        for _ in range(4):
            env.step(np.array([0.5, 3.0], np.float32))
    episode = TrajectoryStore.open(tmp_path / "demos").episode(0)
    assert episode.observation["observation"].dtype == np.float32
    assert episode.observation["pixels"][:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode.observation["step"].tolist() == [0, 1, 2, 3, 4]
    assert episode.reward.tolist() == [3.0, 4.0, 5.0, 6.0]


def test_action_masks_are_stored(tmp_path: Path) -> None:
    masks = []
    with recorded(MENU, tmp_path / "demos") as env:
        _, info = env.reset(seed=0)
        masks.append(info["action_mask"])
        for _ in range(6):
            _, _, _, _, info = env.step(2 + int(np.argmax(masks[-1])))
            masks.append(info["action_mask"])
    np.testing.assert_array_equal(TrajectoryStore.open(tmp_path / "demos").episode(0).extras["action_mask"], masks)


def test_a_dataset_is_gone_on_with_where_that_is_asked_for(tmp_path: Path) -> None:
    for seed in range(2):
        with recorded("CartPole-v1", tmp_path / "demos", append=True) as env:
            env.reset(seed=seed)
            env.step(0)
    assert TrajectoryStore.open(tmp_path / "demos").episodes.seed.tolist() == [0, 1]
    with pytest.raises(RequestError, match="destination exists"):
        recorded("CartPole-v1", tmp_path / "demos")


def test_what_an_environment_gets_wrong_is_not_recorded(tmp_path: Path) -> None:
    with recorded(UNSAFE, tmp_path / "demos") as env:
        env.reset(seed=0)
        for _ in range(FAULT_STEP - 1):
            env.step(0)
        with pytest.raises(EnvironmentFailedError, match="nan"):
            env.step(0)
    store = TrajectoryStore.open(tmp_path / "demos")
    assert store.episodes.length.tolist() == [FAULT_STEP - 1]
    assert validate(store) == []


@pytest.mark.parametrize(("observation", "action"), [("text", "box"), ("box", "sequence"), ("graph", "discrete")])
def test_what_cannot_be_stored_is_told_before_anything_is_done(observation: str, action: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="can't be stored"):
        recorded(environment_of(observation, action), tmp_path / "demos")
    assert not (tmp_path / "demos").exists()
