"""Runs of irl: demonstrations to a reward that lies in the run, is worth what it says, and goes on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.collection.collect import collect_optimal
from offrl.config.recipe import Recipe, recipe_from_dict
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.envs.policy import Actor
from offrl.errors import OffrlError, RecipeError, RequestError
from offrl.feeds.table import TableReward, demonstrations_of, process_of, table_of
from offrl.mdp import evaluate_policy, optimal_policy
from offrl.runs.listener import SilentListener
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.loop import Interrupted
from offrl.training.run_training import resume, train
from offrl.types import Spec
from tests.envs.grids import GRID, SLIPPERY, TIMELESS
from tests.training.runs import assert_same_tensors


def irl_recipe(dataset: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "algo": "irl",
        "dataset": str(dataset),
        "steps": 60,
        "log_every": 10,
        "checkpoint_every": 20,
        "agent": {"l2": 1e-3, "discount": 0.95},
        "evaluation": {"every": 0, "episodes": 10, "final_episodes": 10},
    }
    return recipe_from_dict({**values, **changes})


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grids") / "demos"
    collect_optimal(SLIPPERY, episodes=200, destination=path)
    return path


@pytest.fixture(scope="module")
def finished(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(irl_recipe(demos), tmp_path_factory.mktemp("irl") / "run")


def test_a_run_holds_its_reward_and_what_it_is_worth(finished: Run) -> None:
    found = json.loads((finished.path / "reward.json").read_text())
    assert (found["environment"], found["method"], found["horizon"]) == (SLIPPERY, "maxcausalent", 40)
    learned = TableReward.of(finished)
    assert np.shape(found["reward"]) == (1, 20)
    assert np.array_equal(found["reward"], learned.table)
    mdp, agent = learned.mdp, learned.agent
    assert mdp.reward is not None
    reward = mdp.expected_reward(mdp.reward)
    best = float(evaluate_policy(mdp, optimal_policy(mdp, reward), reward))
    value = float(evaluate_policy(mdp, optimal_policy(mdp, agent.expected(mdp, learned.state.table[0])), reward))
    assert value > 0.98 * best
    assert found["value_difference"][0] == pytest.approx(found["best_value"] - found["optimal_value"][0])
    assert found["value_difference"][0] < 0.02 * found["best_value"]
    lines = finished.lines("metrics.jsonl")
    assert lines[-1]["value_difference"] == pytest.approx(found["value_difference"])
    assert lines[-1]["policy_value"] == pytest.approx(found["policy_value"])
    assert lines[-1]["gradient"][0] < lines[0]["gradient"][0]


def test_the_policy_of_a_run_acts(finished: Run) -> None:
    (final,) = [line for line in finished.lines("evaluations.jsonl") if line.get("final")]
    assert final["mean_return"] > 0.8
    policy, facts = load_policy(finished, "last")
    assert facts["environment"] == SLIPPERY
    assert Actor(policy, 20).greedy(np.arange(20)).shape == (20,)


def test_a_run_that_goes_on_comes_to_the_same_end(demos: Path, finished: Run, tmp_path: Path) -> None:
    class Stop(SilentListener):
        def progress(self, step: int, steps: int, metrics: dict[str, list[float | None]]) -> None:
            if step == 30:
                raise Interrupted(step)

    with pytest.raises(Interrupted):
        train(irl_recipe(demos), tmp_path / "run", Stop())
    assert_same_tensors(resume(tmp_path / "run"), finished)


def test_training_ends_once_the_gradient_is_small(demos: Path, tmp_path: Path) -> None:
    recipe = irl_recipe(demos, steps=400, agent={"l2": 0.1, "tolerance": 0.05, "discount": 0.95})
    run = train(recipe, tmp_path / "run")
    last = run.lines("metrics.jsonl")[-1]
    assert last["gradient"][0] <= 0.05
    assert last["step"] < 400
    before = TableReward.of(run).table
    again = resume(tmp_path / "run")
    assert np.array_equal(TableReward.of(again).table, before)


@pytest.mark.parametrize("method", ["maxent", "apprenticeship"])
def test_the_other_methods_train_as_well(demos: Path, tmp_path: Path, method: str) -> None:
    options = {"method": method, "features": "state_action"}
    run = train(irl_recipe(demos, steps=15, log_every=1, seeds=[0, 1], agent=options), tmp_path / "run")
    lines = run.lines("metrics.jsonl")
    assert lines[-1]["feature_error"][0] < lines[0]["feature_error"][0]
    assert TableReward.of(run).table.shape == (2, 20, 4)


def test_demonstrations_are_counted_as_they_were_recorded(demos: Path) -> None:
    store = TrajectoryStore.open(demos)
    mdp = table_of(SLIPPERY, discount=0.9)
    found = demonstrations_of(mdp, store, store.spec)
    expected = np.zeros((20, 4))
    starts = np.zeros(20)
    for index in range(store.num_episodes):
        episode = store.episode(index)
        starts[episode.observation[0]] += 1
        for t, action in enumerate(episode.action):
            expected[episode.observation[t], action] += 0.9**t
    assert np.allclose(found.visits, expected / store.num_episodes)
    assert np.allclose(found.mdp.initial, starts / store.num_episodes)


def test_optimal_episodes_are_optimal(tmp_path: Path) -> None:
    report = collect_optimal("CliffWalking-v1", episodes=3, destination=tmp_path / "best")
    assert (report["mean_return"], report["steps"]) == (-13.0, 39)
    assert "behavior_log_prob" not in TrajectoryStore.open(tmp_path / "best").column_names


def test_softly_optimal_episodes_are_drawn_and_say_how_probable_they_were(tmp_path: Path) -> None:
    collect_optimal(GRID, episodes=400, destination=tmp_path / "soft", temperature=1.0)
    store = TrajectoryStore.open(tmp_path / "soft")
    first = store.episodes.first_row
    state, action, log_prob = (store.gather(name, first) for name in ("observation", "action", "behavior_log_prob"))
    for choice in range(4):
        share = np.mean(action[state == 0] == choice)
        (known,) = set(log_prob[(state == 0) & (action == choice)].tolist())
        assert share == pytest.approx(np.exp(known), abs=0.08)


def write_demos(path: Path, spec: Spec, environment: str | None = None, episodes: int = 1) -> Path:
    with StoreWriter(path, spec, environment=environment) as writer:
        for _ in range(episodes):
            columns = {
                "observation": np.stack([spec.observation_space.sample()] * 2),
                "action": np.stack([spec.action_space.sample()] * 2),
                "reward": np.zeros(2),
                "terminated": np.array([True, False]),
                "truncated": np.zeros(2, bool),
            }
            columns["action"][1] = 0
            writer.append(EpisodeBlock(columns, np.array([1])))
    return path


DISCRETE = Spec(gym.spaces.Discrete(20), gym.spaces.Discrete(4))
CONTINUOUS = Spec(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(-2, 2, (1,)))


@pytest.mark.parametrize(
    ("spec", "environment", "agent", "episodes", "words"),
    [
        (DISCRETE, None, {}, 1, "irl reads the dynamics from the environment, and none is named"),
        (CONTINUOUS, "Pendulum-v1", {}, 1, "here observations are Box"),
        (DISCRETE, "FrozenLake-v1", {}, 1, "observation space of FrozenLake-v1"),
        (Spec(gym.spaces.Discrete(16), gym.spaces.Discrete(4)), "FrozenLake-v1", {}, 1, "which can't happen"),
        (DISCRETE, GRID, {}, 0, "has no episodes: nothing can be learned from it"),
        (DISCRETE, TIMELESS, {"method": "maxent"}, 1, "has no time limit to end them"),
        (DISCRETE, TIMELESS, {"discount": 1.0}, 1, "may have no bound"),
        (DISCRETE, GRID, {"method": "apprenticeship", "hidden": [4]}, 1, "linear in its features"),
    ],
)
def test_what_cannot_be_explained_is_refused_before_there_is_a_run(
    tmp_path: Path, spec: Spec, environment: str | None, agent: dict[str, Any], episodes: int, words: str
) -> None:
    spec.observation_space.seed(0)
    spec.action_space.seed(0)
    recipe = irl_recipe(write_demos(tmp_path / "demos", spec, environment, episodes), agent=agent)
    with pytest.raises(OffrlError, match=words) as caught:
        train(recipe, tmp_path / "run")
    assert "hint" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_environment_without_a_table_is_refused() -> None:
    with pytest.raises(RequestError, match="Blackjack-v1 isn't a table"):
        process_of(recipe_from_dict({"algo": "irl", "env": "Blackjack-v1"}))
    with pytest.raises(RequestError, match="can't be made"):
        table_of("NoSuch-v0", discount=0.9)
    with pytest.raises(RecipeError, match="none is named"):
        table_of("none", discount=0.9)


def test_only_runs_of_irl_have_a_table(finished: Run) -> None:
    other = Run(finished.path, recipe_from_dict({"algo": "bc"}))
    with pytest.raises(RequestError, match="a run of bc has no table of rewards"):
        TableReward.of(other)


def test_the_state_is_told_from_where_its_space_starts(tmp_path: Path) -> None:
    spec = Spec(gym.spaces.Discrete(2, start=5), gym.spaces.Discrete(2, start=1))
    columns = {
        "observation": np.array([5, 5, 6]),
        "action": np.array([1, 2, 0]),
        "reward": np.zeros(3),
        "terminated": np.array([False, True, False]),
        "truncated": np.zeros(3, bool),
    }
    with StoreWriter(tmp_path / "demos", spec) as writer:
        writer.append(EpisodeBlock(columns, np.array([2])))
    from tests.mdp.test_planning import two_states

    found = demonstrations_of(two_states(0.5), TrajectoryStore.open(tmp_path / "demos"), spec)
    assert torch.equal(found.visits, torch.tensor([[1.0, 0.5], [0.0, 0.0]]).double())
