"""Every algorithm that learns from a dataset and from a replay goes on online with its own state, at an exact share."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from offrl import plugins
from offrl.config.recipe import Recipe, parsed_settings, recipe_from_dict
from offrl.data.store import EpisodeBlock, StoreWriter
from offrl.feeds import open_problem
from offrl.feeds.replay import ReplayFeed
from offrl.feeds.warm_start import take_over
from offrl.nn.state import state_tensors
from offrl.runs.listener import SilentListener
from offrl.runs.load import load_normalizer
from offrl.runs.run import Run
from offrl.training.build import build_loop
from offrl.training.finetune import fine_tuning_recipe
from offrl.training.loop import Loop
from offrl.training.run_training import train
from offrl.types import Spec
from tests.training.runs import bc_recipe, last_tensors, make_demonstrations

SMALL: dict[str, Any] = {"hidden": [12, 12]}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "awac": ("awac", "Pendulum-v1", SMALL),
    "bcq": ("bcq", "CartPole-v1", SMALL),
    "calql": ("calql", "Pendulum-v1", {**SMALL, "samples": 2}),
    "cql": ("cql", "Pendulum-v1", {**SMALL, "samples": 2}),
    "cql, Lagrangian": ("cql", "Pendulum-v1", {**SMALL, "samples": 2, "threshold": 1.0}),
    "dqn": ("dqn", "CartPole-v1", {**SMALL, "conservative": 1.0}),
    "edac": ("edac", "Pendulum-v1", {**SMALL, "critics": 3}),
    "iql": ("iql", "Pendulum-v1", SMALL),
    "iql, choices": ("iql", "CartPole-v1", SMALL),
    "qrdqn": ("qrdqn", "CartPole-v1", {**SMALL, "conservative": 1.0}),
    "rebrac": ("rebrac", "Pendulum-v1", SMALL),
    "sac": ("sac", "Pendulum-v1", {**SMALL, "bc_alpha": 2.5}),
    "sac, choices": ("sac", "CartPole-v1", {**SMALL, "bc_alpha": 2.5}),
    "sac, state values": ("sac", "Pendulum-v1", {**SMALL, "value_network": True}),
    "td3": ("td3", "Pendulum-v1", SMALL),
    "td3bc": ("td3bc", "Pendulum-v1", SMALL),
    "td3, near its data": ("td3", "Pendulum-v1", {**SMALL, "bc_alpha": 2.5, "bc_decay": 0.9}),
}
"""Algorithm, task and options."""
SHORT = (
    "batch_size=16",
    "online.warmup_steps=10",
    "online.critic_warmup=0",
    "online.capacity=100",
    "checkpoint_every=20",
    "evaluation.every=0",
    "evaluation.final_episodes=1",
)
CHOICES = Spec(
    gym.spaces.Box(
        np.array([-4.8, -np.inf, -0.41887903, -np.inf], np.float32),
        np.array([4.8, np.inf, 0.41887903, np.inf], np.float32),
    ),
    gym.spaces.Discrete(2),
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What was trained offline, by the name of a case; once each."""
    root = tmp_path_factory.mktemp("pretrained")
    make_demonstrations(root / "Pendulum-v1")
    _make_choices(root / "CartPole-v1")

    @cache
    def trained(name: str) -> Run:
        algo, env, agent = CASES[name]
        values = bc_recipe(root / env, steps=20, batch_size=16, env="none").to_dict()
        return train(recipe_from_dict(values | {"algo": algo, "agent": agent}), root / name.replace(", ", "-"))

    return trained


def _make_choices(path: Path, episodes: int = 4, length: int = 20) -> None:
    """Random steps of a cart and its pole that cost 1 each, where the environment pays 1."""
    rng, rows = np.random.default_rng(0), episodes * (length + 1)
    final = np.arange(1, episodes + 1) * (length + 1) - 1
    columns: dict[str, Any] = {
        "observation": rng.normal(0.0, 0.1, (rows, 4)).astype(np.float32),
        "action": np.where(np.isin(np.arange(rows), final), 0, rng.integers(0, 2, rows)),
        "reward": np.where(np.isin(np.arange(rows), final), 0.0, -1.0),
        "terminated": np.isin(np.arange(rows), final - 1),
        "truncated": np.zeros(rows, np.bool_),
    }
    with StoreWriter(path, CHOICES, environment="CartPole-v1") as writer:
        writer.append(EpisodeBlock(columns, np.full(episodes, length)))


def going_on(name: str, run: Run, share: float) -> Recipe:
    return fine_tuning_recipe(
        run.path, steps=60, env=CASES[name][1], offline_fraction=share, settings=parsed_settings(SHORT)
    )


def at_step_0(recipe: Recipe, path: Path) -> Loop:
    problem = open_problem(recipe)
    loop = build_loop(Run.create(path, problem.recipe), problem, SilentListener())
    take_over(loop.policy, problem)
    return loop


def optimizer_steps(tensors: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(tensor) for name, tensor in tensors.items() if name.endswith("optimizer.steps")}


def test_every_algorithm_is_among_them() -> None:
    both = {name for name in plugins.algorithms.own if {"dataset", "replay"} <= set(plugins.algorithms[name].feeds)}
    assert {algo for algo, *_ in CASES.values()} == both


@pytest.mark.parametrize("name", CASES)
def test_all_that_was_learned_goes_on(name: str, pretrained: Any, tmp_path: Path) -> None:
    """Networks, targets, optimizers and multipliers are those of the run at first, and then change."""
    source = {
        key.removeprefix("state/"): tensor
        for key, tensor in last_tensors(pretrained(name)).items()
        if key.startswith("state/")
    }
    recipe = going_on(name, pretrained(name), 0.5)
    loop = at_step_0(recipe, tmp_path / "run")
    taken = state_tensors(loop.policy.state)
    assert taken.keys() == source.keys()
    assert all(torch.equal(tensor, source[key]) for key, tensor in taken.items())
    # A multiplier that isn't in use takes none.
    before = {key: count for key, count in optimizer_steps(source).items() if count}
    assert before
    loop.feed.close()

    after = last_tensors(train(recipe, tmp_path / "trained"))
    steps = optimizer_steps({key.removeprefix("state/"): tensor for key, tensor in after.items()})
    # One for each of the steps 10 to 60; where the actor takes one for two of the critics', in rounds of two steps.
    assert {steps[key] - before[key] for key in before} in ({51.0}, {26.0, 52.0})
    networks = [
        key for key in source if key.split(".")[0].startswith(("actor", "critic", "target", "network", "value"))
    ]
    moved = [key for key in networks if not torch.equal(after[f"state/{key}"], source[key])]
    assert {key.split(".")[0] for key in moved} == {key.split(".")[0] for key in networks}


def test_what_has_acted_before_needs_no_critics_warmed_up_and_changes_no_shares(
    tmp_path: Path, pretrained: Any
) -> None:
    """Critics that learned from own steps beside the data know what they overrated."""
    data = pretrained("sac").recipe.dataset
    online = {"warmup_steps": 6, "capacity": 100, "offline_fraction": 0.5, "offline_fraction_end": 0.25}
    values = {
        "algo": "sac",
        "dataset": data,
        "env": "Pendulum-v1",
        "agent": SMALL,
        "steps": 20,
        "batch_size": 16,
        "seeds": [0, 1],
        "online": {**online, "offline_fraction_steps": 10},
        "evaluation": {"every": 0, "final_episodes": 1},
    }
    run = train(recipe_from_dict(values), tmp_path / "mixed")
    recipe = fine_tuning_recipe(run.path, steps=50_000)
    assert (recipe.online.critic_warmup, recipe.online.offline_fraction) == (0, 0.5)
    assert (recipe.online.offline_fraction_end, recipe.online.offline_fraction_steps) == (0.0, 0)
    assert recipe.agent.actor_learning_rate == run.recipe.agent.actor_learning_rate
    offline = fine_tuning_recipe(pretrained("sac").path, steps=50_000, env="Pendulum-v1")
    assert offline.online.critic_warmup > 0
    assert offline.agent.actor_learning_rate < run.recipe.agent.actor_learning_rate
    taken = load_normalizer(open_problem(recipe).origin)
    assert taken is not None
    assert run.path.samefile(recipe.start or "")


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_batches_hold_exactly_the_data_s_share(name: str, share: float, pretrained: Any, tmp_path: Path) -> None:
    """The data's rewards are the numbers of episodes in the pendulum and costs in the cart, own steps' the reverse."""
    loop = at_step_0(going_on(name, pretrained(name), share), tmp_path / "run")
    feed, of_data = loop.feed, 1.0 if CASES[name][1] == "Pendulum-v1" else -1.0
    assert isinstance(feed, ReplayFeed)
    feed.at_checkpoint(0)
    batches = [batch for cycle in feed.rounds(20) for batch in cycle.batches]
    assert batches
    for batch in batches:
        assert (batch.reward * of_data >= 0.0).sum(dim=1).tolist() == [16 * share] * 2
    feed.close()
