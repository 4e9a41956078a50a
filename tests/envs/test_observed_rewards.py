"""Policies that go by the rewards that they earn are told of them by whoever steps environments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.collection.collect import collect_random
from offrl.data.store import TrajectoryStore
from offrl.envs.collector import Collector
from offrl.envs.episodes import rollouts, single_episode
from offrl.envs.evaluator import Greedy
from offrl.envs.make import make_environments
from offrl.envs.policy import Policy
from offrl.errors import RequestError
from offrl.feeds.dagger import LabeledSteps, Teacher
from offrl.off_policy.agent_policies import AgentPolicies
from offrl.replay.normalization import RewardScaler
from offrl.replay.ring import OnlineRing
from offrl.replay.row_layout import RowLayout
from offrl.runs.acting import ActingPolicy
from offrl.types import Observation
from tests.envs.counting import SEEDED, Constant, constant_policy

SCALE = 1e-4
"""Small, for actions to keep within their bounds."""


@dataclass
class Counts(Constant):
    """An agent whose first component says what the episode has earned so far; its carry is that."""

    acting_noise_shape: tuple[int, ...] = (2,)

    def initial_carry(self, state: Tensor, count: int) -> Any:
        return {"earned": torch.zeros(len(state), count)}

    def act(
        self,
        state: Tensor,
        observation: Observation,
        carry: Any,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> Any:
        earned = carry["earned"] + state[:, :1]
        return torch.stack([earned, torch.zeros_like(earned)], dim=-1), {"earned": carry["earned"] + 0.0}

    def observe_reward(self, carry: Any, reward: Tensor) -> Any:
        return {"earned": carry["earned"] + reward}


def counting_policy(seeds: int = 2) -> Policy:
    """Of two seeds: the second one's numbers are larger by 0.5."""
    policy = constant_policy([[0.5 * seed, 0.0] for seed in range(seeds)])
    return replace(policy, agent=Counts(policy.agent.spec), rewards=RewardScaler(SCALE))  # type: ignore[arg-type]


def told(action: NDArray[Any], seed: int) -> float:
    """What an action says was earned; the environment's first component spans ±2."""
    return float(action[0] / 2.0 - 0.5 * seed) / SCALE


def test_evaluating_tells_of_them_and_forgets_them_with_the_episode() -> None:
    copies = 2
    environments = make_environments(SEEDED, 2 * copies)
    earned, ends = np.zeros(2 * copies), 0
    for step in rollouts(Greedy(counting_policy(), copies), environments, 3, [4, 5, 6, 7]):
        for copy in range(2 * copies):
            assert told(step.action[copy], copy // copies) == pytest.approx(earned[copy], rel=1e-3, abs=1e-2)
        done = step.terminated | step.truncated
        ends += int(done.sum())
        earned = np.where(done, 0.0, earned + step.reward)
    environments.close()
    assert ends >= 12
    assert any(earned)


def test_a_single_episode_tells_of_them() -> None:
    environment = gym.make(SEEDED)
    taken: list[NDArray[Any]] = []
    step = environment.step
    environment.step = lambda action: (taken.append(action), step(action))[1]  # type: ignore[method-assign]
    rewards = list(single_episode(counting_policy(), 1, environment, 2))
    assert len(rewards) > 2
    so_far = np.cumsum([0.0, *rewards[:-1]])
    np.testing.assert_allclose([told(action, 1) for action in taken], so_far, rtol=1e-3, atol=1e-2)


def test_collecting_tells_of_them() -> None:
    policy = counting_policy()
    ring = OnlineRing(RowLayout.of(policy.agent.spec), 2, 1, 400)
    collector = Collector(SEEDED, policy, ring, [3, 5], 1, reward_scaler=RewardScaler(7.0))
    collector.restart(0)
    for _ in range(20):
        before = collector.running_return.copy()
        action = collector.act(torch.zeros(2, 1, 2))
        found = [told(raw, seed) for seed, raw in enumerate(policy.to_environment(action))]
        np.testing.assert_allclose(found, before, rtol=1e-3, atol=1e-2)
        collector.step(action)
    collector.close()


def test_an_expert_is_told_of_the_environment_s_own() -> None:
    teacher = Teacher(counting_policy(1))
    steps = LabeledSteps(OnlineRing(RowLayout.of(teacher.policy.agent.spec), 1, 2, 40), teacher, RewardScaler(7.0))
    shown = {"observation": np.zeros((2, 3), np.float32)}
    steps.begin(shown)
    done = np.array([False, True])
    for ended, wanted in ((~done & done, [0.0, 0.0]), (done, [2e-4, 3e-4]), (done, [4e-4, 0.0])):
        action = teacher.act(torch.zeros(1, 2, 3))
        assert action[0, :, 0].tolist() == pytest.approx(wanted)
        steps.append(
            action=np.zeros((2, 2), np.float32),
            reward=7.0 * np.array([2.0, 3.0]),
            terminated=ended,
            truncated=ended & ~ended,
            next_observation=shown,
            reset_observation=shown,
        )


def episodes(store: TrajectoryStore) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """First row and rewards of each."""
    for index in range(store.num_episodes):
        yield int(store.episodes.first_row[index]), store.episode(index).reward


def test_a_log_tells_of_them(tmp_path: Path) -> None:
    collect_random(SEEDED, episodes=6, destination=tmp_path / "log")
    store = TrajectoryStore.open(tmp_path / "log")
    for seed, chosen in enumerate(AgentPolicies(counting_policy(), ["a", "b"]).choices(store, draws=1, seed=0)):
        assert chosen.actions is not None
        for first, reward in episodes(store):
            found = [told(2.0 * action, seed) for action in chosen.actions[0, first : first + len(reward) + 1]]
            np.testing.assert_allclose(found, np.cumsum([0.0, *reward]), rtol=1e-3, atol=1e-2)


def test_programs_tell_of_them() -> None:
    policy = ActingPolicy(counting_policy(1), "counts")
    assert told(policy(np.zeros(3)), 0) == 0.0
    assert told(policy(np.zeros(3), reward=5.0), 0) == pytest.approx(5.0, abs=1e-2)
    assert told(policy(np.zeros(3), reward=2.0), 0) == pytest.approx(7.0, abs=1e-2)
    with pytest.raises(RequestError, match="wasn't told what its last action earned"):
        policy(np.zeros(3))
    policy.reset()
    # An episode begins: what the one before earned last is none of its business.
    assert told(policy(np.zeros(3), reward=9.0), 0) == 0.0
    policy.reset()
    many = np.zeros((2, 3))
    policy(many)
    policy(many, reward=[1.0, 2.0])
    policy.reset([True, False])
    assert [told(action, 0) for action in policy(many, reward=[4.0, 8.0])] == pytest.approx([0.0, 10.0], abs=1e-2)


def test_who_does_not_go_by_them_is_not_told() -> None:
    policy = constant_policy([[0.0, 0.0]])
    assert policy.observe_reward((), np.ones(3)) == ()
