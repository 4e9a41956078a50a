"""Collected stores hold what the policy saw and did."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.collection.collect import collect, collect_random
from offrl.data.store import TrajectoryStore
from offrl.data.validate import validate
from offrl.envs.policy import Actor
from offrl.errors import RequestError
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.run_training import train
from tests.training.runs import bc_recipe, make_demonstrations, td3_recipe


@pytest.fixture
def cloned(tmp_path: Path) -> Run:
    make_demonstrations(tmp_path / "demonstrations")
    recipe = bc_recipe(tmp_path / "demonstrations", agent={"hidden": [16], "policy": "squashed_gaussian"})
    return train(recipe, tmp_path / "run")


def test_replaying_the_stored_actions_gives_the_stored_episode(cloned: Run, tmp_path: Path) -> None:
    """Pendulum is deterministic: from the first stored state, stored actions lead through all the others."""
    report = collect(cloned, episodes=4, destination=tmp_path / "store", seed=1)

    store = TrajectoryStore.open(tmp_path / "store")
    assert store.num_episodes == report["episodes"] == 4
    assert store.num_steps == report["steps"] == 800
    assert report["mean_return"] == pytest.approx(store.episodes.return_.mean())
    env = gym.make("Pendulum-v1")
    for index in range(4):
        episode = store.episode(index)
        env.reset()
        cos, sin, speed = episode.observation[0].astype(np.float64)
        env.unwrapped.state = np.array([np.arctan2(sin, cos), speed])  # type: ignore[attr-defined]
        for t, action in enumerate(episode.action):
            observation, reward, *_ = env.step(action)
            # Float32 start states drift apart from the float64 ones they were, so compare step by step.
            np.testing.assert_allclose(observation, episode.observation[t + 1], atol=2e-2)
            assert float(reward) == pytest.approx(episode.reward[t], abs=2e-2)
            cos, sin, speed = episode.observation[t + 1].astype(np.float64)
            env.unwrapped.state = np.array([np.arctan2(sin, cos), speed])  # type: ignore[attr-defined]
        assert episode.truncated.tolist() == [False] * 199 + [True]
        assert not episode.terminated.any()


def test_greedy_actions_are_the_policys(cloned: Run, tmp_path: Path) -> None:
    collect(cloned, episodes=2, destination=tmp_path / "store")

    store = TrajectoryStore.open(tmp_path / "store")
    policy, _ = load_policy(cloned, "last")
    sources = [store.episodes.source(i) for i in range(2)]
    assert sources == ["policy of seed 0", "policy of seed 1"]
    for position in range(2):
        episode = store.episode(position)
        both = np.concatenate([episode.observation[:-1]] * 2)
        wanted = Actor(policy, 200).greedy(both).reshape(2, 200, 1)[position]
        np.testing.assert_allclose(episode.action, wanted, atol=1e-5)
    assert "behavior_log_prob" not in store.column_names


def test_sampled_actions_come_with_their_log_density(cloned: Run, tmp_path: Path) -> None:
    collect(cloned, episodes=2, destination=tmp_path / "store", stochastic=True)

    store = TrajectoryStore.open(tmp_path / "store")
    policy, _ = load_policy(cloned, "last")
    episode = store.episode(1)
    observed = policy.observe(np.concatenate([episode.observation[:-1]] * 2))
    unit = torch.from_numpy(episode.action / 2.0).expand(2, -1, -1)
    # Densities are per unit of the environment's actions, which span [-2, 2].
    wanted = policy.log_prob(observed, unit, ())[1].numpy() - np.log(2.0)
    np.testing.assert_allclose(episode.extras["behavior_log_prob"], wanted, rtol=1e-3, atol=1e-3)
    assert len(np.unique(episode.action)) > 100


def test_the_same_seed_collects_the_same_data(cloned: Run, tmp_path: Path) -> None:
    names = ("one", "same", "other")
    for name, seed in zip(names, (5, 5, 6), strict=True):
        collect(cloned, episodes=2, destination=tmp_path / name, seed=seed, stochastic=True)

    one, same, other = (TrajectoryStore.open(tmp_path / name).fingerprint for name in names)
    assert one == same != other


def test_reference_scores_are_measured(cloned: Run, tmp_path: Path) -> None:
    report = collect(cloned, episodes=4, destination=tmp_path / "store", reference_scores=True)

    scores = TrajectoryStore.open(tmp_path / "store").metadata.reference_scores
    assert scores == report["reference_scores"]
    assert scores["expert"] == pytest.approx(report["mean_return"])
    assert -2_000 < scores["random"] < -500


def test_a_deterministic_policy_logs_no_density(tmp_path: Path) -> None:
    run = train(td3_recipe(steps=80, seeds=[0]), tmp_path / "run")
    collect(run, episodes=1, destination=tmp_path / "store", stochastic=True)
    assert "behavior_log_prob" not in TrajectoryStore.open(tmp_path / "store").column_names


def test_episodes_must_divide_among_the_seeds(cloned: Run, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="3 episodes can't be shared evenly among the run's 2 seeds"):
        collect(cloned, episodes=3, destination=tmp_path / "store")


def test_random_actions_are_uniform_and_come_with_their_log_density(tmp_path: Path) -> None:
    report = collect_random("Pendulum-v1", episodes=20, destination=tmp_path / "store", seed=3)

    store = TrajectoryStore.open(tmp_path / "store")
    assert (store.num_episodes, store.num_steps) == (report["episodes"], report["steps"]) == (20, 4_000)
    actions = np.concatenate([store.episode(i).action for i in range(20)]).ravel()
    # Torques span [-2, 2]; a quarter's count deviates by √(4000 · ¼ · ¾), and four of that are allowed.
    assert np.histogram(actions, bins=4, range=(-2, 2))[0] == pytest.approx(1_000, abs=4 * np.sqrt(750))
    assert store.episode(7).extras["behavior_log_prob"] == pytest.approx(np.log(1 / 4))
    assert store.episodes.source(0) == "random actions"
    assert [finding for finding in validate(store) if finding.severity == "error"] == []


def test_random_discrete_actions_are_equally_probable(tmp_path: Path) -> None:
    collect_random("CartPole-v1", episodes=100, destination=tmp_path / "store")

    store = TrajectoryStore.open(tmp_path / "store")
    actions = np.concatenate([store.episode(i).action for i in range(100)])
    assert set(actions.tolist()) == {0, 1}
    assert actions.mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / len(actions)))
    assert store.episode(0).extras["behavior_log_prob"] == pytest.approx(np.log(1 / 2))
    assert 15 < store.episodes.return_.mean() < 30


def test_the_same_seed_gives_the_same_random_data(tmp_path: Path) -> None:
    for name, seed in zip(("one", "same", "other"), (5, 5, 6), strict=True):
        collect_random("CartPole-v1", episodes=3, destination=tmp_path / name, seed=seed)

    one, same, other = (TrajectoryStore.open(tmp_path / name).fingerprint for name in ("one", "same", "other"))
    assert one == same != other


def test_many_short_episodes_are_committed_together(tmp_path: Path) -> None:
    collect_random("CartPole-v1", episodes=200, destination=tmp_path / "store")
    assert len(TrajectoryStore.open(tmp_path / "store").metadata.shards) == 1


def test_what_is_collected_is_written_as_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offrl.collection.collect.SHARD_BYTES", 2**12)
    collect_random("CartPole-v1", episodes=40, destination=tmp_path / "store")
    assert len(TrajectoryStore.open(tmp_path / "store").metadata.shards) > 3
