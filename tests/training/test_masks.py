"""From masks that an environment tells of to datasets, learning, evaluation and valuation that keep to them.

The environment objects to actions that it doesn't allow, so that whatever acts in it and isn't stopped honors masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offrl.collection.collect import collect, collect_optimal, collect_random
from offrl.config.recipe import Recipe, recipe_from_dict
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.data.validate import validate
from offrl.feeds import open_problem
from offrl.off_policy.agent_policies import AgentPolicies
from offrl.off_policy.evaluate_runs import Acting, Trial, evaluate_policies
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.plan import Plan
from offrl.runs.listener import SilentListener
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.build import build_loop
from offrl.training.finetune import fine_tuning_recipe
from offrl.training.run_training import resume, train
from tests.envs.menus import DISHES, MENU, STEPS, VALUES
from tests.training.runs import assert_same_tensors

AGENT: dict[str, dict[str, Any]] = {
    "dqn": {"hidden": [32], "learning_rate": 3e-3, "discount": 0.5, "target_every": 20, "epsilon_steps": 300},
    "ppo": {"hidden": [16], "rollout_steps": 32, "actor_learning_rate": 1e-2, "minibatch_size": 32, "discount": 0.5},
    "sac": {"hidden": [32], "discount": 0.5},
    "iql": {"hidden": [32], "actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3, "discount": 0.5},
    "bc": {"hidden": [8]},
}
AGENT["qrdqn"] = AGENT["dqn"] | {"quantiles": 8}
AGENT["bcq"] = AGENT["dqn"]
ONLINE = ["dqn", "iql", "ppo", "qrdqn", "sac"]


def recipe(algo: str, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "algo": algo,
        "env": MENU,
        "steps": 768,
        "seeds": [0, 1],
        "batch_size": 32,
        "device": "cpu",
        "checkpoint_every": 384,
        "agent": AGENT[algo],
        "online": {"environments": 2, "record": True, "warmup_steps": 60, "capacity": 500},
        "evaluation": {"every": 0, "episodes": 10, "final_episodes": 30},
    }
    return recipe_from_dict({**values, **changes})


def best_return() -> float:
    """Of taking the best dish there is: each mask has one dish for certain and the others with a chance of a half."""
    masks = [np.array([*np.ndindex(*[2] * DISHES)], bool) for _ in range(DISHES)]
    for certain, mask in enumerate(masks):
        mask[:, certain] = True
    return STEPS * float(np.mean([(VALUES * mask).max(axis=1).mean() for mask in masks]))


def mean_return(run: Run) -> float:
    """Of the last evaluation."""
    return float(np.mean(run.lines("evaluations.jsonl")[-1]["returns"]))


def assert_masks_are_those_shown(store: TrajectoryStore) -> None:
    """Those of the observations, and nothing wrong with the store."""
    rows = store.num_rows
    masks, shown = store.read("action_mask", 0, rows), store.read("observation", 0, rows)
    np.testing.assert_array_equal(masks, shown[:, :DISHES] == 1.0)
    assert validate(store) == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    root = tmp_path_factory.mktemp("menus")
    return {algo: train(recipe(algo), root / algo) for algo in ONLINE}


@pytest.mark.parametrize("algo", ["dqn", "ppo", "qrdqn"])
def test_the_best_allowed_actions_are_learned(runs: dict[str, Run], algo: str) -> None:
    """What is best depends on the mask alone: uniform choice has 2.2 of the best 4.0."""
    assert mean_return(runs[algo]) > 0.9 * best_return()


@pytest.mark.parametrize("algo", ONLINE)
def test_own_steps_are_learned_from_with_masks(algo: str, tmp_path: Path) -> None:
    problem = open_problem(recipe(algo))
    loop = build_loop(Run.create(tmp_path / "run", problem.recipe), problem, SilentListener())
    loop.feed.at_checkpoint(0)
    batches = [batch for cycle in loop.feed.rounds(40) for batch in cycle.batches]
    assert all(batch.action_mask is not None and not batch.action_mask.all() for batch in batches)
    assert batches


@pytest.mark.parametrize("algo", ONLINE)
def test_what_was_done_online_is_recorded_with_its_masks(runs: dict[str, Run], algo: str) -> None:
    assert_masks_are_those_shown(TrajectoryStore.open(runs[algo].path / "replay"))


@pytest.mark.parametrize("algo", ONLINE)
def test_a_resumed_run_equals_one_that_went_on(runs: dict[str, Run], algo: str, tmp_path: Path) -> None:
    train(recipe(algo, steps=384), tmp_path / "run")
    assert_same_tensors(resume(tmp_path / "run", steps=768), runs[algo])


@pytest.mark.parametrize("algo", ["iql", "ppo", "sac"])
def test_samples_are_collected_with_probabilities_among_the_allowed(
    runs: dict[str, Run], algo: str, tmp_path: Path
) -> None:
    collect(runs[algo], episodes=20, destination=tmp_path / "store", stochastic=True)
    store = TrajectoryStore.open(tmp_path / "store")
    assert_masks_are_those_shown(store)
    policy, _ = load_policy(runs[algo], "last")
    # Valued from what they logged, the policies find the same probabilities, none of a forbidden action.
    choices = AgentPolicies(policy, ["0", "1"], stochastic=True, has_density=True).choices(store, draws=1, seed=0)
    own = np.repeat([int(str(store.episodes.source(i))[-1]) for i in range(20)], store.episodes.length)
    steps = np.arange(store.num_steps)
    rows = steps + np.repeat(np.arange(20), store.episodes.length)
    found = np.stack([each.log_prob for each in choices if each.log_prob is not None])[own, steps]
    np.testing.assert_allclose(found, store.read("behavior_log_prob", 0, store.num_rows)[rows], atol=1e-4)
    masks = store.read("action_mask", 0, store.num_rows)[rows]
    for each in choices:
        assert each.probabilities is not None
        assert (each.probabilities[rows][~masks] == 0.0).all()
        np.testing.assert_allclose(each.probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_random_actions_are_collected_among_the_allowed(tmp_path: Path) -> None:
    collect_random(MENU, episodes=20, destination=tmp_path / "store")
    store = TrajectoryStore.open(tmp_path / "store")
    assert_masks_are_those_shown(store)
    for index in range(store.num_episodes):
        extras = store.episode(index).extras
        count = extras["action_mask"][:-1].sum(axis=1)
        np.testing.assert_allclose(extras["behavior_log_prob"], -np.log(count), rtol=1e-6)


@pytest.mark.parametrize(("algo", "epsilon"), [("dqn", 0.0), ("dqn", 0.3), ("iql", 0.0), ("qrdqn", 0.3)])
def test_policies_are_valued_by_what_they_do_among_the_allowed(
    runs: dict[str, Run], algo: str, epsilon: float, tmp_path: Path
) -> None:
    collect_random(MENU, episodes=400, destination=tmp_path / "log")
    plan = Plan(estimators=["pdis", "fqe"], discount=1.0, resamples=100, fqe=FQEConfig(hidden=(16,), steps=300))
    acting = Acting("last", None, False, epsilon, 0.0)
    evaluation = evaluate_policies(
        [runs[algo].path], str(tmp_path / "log"), plan, acting, trial=Trial(MENU, episodes=300)
    )
    for policy in evaluation.policies:
        assert policy.truth is not None
        pdis = policy.estimates[0]
        assert pdis.interval is not None
        assert pdis.interval.low - 0.1 < policy.truth.value < pdis.interval.high + 0.1


@pytest.mark.parametrize("algo", ["bcq", "dqn", "iql", "qrdqn"])
def test_pretrained_and_fine_tuned_policies_keep_to_masks(algo: str, tmp_path: Path) -> None:
    collect_random(MENU, episodes=100, destination=tmp_path / "log")
    pretrained = train(recipe(algo, dataset=str(tmp_path / "log"), steps=400), tmp_path / "pretrained")
    assert mean_return(pretrained) > 0.9 * best_return()
    settings = {"online.warmup_steps": 20, "online.offline_fraction": 0.5}
    tuning = fine_tuning_recipe(pretrained.path, steps=100, env=MENU, settings=settings)
    assert mean_return(train(tuning, tmp_path / "tuned")) > 0.9 * best_return()


@pytest.mark.parametrize("kept", [True, False], ids=["dataset with masks", "dataset without"])
@pytest.mark.parametrize("budget", [2**29, 1], ids=["in memory", "mapped"])
def test_mixed_batches_have_the_masks_of_own_steps(kept: bool, budget: int, tmp_path: Path) -> None:
    """And of the dataset's where it has them; where it hasn't, all was allowed."""
    collect_random(MENU, episodes=20, destination=tmp_path / "log")
    store = TrajectoryStore.open(tmp_path / "log")
    with StoreWriter(tmp_path / "plain", store.spec, environment=MENU) as writer:
        names = [name for name in store.column_names if name != "action_mask"]
        columns = {name: store.read(name, 0, store.num_rows) for name in names}
        writer.append(EpisodeBlock(columns, np.asarray(store.episodes.length)))
    dataset = tmp_path / ("log" if kept else "plain")
    data = {"normalize_observation": False}
    pretrained = train(recipe("dqn", dataset=str(dataset), steps=20, data=data), tmp_path / "pretrained")
    settings = {"online.warmup_steps": 60, "online.offline_fraction": 0.5, "data.memory_budget": budget}
    problem = open_problem(fine_tuning_recipe(pretrained.path, steps=100, env=MENU, settings=settings))
    loop = build_loop(Run.create(tmp_path / "run", problem.recipe), problem, SilentListener())
    loop.feed.at_checkpoint(0)
    batches = [batch for cycle in loop.feed.rounds(40) for batch in cycle.batches]
    assert batches
    for batch in batches:
        for mask, shown in (
            (batch.action_mask, batch.observation),
            (batch.next_action_mask, batch.next_observation),
        ):
            assert mask is not None
            offered = torch.as_tensor(shown)[..., :DISHES] == 1.0
            offered |= ~offered.any(dim=-1, keepdim=True)
            if not kept:
                offered[:, :16] = True
            torch.testing.assert_close(mask, offered)


def test_cloned_policies_keep_to_masks(tmp_path: Path) -> None:
    collect_random(MENU, episodes=20, destination=tmp_path / "log")
    clone = recipe("bc", dataset=str(tmp_path / "log"), steps=50, online={})
    assert mean_return(train(clone, tmp_path / "clone")) > 0.0


def test_a_tables_optimal_policy_has_all_actions(tmp_path: Path) -> None:
    """Taxi's mask forbids what has no effect, which the softly optimal policy of its table may do."""
    collect_optimal("Taxi-v4", episodes=2, destination=tmp_path / "taxi", temperature=0.5)
    assert "action_mask" not in TrajectoryStore.open(tmp_path / "taxi").column_names
