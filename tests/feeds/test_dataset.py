"""Batches from a dataset alone: drawn all at once, or by the errors of the update before; who may learn so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from offrl.config.recipe import recipe_from_dict
from offrl.errors import RecipeError
from offrl.feeds import feed_of, open_problem
from offrl.feeds.dataset import DatasetFeed
from offrl.runs.listener import SilentListener
from offrl.runs.run import Run
from offrl.training.build import build_loop
from tests.training.runs import bc_recipe, make_demonstrations, sac_recipe


def test_an_update_s_errors_are_the_next_one_s_priorities(tmp_path: Path) -> None:
    demonstrations = make_demonstrations(tmp_path / "demonstrations")
    recipe = sac_recipe(dataset=str(demonstrations.path), priority={"kind": "proportional", "exponent": 1.0})
    loop = build_loop(Run.create(tmp_path / "run", recipe), open_problem(recipe), SilentListener())
    rounds = loop.feed.rounds(2)
    (batch,) = next(rounds).batches
    errors = torch.zeros(1, *batch.reward.shape)
    errors[..., 3] = 1e6
    metrics = {"td_error": errors, "loss": torch.zeros(2)}
    loop.feed.learned([batch], metrics)
    assert metrics.keys() == {"loss"}

    (following,) = next(rounds).batches
    assert batch.index is not None
    assert following.index is not None
    assert following.weight is not None
    assert torch.equal(following.index, batch.index[:, 3:4].expand_as(following.index))


def test_batches_hold_what_the_algorithm_asks_for(tmp_path: Path) -> None:
    values = bc_recipe(make_demonstrations(tmp_path / "data").path, env="none").to_dict()
    held = {}
    for algo in ("td3", "rebrac", "calql"):
        recipe = recipe_from_dict(values | {"algo": algo, "agent": {"hidden": [8]}})
        loop = build_loop(Run.create(tmp_path / algo, recipe), open_problem(recipe), SilentListener())
        batch = next(loop.feed.rounds(1)).batches[0]
        held[algo] = (batch.next_action is not None, batch.return_to_go is not None)
    assert held == {"td3": (False, False), "rebrac": (True, False), "calql": (False, True)}


def test_a_round_is_one_update_of_as_many_batches_as_it_takes(tmp_path: Path) -> None:
    values = bc_recipe(make_demonstrations(tmp_path / "data").path, env="none").to_dict()
    recipe = recipe_from_dict(values | {"algo": "td3", "agent": {"hidden": [8]}})
    feed = build_loop(Run.create(tmp_path / "run", recipe), open_problem(recipe), SilentListener()).feed
    assert isinstance(feed, DatasetFeed)
    assert feed.steps_per_round == 2
    cycles = list(feed.rounds(5))
    assert [len(cycle.batches) for cycle in cycles] == [2] * 5
    assert all(not cycle.critic_only for cycle in cycles)
    drawn = torch.stack([torch.as_tensor(batch.observation) for cycle in cycles for batch in cycle.batches])
    assert len(drawn.unique(dim=0)) == 10


def test_it_goes_on_with_the_next_draws(tmp_path: Path) -> None:
    recipe = bc_recipe(make_demonstrations(tmp_path / "data").path, env="none")
    one, other = (
        build_loop(Run.create(tmp_path / name, recipe), open_problem(recipe), SilentListener()).feed
        for name in ("one", "other")
    )
    list(one.rounds(3))
    other.restore({part: {name: each.clone() for name, each in named.items()} for part, named in one.parts().items()})
    for cycle, again in zip(one.rounds(2), other.rounds(2), strict=True):
        assert torch.equal(torch.as_tensor(cycle.batches[0].observation), torch.as_tensor(again.batches[0].observation))
        assert all(torch.equal(draws, again.noise[name]) for name, draws in cycle.noise.items())


def test_all_that_is_about_own_steps_is_unread(tmp_path: Path) -> None:
    recipe = bc_recipe(tmp_path)
    names, why = feed_of(recipe).unread(recipe)
    assert {"online.capacity", "online.warmup_steps", "online.environments"} <= set(names)
    assert why == "it learns from the dataset alone"


def test_a_dataset_is_needed() -> None:
    with pytest.raises(RecipeError, match="bc learns from a dataset, and none is named"):
        feed_of(recipe_from_dict({"algo": "bc", "env": "CartPole-v1"}))
