"""Deployments that a bandit spends: whom it tries, what it regrets, and where episodes start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offrl.envs import evaluator
from offrl.envs.starts import Purpose, Starts
from offrl.off_policy.trials import Trial, Trials, bandit, try_out
from offrl.runs.load import policy_of_seed
from tests.off_policy.runs import make_logs, policies


def test_each_is_tried_once_in_order_then_the_highest_bound() -> None:
    trials = bandit([2, 0, 1], 8, lambda policy, time: [0.0, 1.0, 0.5][policy])
    assert [trial.policy for trial in trials[:3]] == [2, 0, 1]
    # Of one trial each the highest mean has the highest bound; then √(ln 4) = 1.18 stands against √(2 ln 4) = 1.67.
    assert trials[3].policy == 1
    assert 1.0 + np.sqrt(np.log(4)) > 0.5 + np.sqrt(2 * np.log(4))
    assert trials[4].policy == 1
    assert 1.0 + np.sqrt(2 * np.log(5) / 3) < 0.5 + np.sqrt(2 * np.log(5))
    assert trials[5].policy == 2
    assert [trial.regret for trial in trials[:4]] == [0.0, 0.5, 1.5, 1.5]


def test_too_few_episodes_go_to_the_best_guesses() -> None:
    assert [trial.policy for trial in bandit([3, 1, 2, 0], 2, lambda policy, time: 1.0)] == [3, 1]


def test_most_episodes_go_to_the_best() -> None:
    generator = np.random.default_rng(0)
    means = [0.0, 1.0, 5.0, 1.0]
    trials = bandit(range(4), 200, lambda policy, time: means[policy] + generator.standard_normal())
    counts = np.bincount([trial.policy for trial in trials])
    assert counts.argmax() == 2
    assert counts[2] > 100
    # Random choice would lose 650.
    assert trials[-1].regret < 325


def test_the_best_is_that_of_the_highest_mean() -> None:
    trials = Trials("CartPole-v1", (2,), (Trial(0, 1.0, 0.0), Trial(1, 3.0, 2.0), Trial(0, 6.0, 0.0)))
    assert trials.returns(0) == [1.0, 6.0]
    assert trials.best == 0
    assert trials.to_dict()["episodes"][1] == {"policy": 1, "earned": 3.0, "regret": 2.0}


def test_every_episode_has_a_start_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = make_logs(tmp_path)
    loaded = policies(logs, "ppo").policy
    two = [policy_of_seed(loaded, position, position) for position in range(2)]
    asked, original = [], evaluator._returns

    def noted(acts: evaluator.Acts, environments: evaluator.Environments, quota: int, resets: list[int]) -> object:
        asked.append((quota, *resets))
        return original(acts, environments, quota, resets)

    monkeypatch.setattr(evaluator, "_returns", noted)
    found = try_out(two, [1, 0], "CartPole-v1", 6, seed=3)
    assert len(found.episodes) == 6
    assert found.left_out == ()
    assert all(trial.earned >= 8.0 for trial in found.episodes)
    assert {quota for quota, *_ in asked} == {1}
    starts = [reset for _, reset in asked]
    assert len(set(starts)) == 6
    others = {
        reset for purpose in Purpose if purpose != Purpose.TRIAL for reset in Starts(purpose, (0, 1)).reset_seeds(9)
    }
    assert not others & set(starts)
    assert try_out(two, [1, 0], "CartPole-v1", 6, seed=3) == found
    assert try_out(two, [1], "CartPole-v1", 2, seed=3).left_out == (0,)
