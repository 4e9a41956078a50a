"""Runs compared by their losses on episodes that they weren't trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offrl.converters.catalog import open_dataset
from offrl.data.store import TrajectoryStore
from offrl.errors import RequestError, SpaceMismatchError
from offrl.off_policy.held_out import _losses, rank_by_held_out_loss
from offrl.off_policy.plan import Plan
from offrl.replay.sampler import split_by_episode
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.run_training import train
from tests.training.runs import bc_recipe, make_demonstrations, sac_recipe

PLAN = Plan(resamples=100)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clones of the same demonstrations, one of them trained for a single step; and further demonstrations."""
    root = tmp_path_factory.mktemp("held-out")
    make_demonstrations(root / "demos", episodes=20, length=20)
    make_demonstrations(root / "others", episodes=10, length=20)
    for name, steps in (("early", 1), ("late", 300)):
        train(bc_recipe(root / "demos", steps=steps, checkpoint_every=300, env="none"), root / name)
    train(bc_recipe(root / "demos", steps=1, env="none", data={"validation_fraction": 0.0}), root / "all")
    return root


def places(made: Path, *names: str) -> list[tuple[Run, str]]:
    return [(Run.open(made / name), "last") for name in names]


@pytest.mark.parametrize("log", ["demos", "others"])
def test_the_longer_trained_fits_unseen_episodes_better(log: str, made: Path) -> None:
    ranking = rank_by_held_out_loss(places(made, "early", "late"), TrajectoryStore.open(made / log), PLAN)
    assert [place.policy >= 2 for place in ranking.places] == [True, True, False, False]
    assert [bool(place.may_be_best) for place in ranking.places][2:] == [False, False]
    one = rank_by_held_out_loss(places(made, "early", "late"), TrajectoryStore.open(made / log), PLAN, 1)
    assert [place.policy for place in one.places] == [1, 0]


def test_of_its_own_data_only_what_was_held_out_counts(made: Path) -> None:
    """A tenth of 20 episodes: those that the split of training leaves."""
    store = TrajectoryStore.open(made / "demos")
    by_two = rank_by_held_out_loss(places(made, "late"), store, PLAN)
    run = Run.open(made / "late")
    unseen = split_by_episode(store, 0.1, seed=0)[1]
    assert unseen.num_episodes == 2
    losses = _losses(run, load_policy(run, "last")[0], unseen, PLAN.seed)
    values = {place.policy: place.value for place in by_two.places}
    np.testing.assert_allclose([values[0], values[1]], -losses.mean(axis=1))
    with pytest.raises(RequestError, match="no episode of it"):
        rank_by_held_out_loss(places(made, "all"), store, PLAN)
    with pytest.raises(RequestError, match="no episode of it"):
        rank_by_held_out_loss(places(made, "late", "all"), store, PLAN)


def test_losses_that_can_not_be_compared_are_refused(made: Path, tmp_path: Path) -> None:
    other = train(sac_recipe(steps=20, seeds=[0]), tmp_path / "sac")
    store = TrajectoryStore.open(made / "others")
    with pytest.raises(RequestError, match="of sac it has no loss"):
        rank_by_held_out_loss([(other, "last")], store, PLAN)
    with pytest.raises(RequestError, match="of bc, sac losses of several"):
        rank_by_held_out_loss([*places(made, "late"), (other, "last")], store, PLAN)


def test_other_observations_are_refused(made: Path) -> None:
    with pytest.raises(SpaceMismatchError, match="cartpole-random"):
        rank_by_held_out_loss(places(made, "late"), open_dataset("cartpole-random"), PLAN)
