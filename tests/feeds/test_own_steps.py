"""What feeds of own steps share: the task, how steps are kept, and what is reported of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offrl.config.recipe import Recipe, recipe_from_dict
from offrl.data.schema import ACTION_MASK
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.feeds import open_problem
from offrl.feeds.materials import Materials, sampling_options
from offrl.feeds.own_steps import collector_into, episode_report, objection_to_data, own_steps_problem, step_layout
from offrl.replay.ring import OnlineRing
from offrl.runs.listener import SilentListener
from offrl.runs.load import fresh_policy
from tests.envs.counting import SEEDED
from tests.envs.menus import MENU
from tests.training.runs import make_demonstrations


def own_recipe(algo: str = "td3", env: str = SEEDED, **changes: Any) -> Recipe:
    values = {"algo": algo, "env": env, "seeds": [3, 5], "device": "cpu", "agent": {"hidden": [8]}}
    return recipe_from_dict({**values, "online": {"environments": 2}, **changes})


def materials_of(recipe: Recipe) -> Materials:
    problem = open_problem(recipe)
    policy = fresh_policy(problem.algorithm, problem.agent, problem.recipe, torch.device("cpu"), None)
    return Materials(problem, policy, None, None, SilentListener())


def test_a_dataset_is_for_fine_tuning_only_where_batches_hold_own_steps_alone(tmp_path: Path) -> None:
    assert objection_to_data(own_recipe()) is None
    objection = objection_to_data(own_recipe("ppo", dataset="some"))
    assert objection is not None
    assert "ppo learns from its own steps only" in str(objection)
    assert "offrl finetune RUN --algo ppo" in objection.hint
    assert objection_to_data(own_recipe(dataset="some", start=str(tmp_path))) is None


def test_the_task_is_the_environment() -> None:
    problem = own_steps_problem(own_recipe(), None)
    assert (problem.data, problem.origin) == (None, None)
    assert problem.spec.observation_space.shape == (3,)
    with pytest.raises(RecipeError, match="neither a dataset nor an environment"):
        own_steps_problem(own_recipe(env="none"), None)


def test_data_beside_own_steps_brings_its_spaces_and_environment(tmp_path: Path) -> None:
    data = make_demonstrations(tmp_path / "data", episodes=4, length=3)
    mixed = {"dataset": str(data.path), "online": {"offline_fraction": 0.5}}
    problem = own_steps_problem(own_recipe(env="Pendulum-v1", **mixed), None)
    assert problem.data is not None
    assert (problem.data.num_episodes, problem.dataset_facts["fingerprint"]) == (4, data.fingerprint)
    unnamed = recipe_from_dict({"algo": "sac", **mixed, "data": {"episodes": 2}})
    problem = own_steps_problem(unnamed, None)
    assert problem.recipe.env == "Pendulum-v1"
    assert problem.data is not None
    assert problem.data.num_episodes == 2
    annealed = {"offline_fraction_end": 0.5, "offline_fraction_steps": 10}
    assert own_steps_problem(own_recipe(env="Pendulum-v1", **mixed | {"online": annealed}), None).data is not None


def test_data_beside_own_steps_needs_both_and_the_same_spaces(tmp_path: Path) -> None:
    data = make_demonstrations(tmp_path / "data", episodes=4, length=3)
    mixed = {"online": {"offline_fraction": 0.5}}
    with pytest.raises(RecipeError, match="no data to mix in: no dataset is named"):
        own_steps_problem(own_recipe(**mixed), None)
    with pytest.raises(RecipeError, match="no environment is named to take them in"):
        own_steps_problem(own_recipe(env="none", dataset=str(data.path), **mixed), None)
    with pytest.raises(SpaceMismatchError, match="MountainCarContinuous-v0"):
        own_steps_problem(own_recipe(env="MountainCarContinuous-v0", dataset=str(data.path), **mixed), None)


def test_steps_are_kept_with_masks_where_some_are_told_and_heeded(tmp_path: Path) -> None:
    assert ACTION_MASK in step_layout(materials_of(own_recipe("dqn", MENU))).slices
    assert ACTION_MASK not in step_layout(materials_of(own_recipe("dqn", "CartPole-v1"))).slices
    deaf = materials_of(own_recipe("dqn", MENU))
    deaf = dataclasses.replace(deaf, policy=dataclasses.replace(deaf.policy, masks=False))
    assert ACTION_MASK not in step_layout(deaf).slices
    plain = make_demonstrations(tmp_path / "data", episodes=2, length=3)
    assert ACTION_MASK not in step_layout(materials_of(own_recipe()), plain).slices


def test_own_steps_and_data_have_their_rewards_scaled_and_shifted_alike() -> None:
    materials = materials_of(own_recipe(data={"reward_scale": 0.5, "reward_shift": -1.0}))
    reward = np.float32([0.0, 1.0, 4.0])
    scaled = sampling_options(materials.recipe, materials.policy)["reward_scaler"](reward)
    np.testing.assert_array_equal(scaled, np.float32([-1.0, -0.5, 1.0]))
    ring = OnlineRing(step_layout(materials), 2, 2, 60)
    collector = collector_into(ring, materials)
    np.testing.assert_array_equal(collector.reward_scaler(reward), scaled)
    collector.close()


def test_what_ended_is_reported_once_for_each_seed() -> None:
    materials = materials_of(own_recipe(data={"reward_scale": 0.5}))
    ring = OnlineRing(step_layout(materials), 2, 2, 60)
    collector = collector_into(ring, materials)
    collector.restart(0)
    assert episode_report(collector) == {"episode_return": [None, None], "episode_length": [None, None]}
    lengths: list[list[int]] = [[], []]
    for _ in range(12):
        before = collector.running_length.copy()
        collector.step(collector.actor.act(collector.observed))
        for stream in np.flatnonzero(collector.running_length <= before):
            lengths[stream // 2].append(int(before[stream]) + 1)
    report = episode_report(collector)
    assert report["episode_length"] == [pytest.approx(np.mean(each)) for each in lengths]
    # As the environment gives them: an episode's first reward is the action's second component, 0 to 10.
    assert all(value is not None and value >= 0.0 for value in report["episode_return"])
    assert episode_report(collector)["episode_length"] == [None, None]
    collector.close()
