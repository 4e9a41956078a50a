"""Choosing among runs and their kept checkpoints by a log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import offrl
from offrl.collection.collect import collect_random
from offrl.config.recipe import recipe_from_dict
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.errors import RequestError, RunNotFoundError, SpaceMismatchError
from offrl.off_policy.evaluate_runs import Acting, evaluate_policies
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.plan import Plan
from offrl.off_policy.select_runs import Deployments, select_policies
from offrl.runs.run import Run
from offrl.training.run_training import train
from tests.training.runs import bc_recipe, make_demonstrations

PLAN = Plan(horizon=10, resamples=100, fqe=FQEConfig(hidden=(8,), steps=20))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of random actions in CartPole, a run of it that keeps two checkpoints, and one of Pendulum."""
    root = tmp_path_factory.mktemp("select")
    collect_random("CartPole-v1", episodes=40, destination=root / "random")
    values = bc_recipe(root / "random", steps=30, checkpoint_every=10, checkpoints_kept=2).to_dict() | {"env": "none"}
    train(recipe_from_dict(values), root / "clone")
    train(recipe_from_dict({**values, "steps": 10, "seeds": [0], "checkpoints_kept": 1}), root / "short")
    make_demonstrations(root / "pendulum", episodes=6, length=20)
    train(bc_recipe(root / "pendulum", steps=20, seeds=[0], env="none"), root / "bc")
    return root


def test_every_seed_of_every_kept_checkpoint_is_a_candidate(made: Path) -> None:
    found = select_policies([made / "clone", made / "short"], str(made / "random"), PLAN)
    assert [each.name for each in found.candidates] == [
        "clone step-20 seed 0",
        "clone step-20 seed 1",
        "clone step-30 seed 0",
        "clone step-30 seed 1",
        "short step-10",
    ]
    assert sorted(place.policy for place in found.ranking.places) == list(range(5))
    assert found.chosen in found.candidates
    assert found.evaluation is not None
    later = evaluate_policies([made / "clone"], str(made / "random"), PLAN, Acting("step-30"))
    of_weights = [policy.estimate("wis") for policy in found.evaluation.policies[2:4]]
    assert [each.value for each in of_weights if each] == [policy.estimate("wis").value for policy in later.policies]  # type: ignore[union-attr]


def test_one_checkpoint_or_seed_can_be_asked_for(made: Path) -> None:
    found = select_policies([made / "clone", made / "short"], str(made / "random"), PLAN, Acting("last", 0))
    assert [each.name for each in found.candidates] == ["clone last seed 0", "short last"]


def test_early_stopping_s_best_is_a_candidate_too(made: Path, tmp_path: Path) -> None:
    recipe = bc_recipe(made / "pendulum", seeds=[0], steps=20, env="none", early_stopping={"every": 5, "patience": 2})
    run = train(recipe, tmp_path / "stopped")
    names = [each.checkpoint for each in select_policies([run.path], str(made / "pendulum"), PLAN).candidates]
    assert names == [*run.kept_checkpoints(), "best"]


def test_fewer_than_two_are_refused(made: Path) -> None:
    with pytest.raises(RequestError, match=r"(?s)there is 1 candidate.*checkpoints_kept"):
        select_policies([made / "short"], str(made / "random"), PLAN)
    with pytest.raises(RequestError, match="named twice"):
        select_policies([made / "short"] * 2, str(made / "random"), PLAN)
    with pytest.raises(RunNotFoundError, match="no run"):
        select_policies([made / "nothing", made / "short"], str(made / "random"), PLAN)


def test_runs_of_other_spaces_than_the_log_are_refused(made: Path) -> None:
    with pytest.raises(SpaceMismatchError, match="random"):
        select_policies([made / "clone", made / "bc"], str(made / "random"), PLAN)


def test_a_log_without_rewards_is_ranked_by_losses(made: Path, tmp_path: Path) -> None:
    log = TrajectoryStore.open(made / "random")
    columns = {name: log.read(name, 0, log.num_rows) for name in log.column_names}
    with StoreWriter(tmp_path / "free", log.spec, environment="CartPole-v1") as writer:
        writer.append(EpisodeBlock({**columns, "reward": np.zeros(log.num_rows)}, np.asarray(log.episodes.length)))
    found = select_policies([made / "clone", made / "short"], str(tmp_path / "free"), PLAN)
    assert (found.ranking.estimator, found.evaluation) == ("held-out loss", None)
    assert found.findings[0].startswith("The log has no rewards")
    assert found.to_dict()["evaluation"] is None
    assert all(place.low is not None for place in found.ranking.places)


def test_trials_are_spent_on_those_that_the_log_has_not_ruled_out(made: Path) -> None:
    found = select_policies([made / "clone"], str(made / "random"), PLAN, deployments=Deployments("CartPole-v1", 6, 30))
    assert found.trials is not None
    ruled_out = {place.policy for place in found.ranking.places if place.may_be_best is False}
    assert set(found.trials.left_out) == ruled_out
    in_order = [place.policy for place in found.ranking.places if place.policy not in ruled_out]
    assert [trial.policy for trial in found.trials.episodes[: len(in_order)]] == in_order
    assert max(trial.earned for trial in found.trials.episodes) <= 30.0
    assert found.chosen == found.candidates[found.trials.best]


def test_what_trials_need_is_asked_for(made: Path) -> None:
    runs = [made / "clone"]
    with pytest.raises(RequestError, match="no environment"):
        offrl.select(runs, dataset=str(made / "random"), trials=3)
    with pytest.raises(RequestError, match="no trials"):
        offrl.select(runs, dataset=str(made / "random"), env="CartPole-v1")
    assert Run.open(made / "clone").kept_checkpoints() == ["step-20", "step-30"]
