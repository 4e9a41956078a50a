"""Learned rewards of runs, and datasets that are written again with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from offrl.collection import relabel as rewards
from offrl.collection.collect import collect_optimal
from offrl.collection.relabel import LearnedReward, relabel
from offrl.config.recipe import recipe_from_dict
from offrl.data.block import EpisodeBlock
from offrl.data.store import StoreWriter, TrajectoryStore
from offrl.data.validate import validate
from offrl.envs.policy import Policy
from offrl.errors import RequestError, SpaceMismatchError
from offrl.feeds.table import TableReward
from offrl.replay.normalization import ActionMap, ObservationNormalizer
from offrl.runs.run import Run
from offrl.training.run_training import train
from offrl.types import Batch, Spec
from tests.data.stores import SPEC, make_block
from tests.envs.grids import SLIPPERY
from tests.feeds.test_table import irl_recipe
from tests.training.runs import bc_recipe, make_demonstrations


class HandMade:
    """Rewards (s₀ + 10 s'₁ + 100 a) · (1 + seed) + 1000 · terminated, of what it is shown."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.largest = 0

    def reward(self, state: Tensor, batch: Batch) -> Tensor:
        self.largest = max(self.largest, batch.reward.shape[1])
        here = batch.observation["place"] if isinstance(batch.observation, dict) else batch.observation
        there = batch.next_observation["place"] if isinstance(batch.next_observation, dict) else batch.next_observation
        value = here.flatten(2)[..., 0] + 10.0 * there.flatten(2)[..., -1]
        value = value + 100.0 * batch.action.reshape(*batch.action.shape[:2], -1)[..., 0]
        return value * (1.0 + state[:, None]) + 1000.0 * batch.terminated


def hand_made(spec: Spec, *, normalizer: ObservationNormalizer | None = None, frames: int = 1, **options: Any) -> Any:
    agent: Any = HandMade(spec)
    action_map = ActionMap.from_space(spec.action_space) if isinstance(spec.action_space, gym.spaces.Box) else None
    policy = Policy(agent, torch.arange(2.0), 2, torch.device("cpu"), normalizer, action_map, frames)
    return LearnedReward(policy, {"run": "by hand", "dataset": None}, **options)


def write(path: Path, block: EpisodeBlock, spec: Spec = SPEC, **options: Any) -> TrajectoryStore:
    with StoreWriter(path, spec, **options) as writer:
        writer.append(block)
    return TrajectoryStore.open(path)


@pytest.mark.parametrize(("position", "factor"), [(None, 1.5), (0, 1.0), (1, 2.0)])
def test_rewards_are_learned_ones_and_all_else_is_unharmed(tmp_path: Path, position: int | None, factor: float) -> None:
    block = make_block([3, 1, 4])
    rng = np.random.default_rng(3)
    block.columns["info.place"] = rng.random((11, 2))
    block.columns["behavior_log_prob"] = np.where(np.isin(np.arange(11), block.final_rows), 0.0, rng.random(11))
    before = write(
        tmp_path / "before",
        block,
        environment="Somewhere-v0",
        reference_scores={"random": 1.0, "expert": 2.0, "measured_on": "there"},
        provenance={"made_by": "hand"},
    )
    normalizer = ObservationNormalizer(np.array([0.5, -0.5]), np.array([2.0, 0.25]))
    report = relabel(before.path, hand_made(SPEC, normalizer=normalizer, seed_position=position), tmp_path / "after")
    after = TrajectoryStore.open(tmp_path / "after")
    assert validate(after) == []
    assert after.column_names == before.column_names
    for name in before.column_names:
        if name != "reward":
            assert np.array_equal(before.read(name, 0, 11), after.read(name, 0, 11)), name
    assert [after.episodes.source(i) for i in range(3)] == ["f#0", "f#1", "f#2"]
    assert after.episodes.seed.tolist() == before.episodes.seed.tolist()
    assert (after.metadata.environment, after.metadata.reference_scores) == (
        "Somewhere-v0",
        before.metadata.reference_scores,
    )
    expected: list[float] = []
    for index in range(3):
        episode = before.episode(index)
        seen = (episode.observation - np.array([0.5, -0.5])) / (np.array([2.0, 0.25]) + 1e-3)
        unit = episode.action[:, 0] - 1.0
        mine = (seen[:-1, 0] + 10.0 * seen[1:, 1] + 100.0 * unit / 2.0) * factor + 1000.0 * episode.terminated
        assert after.episode(index).reward == pytest.approx(mine, rel=1e-4, abs=1e-3)
        expected += mine.tolist()
    old = np.concatenate([before.episode(index).reward for index in range(3)])
    assert report["mean_reward"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert report["mean_reward_before"] == pytest.approx(np.mean(old))
    assert report["correlation"] == pytest.approx(np.corrcoef(old, expected)[0, 1], abs=1e-4)
    assert after.episodes.return_.sum() == pytest.approx(np.sum(expected), rel=1e-4)
    assert after.metadata.provenance["dataset"] == {"name": "before", "fingerprint": before.fingerprint}
    assert after.metadata.provenance["dataset_provenance"] == {"made_by": "hand"}
    assert after.metadata.provenance["reward"]["run"] == "by hand"


def test_nested_observations_images_and_discrete_actions(tmp_path: Path) -> None:
    spec = Spec(
        gym.spaces.Dict(
            {"place": gym.spaces.Box(-9, 9, (2,), np.float32), "view": gym.spaces.Box(0, 255, (2, 2), np.uint8)}
        ),
        gym.spaces.Discrete(3, start=2),
    )
    columns = {
        "observation.place": np.arange(6, dtype=np.float32).reshape(3, 2),
        "observation.view": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
        "action": np.array([2, 4, 0]),
        "reward": np.zeros(3, np.float32),
        "terminated": np.array([False, True, False]),
        "truncated": np.zeros(3, np.bool_),
    }
    write(tmp_path / "before", EpisodeBlock(columns, np.array([2])), spec)
    relabel(tmp_path / "before", hand_made(spec, seed_position=0), tmp_path / "after")
    after = TrajectoryStore.open(tmp_path / "after")
    assert after.episode(0).reward.tolist() == [0.0 + 30.0 + 200.0, 2.0 + 50.0 + 400.0 + 1000.0]
    assert after.episode(0).reward.dtype == np.float32


def test_stacked_observations_are_stacked_for_the_reward_alone(tmp_path: Path) -> None:
    spec = Spec(gym.spaces.Box(-9, 9, (1,), np.float32), gym.spaces.Discrete(2))
    stacked = Spec(gym.spaces.Box(-9, 9, (2, 1), np.float32), gym.spaces.Discrete(2))
    columns = {
        "observation": np.array([[1.0], [2.0], [3.0]], np.float32),
        "action": np.zeros(3, np.int64),
        "reward": np.zeros(3),
        "terminated": np.zeros(3, np.bool_),
        "truncated": np.array([False, True, False]),
    }
    write(tmp_path / "before", EpisodeBlock(columns, np.array([2])), spec)
    relabel(tmp_path / "before", hand_made(stacked, frames=2, seed_position=0), tmp_path / "after")
    after = TrajectoryStore.open(tmp_path / "after")
    assert after.episode(0).reward.tolist() == [1.0 + 20.0, 1.0 + 30.0]
    assert after.episode(0).observation.tolist() == [[1.0], [2.0], [3.0]]


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "ROWS_AT_ONCE", 16)
    before = write(tmp_path / "before", make_block([5] * 20 + [50]))
    learned = hand_made(SPEC)
    relabel(before.path, learned, tmp_path / "after")
    assert 0 < learned.policy.agent.largest <= 16
    assert TrajectoryStore.open(tmp_path / "after").num_rows == before.num_rows


def test_a_store_that_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    class Failing(HandMade):
        def reward(self, state: Tensor, batch: Batch) -> Tensor:
            raise RuntimeError("out of luck")

    before = write(tmp_path / "before", make_block([5]))
    learned = hand_made(SPEC)
    learned.policy.agent.__class__ = Failing
    with pytest.raises(RuntimeError):
        relabel(before.path, learned, tmp_path / "stores" / "after")
    assert list((tmp_path / "stores").iterdir()) == []


def test_other_spaces_are_refused(tmp_path: Path) -> None:
    before = write(tmp_path / "before", make_block([5]))
    other = Spec(SPEC.observation_space, gym.spaces.Discrete(2))
    with pytest.raises(SpaceMismatchError, match=r"the dataset 'before'.*learned from .* actions in Discrete\(2\)"):
        relabel(before.path, hand_made(other), tmp_path / "after")
    (tmp_path / "after").mkdir()
    with pytest.raises(RequestError, match="destination exists"):
        relabel(before.path, hand_made(SPEC), tmp_path / "after")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of irl with two seeds, whose demonstrations never go left."""
    folder = tmp_path_factory.mktemp("table")
    collect_optimal(SLIPPERY, episodes=20, destination=folder / "demos")
    recipe = irl_recipe(folder / "demos", steps=10, seeds=[3, 5], agent={"features": "state_action"})
    return train(recipe, folder / "run")


def test_the_reward_of_a_table_is_looked_up(table: Run, tmp_path: Path) -> None:
    assert table.recipe.dataset is not None
    learned = LearnedReward.of(table, seed=5)
    relabel(table.recipe.dataset, learned, tmp_path / "after")
    before, after = TrajectoryStore.open(table.recipe.dataset), TrajectoryStore.open(tmp_path / "after")
    rows = np.arange(before.num_rows - 1)
    rows = rows[~np.isin(rows, before.episodes.first_row + before.episodes.length)]
    expected = TableReward.of(table).table[1][before.gather("observation", rows), before.gather("action", rows)]
    assert np.allclose(after.gather("reward", rows), expected, atol=1e-5)
    origin = after.metadata.provenance["reward"]
    assert (origin["algo"], origin["step"], origin["seeds"]) == ("irl", 10, [5])
    json.dumps(origin)


def test_actions_that_no_demonstration_shows_are_warned_of(table: Run, tmp_path: Path) -> None:
    assert table.recipe.dataset is not None
    demos = TrajectoryStore.open(table.recipe.dataset)
    shown = set(np.unique(demos.read("action", 0, demos.num_rows)).tolist())
    unseen = min(set(range(4)) - shown)
    columns = {
        "observation": np.array([0, 1, 2]),
        "action": np.array([unseen, 1, 0]),
        "reward": np.zeros(3),
        "terminated": np.array([False, True, False]),
        "truncated": np.zeros(3, np.bool_),
    }
    write(tmp_path / "before", EpisodeBlock(columns, np.array([2])), demos.spec)
    report = relabel(tmp_path / "before", LearnedReward.of(table), tmp_path / "after")
    assert report["warnings"] == [
        f"no demonstration takes the action {unseen}, which 50.0% of the transitions take: the reward of these is "
        "a guess"
    ]
    assert report["correlation"] is None


def test_a_run_without_a_reward_or_such_a_seed_is_refused(table: Run, tmp_path: Path) -> None:
    demos = make_demonstrations(tmp_path / "demos", episodes=2, length=10).path
    run = train(bc_recipe(demos, steps=1, env="none"), tmp_path / "run")
    with pytest.raises(RequestError, match="a run of bc has learned no reward"):
        LearnedReward.of(run)
    with pytest.raises(RequestError, match="the run has no seed 4"):
        LearnedReward.of(table, seed=4)


def test_the_reward_of_a_discriminator_is_that_of_its_batches(tmp_path: Path) -> None:
    """GAIL's reward of a dataset's transitions is what its agent says of the same ones drawn as a batch."""
    demos = make_demonstrations(tmp_path / "demos", episodes=4, length=30)
    recipe = recipe_from_dict(
        {
            "algo": "gail",
            "dataset": str(demos.path),
            "env": "Pendulum-v1",
            "steps": 64,
            "device": "cpu",
            "seeds": [0, 1],
            "agent": {"generator": "ppo", "generator_options": {"rollout_steps": 32, "hidden": [8, 8]}, "hidden": [8]},
            "evaluation": {"every": 0, "episodes": 1, "final_episodes": 1},
        }
    )
    run = train(recipe, tmp_path / "run")
    learned = LearnedReward.of(run)
    relabel(demos.path, learned, tmp_path / "after")
    from offrl.feeds.materials import sampling_options
    from offrl.replay.sampler import ReplaySampler

    policy = learned.policy
    options = sampling_options(run.recipe, policy)
    after = TrajectoryStore.open(tmp_path / "after")
    (batch,) = ReplaySampler([after], batch_size=50, seeds=[0], **options).sample(1).unbind()
    agent: Any = policy.agent
    with torch.no_grad():
        expected = agent.reward(policy.state, batch.repeat_seeds(2)).mean(0)
    assert torch.allclose(batch.reward[0], expected, atol=1e-5)
    assert float(batch.reward.std()) > 0.0
