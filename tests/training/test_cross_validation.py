"""Cross-validation on the seed axis against the same thing done one fold at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from offrl.agents.bc import BC, BCConfig
from offrl.config.recipe import recipe_from_dict
from offrl.errors import RecipeError
from offrl.replay.normalization import ActionMap, ObservationNormalizer
from offrl.replay.sampler import ReplaySampler
from offrl.training.cross_validation import VALIDATION_TRANSITIONS, fold_episodes
from offrl.training.run_training import train
from tests.training.runs import bc_recipe, make_demonstrations, td3_recipe


def test_folds_are_a_partition_of_nearly_equal_parts() -> None:
    folds = fold_episodes(11, 3)
    assert sorted(np.concatenate(folds)) == list(range(11))
    assert sorted(len(fold) for fold in folds) == [3, 4, 4]
    with pytest.raises(RecipeError, match="4 episodes can't be split into 5 folds"):
        fold_episodes(4, 5)


def test_held_out_losses_equal_those_of_training_each_fold_alone(tmp_path: Path) -> None:
    store = make_demonstrations(tmp_path / "data", episodes=6)
    candidates, folds, steps = (0.0, 1e-2), 3, 30
    recipe = bc_recipe(
        tmp_path / "data",
        agent={"hidden": [8]},
        cross_validation={"kind": "l2", "coefficients": list(candidates), "folds": folds, "steps": steps},
    )
    run = train(recipe, tmp_path / "run")
    result = json.loads((run.path / "cross_validation.json").read_text())

    normalizer = ObservationNormalizer.from_store(store)
    action_map = ActionMap.from_space(store.spec.action_space)  # type: ignore[arg-type]
    for row, coefficient in zip(result["table"], candidates, strict=True):
        losses = []
        for fold in fold_episodes(6, folds):
            training = store.select(np.setdiff1d(np.arange(6), fold))
            agent = BC(BCConfig(hidden=(8,), l2=coefficient), store.spec)
            state = agent.init([0], torch.device("cpu"))
            settings = {"observation_normalizer": normalizer, "action_map": action_map, "discount": 1.0}
            sampler = ReplaySampler([training], batch_size=32, seeds=[0], **settings)  # type: ignore[arg-type]
            for batch in sampler.sample(steps).unbind():
                agent.update(state, [batch], {})
            held_out = ReplaySampler(
                [store.select(fold)],
                batch_size=VALIDATION_TRANSITIONS,
                seeds=[0],
                **settings,  # type: ignore[arg-type]
            )
            losses.append(float(agent.validation_loss(state, held_out.sample(1).unbind()[0])))
        assert row["held_out_loss"] == pytest.approx(np.mean(losses), rel=1e-3)
        assert row["standard_error"] == pytest.approx(np.std(losses, ddof=1) / np.sqrt(folds), rel=1e-2)


def test_the_least_loss_wins_and_goes_into_the_recipe(tmp_path: Path) -> None:
    make_demonstrations(tmp_path / "data")
    plan = {"kind": "l2", "coefficients": [0.0, 10.0], "folds": 2, "steps": 200}
    run = train(
        bc_recipe(tmp_path / "data", agent={"l2": 0.5, "hidden": [16]}, cross_validation=plan), tmp_path / "run"
    )

    result = json.loads((run.path / "cross_validation.json").read_text())
    assert result["table"][0]["held_out_loss"] < result["table"][1]["held_out_loss"]
    assert result["coefficient"] == run.recipe.agent.l2 == 0.0
    assert run.recipe.cross_validation.kind == "none"


def test_only_agents_with_coefficients_can_be_cross_validated(tmp_path: Path) -> None:
    recipe = recipe_from_dict({**td3_recipe().to_dict(), "cross_validation": {"kind": "l1"}})
    with pytest.raises(RecipeError, match="td3 has no coefficient 'l1'"):
        train(recipe, tmp_path / "run")
