"""Cross-validation on the seed axis against the same thing done one fold and candidate at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import offrl
from offrl import plugins
from offrl.agents.bc import BC
from offrl.config.recipe import merged, recipe_from_dict
from offrl.errors import DivergenceError, RecipeError
from offrl.replay.normalization import ActionMap, ObservationNormalizer
from offrl.replay.sampler import ReplaySampler
from offrl.runs.run import Run
from offrl.training import cross_validation
from offrl.training.cross_validation import VALIDATION_TRANSITIONS, fold_episodes, grouped
from offrl.training.run_training import resume, train
from offrl.types import Validates
from tests.training.runs import bc_recipe, make_demonstrations, td3_recipe

SMALL = {"hidden": [8]}


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    return make_demonstrations(tmp_path / "data", episodes=6).path


def choosing(demos: Path, options: dict[str, Any], **plan: Any) -> Any:
    """A recipe that chooses, of a few steps."""
    return bc_recipe(demos, agent=SMALL, cross_validation={"options": options, "folds": 2, "steps": 20, **plan})


def choice_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.path / "cross_validation.json").read_text())
    return found


def test_folds_are_a_partition_of_nearly_equal_parts() -> None:
    folds = fold_episodes(11, 3)
    assert sorted(np.concatenate(folds)) == list(range(11))
    assert sorted(len(fold) for fold in folds) == [3, 4, 4]
    with pytest.raises(RecipeError, match="4 episodes can't be split into 5 folds"):
        fold_episodes(4, 5)


GRIDS: dict[str, dict[str, Any]] = {
    "penalties alone": {"kind": "l2", "coefficients": [0.0, 1e-2]},
    "two penalties": {"options": {"agent.l1": [0.0, 1e-2], "agent.l2": [1e-3, 0.1]}},
    "networks and batches": {"options": {"agent.hidden": [[8], [5, 4]], "batch_size": [32, 8]}},
    "networks, rates and a penalty": {
        "options": {"agent": {"hidden": [[8], [5]], "learning_rate": [1e-3, 1e-2], "l2": [0.0, 1e-2]}}
    },
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_held_out_losses_equal_those_of_training_each_fold_alone(grid: dict[str, Any], demos: Path) -> None:
    folds, steps = 3, 30
    recipe = bc_recipe(demos, agent=SMALL, cross_validation={**grid, "folds": folds, "steps": steps})
    run = train(recipe, demos.parent / "run")
    store = offrl.open_dataset(demos)
    normalizer = ObservationNormalizer.from_store(store)
    action_map = ActionMap.from_space(store.spec.action_space)  # type: ignore[arg-type]
    settings: Any = {"observation_normalizer": normalizer, "action_map": action_map, "discount": 1.0}
    table = choice_of(run)["table"]
    candidates = recipe.cross_validation.candidates
    assert sorted(map(str, candidates)) == sorted(str(row["settings"]) for row in table)
    for row in table:
        given = merged(recipe.to_dict(), row["settings"])
        losses = []
        for fold in fold_episodes(6, folds):
            training = store.select(np.setdiff1d(np.arange(6), fold))
            agent = BC(plugins.algorithms["bc"].options(given["agent"]), store.spec)
            state = agent.init([0], torch.device("cpu"))
            sampler = ReplaySampler([training], batch_size=given["batch_size"], seeds=[0], **settings)
            for batch in sampler.sample(steps).unbind():
                agent.update(state, [batch], {})
            held_out = ReplaySampler([store.select(fold)], batch_size=VALIDATION_TRANSITIONS, seeds=[0], **settings)
            losses.append(float(agent.validation_loss(state, held_out.sample(1).unbind()[0])))
        assert row["per_fold"] == pytest.approx(losses, rel=1e-3)
        assert row["held_out_loss"] == pytest.approx(np.mean(losses), rel=1e-3)
        assert row["standard_error"] == pytest.approx(np.std(losses, ddof=1) / np.sqrt(folds), rel=2e-2)


def test_candidates_that_differ_by_penalties_train_together(demos: Path) -> None:
    grid = {"agent.hidden": [[8], [4]], "agent.l2": [0.0, 0.1, 1.0], "agent.l1": [0.0, 0.5]}
    groups = grouped(choosing(demos, grid))
    assert [len(group.candidates) for group in groups] == [6, 6]
    assert groups[0].penalties == {"l1": [0.0, 0.5] * 3, "l2": [0.0, 0.0, 0.1, 0.1, 1.0, 1.0]}
    assert [group.recipe.agent.hidden for group in groups] == [(8,), (4,)]


def test_the_least_loss_wins_and_goes_into_the_recipe(demos: Path) -> None:
    plan = {"kind": "l2", "coefficients": [0.0, 10.0], "folds": 2, "steps": 200}
    run = train(bc_recipe(demos, agent={"l2": 0.5, "hidden": [16]}, cross_validation=plan), demos.parent / "run")
    result = choice_of(run)
    assert result["table"][0]["held_out_loss"] < result["table"][1]["held_out_loss"]
    assert result["chosen"] == {"agent.l2": 0.0}
    assert run.recipe.agent.l2 == 0.0
    assert run.recipe.cross_validation.candidates == []


def test_any_option_is_chosen_and_trained_with(demos: Path) -> None:
    """Steps of 1e-6 learn nothing; the frames that are shown together change what the networks read."""
    grid = {"agent.learning_rate": [1e-6, 1e-2], "data.frame_stack": [2], "agent.activation": ["tanh"]}
    run = train(choosing(demos, grid, steps=60), demos.parent / "run")
    chosen = {"agent.learning_rate": 1e-2, "data.frame_stack": 2, "agent.activation": "tanh"}
    assert run.cross_validation()["chosen"] == chosen
    agent = run.recipe.agent
    assert (agent.learning_rate, agent.activation, run.recipe.data.frame_stack) == (1e-2, "tanh", 2)
    assert Run.open(run.path).recipe == run.recipe


def test_an_option_of_windows_is_chosen_too(demos: Path) -> None:
    recipe = {"algo": "bc-rnn", "dataset": str(demos), "steps": 4, "batch_size": 4, "agent": {"width": 4, "layers": 1}}
    plan = {"options": {"agent.context": [3, 7]}, "folds": 2, "steps": 4}
    values = {**recipe, "evaluation": {"final_episodes": 1}, "device": "cpu", "cross_validation": plan}
    run = train(recipe_from_dict(values), demos.parent / "run")
    assert run.recipe.agent.context == run.cross_validation()["chosen"]["agent.context"]
    plan["options"] = {"agent.context": [3, 70]}
    with pytest.raises(RecipeError, match="windows of 70 steps, and the longest episode"):
        train(recipe_from_dict(values), demos.parent / "long")
    assert not (demos.parent / "long").exists()


def test_a_resumed_choice_tries_nothing_twice(demos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = choosing(demos, {"agent.hidden": [[4], [5], [6]], "agent.l2": [0.0, 0.1]})
    whole = train(recipe, demos.parent / "whole")
    losses, seen = cross_validation.held_out_losses, []

    def tried(group: Any) -> Any:
        seen.append(group.recipe.agent.hidden)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return losses(group)

    monkeypatch.setattr(cross_validation, "held_out_losses", tried)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, demos.parent / "stopped")
    stopped = Run.open(demos.parent / "stopped")
    assert stopped.cross_validation() == {}
    assert [row["settings"]["agent.hidden"] for row in stopped.tried_options()] == [[4], [4]]
    resumed = resume(stopped.path)
    assert seen == [(4,), (5,), (5,), (6,)]
    assert choice_of(resumed) == choice_of(whole)
    assert resumed.recipe == whole.recipe
    assert resumed.final_scores() == whole.final_scores()


def test_a_candidate_that_diverges_is_not_chosen(demos: Path) -> None:
    run = train(choosing(demos, {"agent.learning_rate": [1e30, 1e-3]}), demos.parent / "run")
    table = run.cross_validation()["table"]
    assert (table[0]["held_out_loss"], table[0]["per_fold"]) == (None, [None, None])
    assert run.recipe.agent.learning_rate == 1e-3
    with pytest.raises(DivergenceError, match="no candidate's loss"):
        train(choosing(demos, {"agent.learning_rate": [1e30]}), demos.parent / "none")


def test_python_takes_keys_and_values(demos: Path) -> None:
    about: dict[str, Any] = {"dataset": demos, "steps": 4, "progress": False, "evaluation": {"final_episodes": 1}}
    about["settings"] = ("cross_validation.folds=2", "cross_validation.steps=4")
    run = offrl.train("bc", cross_validate={"agent.hidden": [(4,), (6,)]}, out=demos.parent / "one", **about)
    assert list(run.recipe.agent.hidden) == run.cross_validation()["chosen"]["agent.hidden"]
    texts = ("agent.hidden=[4],[6]", "agent.activation=relu,tanh")
    run = offrl.train("bc", cross_validate=texts, out=demos.parent / "two", **about)
    assert [row["settings"] for row in run.cross_validation()["table"]] == [
        {"agent.hidden": hidden, "agent.activation": name} for hidden in ([4], [6]) for name in ("relu", "tanh")
    ]


REFUSED = [
    ({"steps": [1, 2]}, "'steps' can't be chosen by cross-validation"),
    ({"data.top_fraction": [0.5, 1.0]}, "'data.top_fraction' can't be chosen"),
    ({"agent.policy": ["gaussian", "deterministic"]}, "'agent.policy' changes what the loss of bc measures"),
    ({"agent.hiden": [[4]]}, "unknown key 'agent.hiden'"),
    ({"agent.l2": [0.0, -1.0]}, "'agent.l2': .* greater than or equal to 0"),
    ({"agent.entropy_bonus": [0.0, 0.1]}, "a deterministic policy has no entropy"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_what_can_not_be_chosen_is_refused_before_anything_is_made(
    options: dict[str, Any], message: str, demos: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        train(choosing(demos, options), demos.parent / "run")
    assert not (demos.parent / "run").exists()


@pytest.mark.parametrize("options", [{"agent.hidden": []}, {"agent.hidden": 3}, 3])
def test_what_lists_no_values_is_refused(options: Any, demos: Path) -> None:
    with pytest.raises(RecipeError, match=r"cross_validation\.options"):
        choosing(demos, options)


def test_only_algorithms_with_a_loss_on_held_out_data_are_cross_validated(tmp_path: Path) -> None:
    recipe = recipe_from_dict({**td3_recipe().to_dict(), "cross_validation": {"kind": "l1"}})
    with pytest.raises(
        RecipeError, match=r"td3 has no loss on held-out episodes to choose agent.l1 by\n.*\n.*: bc, bc-rnn"
    ):
        train(recipe, tmp_path / "run")


def test_options_that_change_the_loss_are_options() -> None:
    for name in plugins.algorithms.own:
        record = plugins.algorithms[name]
        assert set(record.loss_options) <= set(vars(record.options({})))
        assert record.can(Validates) or not record.loss_options


def test_a_choice_of_before_is_read(tmp_path: Path) -> None:
    rows = [{"coefficient": value, "held_out_loss": 0.5 + value, "standard_error": 0.1} for value in (0.0, 1e-3)]
    old = {"kind": "l2", "coefficient": 0.0, "folds": 5, "table": rows}
    run = Run.create(tmp_path / "run", bc_recipe(tmp_path / "nothing"))
    (run.path / "cross_validation.json").write_text(json.dumps(old))
    found = run.cross_validation()
    assert found["chosen"] == {"agent.l2": 0.0}
    assert [row["settings"] for row in found["table"]] == [{"agent.l2": 0.0}, {"agent.l2": 1e-3}]
    assert [row["held_out_loss"] for row in found["table"]] == [0.5, 0.501]
