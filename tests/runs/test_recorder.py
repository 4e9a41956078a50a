"""The record of online steps: what it holds, that it trains other runs, and what kills leave of it."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from offrl.config.recipe import Recipe
from offrl.data.store import TrajectoryStore
from offrl.envs.collector import COLLECTION_STREAM, Collector
from offrl.errors import StoreError
from offrl.replay.ring import OnlineRing
from offrl.replay.row_layout import RowLayout
from offrl.runs.recorder import FIRST_ROWS, EpisodeRecorder
from offrl.runs.run import Run
from offrl.training.run_training import resume, train
from offrl.types import Spec
from tests.envs.counting import ACTIONS, COUNTING, NESTED, PARTS, PLACES, Counting, constant_policy
from tests.training.runs import assert_same_tensors, bc_recipe, last_tensors, td3_recipe

SEEDS, COPIES = [3, 8], 2
CONSTANTS = [[0.0, 0.0], [1.0, -1.0]]


def recording_collector(path: Path, name: str = COUNTING, space: gym.Space[Any] = PLACES) -> Collector:
    policy = constant_policy(CONSTANTS, space=space)
    recorder = EpisodeRecorder(path, Spec(space, ACTIONS), name, SEEDS, COPIES, {})
    ring = OnlineRing(RowLayout.of(policy.agent.spec), len(SEEDS), COPIES, 400)
    return Collector(name, policy, ring, SEEDS, COPIES, recorder=recorder)


def advance(collector: Collector, steps: int) -> None:
    for _ in range(steps):
        collector.step(collector.actor.act(collector.observed))


def recorder_of(collector: Collector) -> EpisodeRecorder:
    assert isinstance(collector.recorder, EpisodeRecorder)
    return collector.recorder


Told = tuple[str, NDArray[Any], float, bool, bool]
"""Source, observations, return and last flags of an episode."""


def by_hand(restarts: list[int], steps: int) -> list[Told]:
    """All episodes of the same environments stepped one by one."""
    episodes: list[Told] = []
    for position, seed in enumerate(SEEDS):
        resets = {r: np.random.SeedSequence([COLLECTION_STREAM, seed, r]).generate_state(COPIES) for r in restarts}
        low, high = ACTIONS.low, ACTIONS.high
        action = low + (np.array(CONSTANTS[position], np.float32) + 1) / 2 * (high - low)
        for copy in range(COPIES):
            single, source = Counting(), f"online, seed {seed}, environment {copy}"
            for restart in restarts:
                shown, total = [single.reset(seed=int(resets[restart][copy]))[0]], 0.0
                for step in range(steps):
                    following, reward, terminated, truncated, _ = single.step(action)
                    shown, total = [*shown, following], total + reward
                    cut = step == steps - 1
                    if terminated or truncated or cut:
                        flags = terminated, truncated or (cut and not terminated)
                        episodes.append((source, np.array(shown), total, *flags))
                        shown, total = [single.reset()[0] if terminated or truncated else following], 0.0
    return episodes


def test_every_episode_is_recorded_as_the_environment_shows_it(tmp_path: Path) -> None:
    collector, steps = recording_collector(tmp_path / "replay"), FIRST_ROWS + 60
    for restart in (0, 1):
        collector.restart(restart)
        advance(collector, steps)
    recorder_of(collector).commit()
    recorder_of(collector).close()
    store = TrajectoryStore.open(tmp_path / "replay")

    def key(episode: Told) -> tuple[str, list[float]]:
        return episode[0], episode[1][0].tolist()

    found: list[Told] = []
    for index in range(store.num_episodes):
        episode = store.episode(index)
        flags = bool(episode.terminated[-1]), bool(episode.truncated[-1])
        found.append((str(store.episodes.sources[index]), episode.observation, float(episode.reward.sum()), *flags))
    expected = by_hand([0, 1], steps)
    assert len(found) == len(expected)
    for mine, other in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        assert (mine[0], mine[3:]) == (other[0], other[3:])
        np.testing.assert_array_equal(mine[1], other[1])
        assert mine[2] == pytest.approx(other[2])
    np.testing.assert_array_equal(store.episode(0).action[0], ACTIONS.low + (ACTIONS.high - ACTIONS.low) / 2)


def test_nested_observations_and_bytes_are_recorded(tmp_path: Path) -> None:
    collector = recording_collector(tmp_path / "replay", NESTED, PARTS)
    collector.restart(0)
    advance(collector, 30)
    recorder_of(collector).commit()
    recorder_of(collector).close()
    store = TrajectoryStore.open(tmp_path / "replay")
    for index in range(store.num_episodes):
        shown = store.episode(index).observation
        assert shown["observation"].dtype == np.float32
        np.testing.assert_array_equal(shown["pixels"][:, 0, 0], shown["step"])
        np.testing.assert_array_equal(shown["step"], np.arange(len(shown["step"])))


def test_what_a_checkpoint_does_not_count_is_taken_out(tmp_path: Path) -> None:
    path, collectors = tmp_path / "replay", []
    for restarts in ([0, 1], [0]):
        collector = recording_collector(path)
        for restart in restarts:
            collector.restart(restart)
            advance(collector, 20)
            recorder_of(collector).commit()
        collectors.append(recorder_of(collector))
        collectors[-1].close()
        if len(collectors) == 1:
            both = TrajectoryStore.open(path)
    one = TrajectoryStore.open(path)
    assert 0 < one.num_episodes < both.num_episodes
    assert len(list(path.glob("shards/*.arrow"))) == len(one.metadata.shards) == 1
    rewards = one.statistics["reward"]
    np.testing.assert_allclose(rewards.mean, both.read("reward", 0, one.num_rows).sum() / one.num_steps)
    assert rewards.count == one.num_steps

    again = recording_collector(path)
    recorder_of(again).restore(collectors[1].named_tensors())
    again.restart(1)
    advance(again, 20)
    recorder_of(again).commit()
    recorder_of(again).close()
    more = TrajectoryStore.open(path)
    assert more.metadata.shards[0] == one.metadata.shards[0]
    assert more.num_steps == both.num_steps


def test_a_store_that_lost_episodes_is_an_error(tmp_path: Path) -> None:
    collector = recording_collector(tmp_path / "replay")
    recorder_of(collector).kept = 5
    with pytest.raises(StoreError, match="first 5 of the 0 episodes"):
        collector.restart(0)


def recording_recipe(record: bool = True, **changes: Any) -> Recipe:
    """TD3 on Pendulum: 120 steps of two environments, a checkpoint every 40."""
    online = {"warmup_steps": 20, "capacity": 100, "environments": 2, "record": record}
    evaluation = {"every": 0, "final_episodes": 1}
    values = {"steps": 120, "checkpoint_every": 40, "online": online, "evaluation": evaluation}
    return td3_recipe(**(values | changes))


def test_a_run_s_record_is_a_dataset(tmp_path: Path) -> None:
    run = train(recording_recipe(), tmp_path / "run")
    store = TrajectoryStore.open(run.path / "replay")
    # 2 seeds of 120 steps each, cut at every checkpoint: after 20 steps of each environment.
    assert store.num_steps == 240
    assert store.metadata.environment == "Pendulum-v1"
    assert np.abs(store.read("action", 0, store.num_rows)).max() > 1.0
    assert store.read("reward", 0, store.num_rows).min() < -3.0
    assert set(store.episodes.length) == {20}
    assert {str(source)[:14] for source in store.episodes.sources} == {"online, seed 0", "online, seed 1"}

    cloned = train(bc_recipe(run.path / "replay", steps=40), tmp_path / "cloned")
    assert cloned.has_checkpoint("last")


def test_recording_changes_nothing_else(tmp_path: Path) -> None:
    recorded = last_tensors(train(recording_recipe(), tmp_path / "recorded"))
    plain = last_tensors(train(recording_recipe(record=False), tmp_path / "plain"))
    assert recorded.keys() - plain.keys() == {"recording/episodes"}
    assert all(recorded[name].equal(tensor) for name, tensor in plain.items())


def test_training_on_goes_on_with_the_record(tmp_path: Path) -> None:
    through = train(recording_recipe(), tmp_path / "through")
    train(recording_recipe(steps=40), tmp_path / "halves")
    halves = resume(tmp_path / "halves", steps=120)
    assert_same_tensors(through, halves)
    assert fingerprint(through.path) == fingerprint(halves.path)


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_kills_neither_lose_nor_repeat_an_episode(kills: int, tmp_path: Path) -> None:
    recipe = recording_recipe(steps=100 * kills, seeds=[0])
    started = time.perf_counter()
    through = train(recipe, tmp_path / "through")
    duration = time.perf_counter() - started

    path, rng = tmp_path / "killed", np.random.default_rng(1)
    for _ in range(kills):
        action = resume if (path / "recipe.toml").exists() else lambda p: train(recipe, p)
        _killed_after(rng.uniform(0.05, 2.0 * duration / kills), action, path)
    killed = resume(path)
    assert_same_tensors(through, killed)
    assert fingerprint(through.path) == fingerprint(killed.path)


def test_a_kill_between_the_record_and_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through = train(recording_recipe(), tmp_path / "through")
    saved = Run.save_checkpoint

    def fail(self: Run, kind: str, step: int, *arguments: Any) -> Path:
        if kind == "last" and step == 80:
            raise KeyboardInterrupt
        return saved(self, kind, step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_checkpoint", fail)
        with pytest.raises(KeyboardInterrupt):
            train(recording_recipe(), tmp_path / "killed")
    assert TrajectoryStore.open(tmp_path / "killed" / "replay").num_steps == 160
    assert int(last_tensors(Run.open(tmp_path / "killed"))["recording/episodes"]) == 4
    resume(tmp_path / "killed")
    assert fingerprint(through.path) == fingerprint(tmp_path / "killed")


def fingerprint(run: Path) -> str:
    return TrajectoryStore.open(run / "replay").fingerprint


def _killed_after(seconds: float, action: Callable[[Path], Any], path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=action, args=(path,))
    process.start()
    process.join(seconds)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, 9)
    process.join()
