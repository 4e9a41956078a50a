"""Stacked observations against Gymnasium's own wrapper, and against rows picked one by one."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.replay.frame_stack import StackedFrames
from offrl.replay.sampler import ReplaySampler
from offrl.types import Spec
from tests.data.stores import make_store
from tests.envs.counting import ACTIONS, NESTED, PARTS, PLACES, Counting


def record(path: Path, episodes: int) -> TrajectoryStore:
    """Episodes of the counting environment."""
    environment = Counting()
    with StoreWriter(path, Spec(PLACES, ACTIONS)) as writer:
        for seed in range(episodes):
            shown, rewards, ended = [environment.reset(seed=seed)[0]], [], (False, False)
            while not any(ended):
                observation, reward, *ended, _ = environment.step([0.0, 0.0])
                shown.append(observation)
                rewards.append(reward)
            length = len(rewards)
            flags = np.zeros((2, length + 1), np.bool_)
            flags[:, length - 1] = ended
            columns = {
                "observation": np.stack(shown),
                "action": np.zeros((length + 1, 2), np.float32),
                "reward": np.array([*rewards, 0.0]),
                "terminated": flags[0],
                "truncated": flags[1],
            }
            writer.append(EpisodeBlock(columns, np.array([length])))
    return TrajectoryStore.open(path)


@pytest.mark.parametrize("frames", [2, 4])
def test_stacks_are_those_of_gymnasium(frames: int, tmp_path: Path) -> None:
    stacked = StackedFrames(record(tmp_path / "s", 8), frames)
    environment = gym.wrappers.FrameStackObservation(Counting(), frames)
    for number in range(8):
        shown = [environment.reset(seed=number)[0]]
        ended = False
        while not ended:
            observation, _, terminated, truncated, _ = environment.step([0.0, 0.0])
            shown.append(observation)
            ended = terminated or truncated
        np.testing.assert_array_equal(stacked.episode(number).observation, np.stack(shown))
    assert stacked.spec.observation_space == environment.observation_space


def test_the_spec_of_nested_observations_is_gymnasiums() -> None:
    wrapped = gym.wrappers.FrameStackObservation(gym.make(NESTED), 3)
    assert Spec(PARTS, ACTIONS).stacked(3).observation_space == wrapped.observation_space


def test_reading_and_gathering_agree(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [5, 1, 3, 7], shard_bytes=200)
    stacked = StackedFrames(store, 3)
    whole = stacked.read("observation", 0, stacked.num_rows)
    rows = np.array([19, 0, 6, 5, 7, 7, 12, 1])
    gathered = stacked.gather_columns(["reward", "observation"], rows)
    np.testing.assert_array_equal(gathered["observation"], whole[rows])
    np.testing.assert_array_equal(gathered["reward"], store.gather("reward", rows))
    np.testing.assert_array_equal(stacked.read("observation", 4, 9), whole[4:9])
    np.testing.assert_array_equal(whole[:, -1], store.read("observation", 0, store.num_rows))
    assert stacked.read("observation", 4, 4).shape == (0, 3, 2)
    view = stacked.select(np.array([3, 0]))
    np.testing.assert_array_equal(view.read("observation", 0, 8), whole[12:20])
    assert stacked.fingerprint != store.fingerprint


def test_batches_hold_stacks(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [5, 4])
    stacked = StackedFrames(store, 2)
    for budget in (2**20, 0):
        batch = ReplaySampler([stacked], batch_size=64, seeds=[0], memory_budget=budget).sample(1)
        observation, following = batch.observation, batch.next_observation
        assert observation.shape == (1, 1, 64, 2, 2)  # type: ignore[union-attr]
        # The older half of what follows is the newer half of what was seen.
        assert (following[..., 0, :] == observation[..., 1, :]).all()  # type: ignore[index]


def test_statistics_are_those_of_the_stacks(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [5, 4])
    stacked = StackedFrames(store, 2)
    transitions = np.r_[0:5, 6:10]
    expected = stacked.gather("observation", transitions).astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(stacked.statistics["observation"].mean, expected, atol=1e-12)
