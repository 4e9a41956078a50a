"""Runs whose policies see several observations at once: what they store is as the environment shows it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from offrl.collection.collect import collect
from offrl.config.recipe import recipe_from_dict
from offrl.data.store import TrajectoryStore
from offrl.runs.evaluate_run import evaluate_run
from offrl.runs.load import load_policy
from offrl.training.finetune import fine_tuning_recipe
from offrl.training.run_training import resume, train
from tests.training.runs import assert_same_tensors, make_demonstrations, td3_recipe

STACKED: dict[str, Any] = {
    "steps": 60,
    "checkpoint_every": 40,
    "data": {"frame_stack": 3},
    "evaluation": {"every": 0, "episodes": 1, "final_episodes": 1},
}
ONLINE = {"warmup_steps": 20, "capacity": 100, "environments": 2, "record": True}


def test_an_online_run_records_single_observations(tmp_path: Path) -> None:
    recipe = td3_recipe(**STACKED, online=ONLINE)
    run = train(recipe, tmp_path / "run")

    policy, _ = load_policy(run, "last")
    assert policy.agent.spec.observation_space.shape == (3, 3)
    replay = TrajectoryStore.open(run.path / "replay")
    observation = replay.episode(0).observation
    assert observation.shape == (21, 3)
    np.testing.assert_allclose(np.square(observation[:, :2]).sum(axis=1), 1.0, rtol=1e-5)
    assert (np.diff(observation, axis=0) != 0).any(axis=1).all()

    train(dataclasses.replace(recipe, steps=40), tmp_path / "halves")
    assert_same_tensors(run, resume(tmp_path / "halves", steps=60))


def test_pretraining_evaluation_collection_and_fine_tuning_see_the_same(tmp_path: Path) -> None:
    demonstrations = make_demonstrations(tmp_path / "demonstrations")
    values = td3_recipe(**STACKED).to_dict()
    pretrained = train(recipe_from_dict(values | {"dataset": str(demonstrations.path)}), tmp_path / "pretrained")
    assert evaluate_run(pretrained, episodes=1)["lengths"] == [[200], [200]]

    collect(pretrained, episodes=2, destination=tmp_path / "collected")
    assert TrajectoryStore.open(tmp_path / "collected").episode(0).observation.shape == (201, 3)

    settings = {"online.warmup_steps": 10, "online.capacity": 100}
    tuned = train(fine_tuning_recipe(pretrained.path, steps=40, settings=settings), tmp_path / "tuned")
    assert tuned.recipe.data.frame_stack == 3
    assert TrajectoryStore.open(tuned.path / "replay").episode(0).observation.shape == (21, 3)
