"""Data whose rewards tell nothing, for what learns by rewards and for what doesn't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offrl import plugins
from offrl.config.recipe import recipe_from_dict
from offrl.data.store import EpisodeBlock, StoreWriter
from offrl.feeds import open_problem
from offrl.testing.comparing import values_of
from offrl.testing.trial import Trial
from offrl.training.reward_doubts import reward_doubts
from offrl.training.run_training import train
from offrl.types import Batch, Spec
from tests.runs.test_listener import Noting
from tests.testing.test_check_agent import CASES

EPISODES, LENGTH = 3, 12
FIRST_CASES = {name: case for case in reversed(CASES.values()) for name in [case[0]]}


def make(path: Path, rewards: Any, *, terminates: bool, discrete: bool = False) -> Path:
    """Episodes of one length with those rewards; they are cut off, or all end but the first."""
    acted: gym.Space[Any] = gym.spaces.Discrete(2) if discrete else gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    rows = EPISODES * (LENGTH + 1)
    last = np.arange(1, EPISODES + 1) * (LENGTH + 1) - 2
    ends = np.zeros((2, rows), np.bool_)
    ends[0, last] = True
    if terminates:
        ends[:, last[1:]] = ends[::-1, last[1:]]
    reward = np.broadcast_to(np.asarray(rewards, np.float64), rows).copy()
    reward[last + 1] = 0.0
    columns: dict[str, Any] = {
        "observation": np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32),
        "action": np.zeros(rows, np.int64) if discrete else np.zeros((rows, 1), np.float32),
        "reward": reward,
        "truncated": ends[0],
        "terminated": ends[1],
    }
    with StoreWriter(path, Spec(gym.spaces.Box(-9.0, 9.0, (2,), np.float32), acted)) as writer:
        writer.append(EpisodeBlock(columns, np.full(EPISODES, LENGTH)))
    return path


def doubts(algo: str, path: Path) -> list[str]:
    return reward_doubts(open_problem(recipe_from_dict({"algo": algo, "dataset": str(path)})))


MIXED = np.arange(EPISODES * (LENGTH + 1)) % 2


@pytest.mark.parametrize(
    ("rewards", "terminates", "said"),
    [
        (0.0, False, " is 0: nothing tells td3"),
        (0.0, True, " is 0: nothing tells td3"),
        (1.0, False, " is 1, and no episode terminates: nothing tells td3"),
        (-1.0, True, ""),
        (MIXED, False, ""),
    ],
    ids=["none", "none, though episodes end", "always one", "each step costs until the end", "some"],
)
def test_rewards_that_tell_nothing_are_told(rewards: Any, terminates: bool, said: str, tmp_path: Path) -> None:
    found = doubts("td3", make(tmp_path / "data", rewards, terminates=terminates))
    assert len(found) == bool(said)
    if said:
        assert said in found[0]
        assert "Clone them (bc, bc-rnn, bc-transformer)" in found[0]


def test_episodes_that_end_and_are_not_learned_from_do_not_count(tmp_path: Path) -> None:
    """The first one is cut off; the others terminate."""
    path = str(make(tmp_path / "data", 1.0, terminates=True))
    assert doubts("td3", Path(path)) == []
    recipe = recipe_from_dict({"algo": "td3", "dataset": path, "data": {"episodes": 1}})
    assert len(reward_doubts(open_problem(recipe))) == 1


def test_training_tells_before_it_begins(tmp_path: Path) -> None:
    path = make(tmp_path / "data", 0.0, terminates=False)
    values = {"dataset": str(path), "steps": 2, "batch_size": 4, "agent": {"hidden": [4]}}
    for algo, count in (("iql", 1), ("bc", 0)):
        listener = Noting()
        train(recipe_from_dict({**values, "algo": algo}), tmp_path / algo, listener)
        assert [kind for kind, _ in listener.heard].count("warned") == count
        assert listener.heard[1][0] == ("warned" if count else "progress")


@pytest.mark.parametrize("algo", [name for name in plugins.algorithms.own if plugins.algorithms[name].reads_rewards])
def test_what_is_said_to_read_rewards_learns_otherwise_from_others(algo: str) -> None:
    """That others don't is among the shared checks."""
    _, observed, acted, options = FIRST_CASES[algo]
    trial = Trial.of(plugins.algorithms[algo], Spec(observed, acted), options, (0, 1), 2, None)
    changed = [[otherwise(batch) for batch in inputs] for inputs in trial.inputs]
    one, other = (values_of(each.trained(each.agent())) for each in (trial, replace(trial, inputs=changed)))
    assert any(not (one[name] == other[name]).all() for name in one)


def otherwise(batch: Batch) -> Batch:
    """With rewards, and what is made of them, twice as large and more."""
    returns = None if batch.return_to_go is None else 2.0 * batch.return_to_go + 1.0
    return replace(batch, reward=2.0 * batch.reward + 1.0, return_to_go=returns)


def test_discrete_actions_without_rewards(tmp_path: Path) -> None:
    assert "nothing tells dqn" in doubts("dqn", make(tmp_path / "data", 0.0, terminates=False, discrete=True))[0]
