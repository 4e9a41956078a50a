"""Rollouts: one update from the newest steps of every environment, and what is cut where checkpoints are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from offrl.config.recipe import recipe_from_dict
from offrl.feeds import feed_of, open_problem
from offrl.feeds.rollouts import RolloutsFeed
from offrl.runs.listener import SilentListener
from offrl.runs.run import Run
from offrl.training.build import build_loop
from tests.training.runs import make_demonstrations, td3_recipe


def ppo_recipe(**agent: Any) -> Any:
    """Two environments for each of two seeds, twenty steps of each for an update."""
    options: dict[str, Any] = {"rollout_steps": 20, "hidden": [8], **agent}
    return recipe_from_dict(td3_recipe().to_dict() | {"algo": "ppo", "agent": options})


def test_a_round_is_a_rollout_and_an_update_from_all_of_it(tmp_path: Path) -> None:
    recipe = ppo_recipe()
    recipe = dataclasses.replace(recipe, online=dataclasses.replace(recipe.online, critic_warmup=50))
    feed = build_loop(Run.create(tmp_path / "run", recipe), open_problem(recipe), SilentListener()).feed
    assert isinstance(feed, RolloutsFeed)
    assert feed.steps_per_round == 40
    feed.at_checkpoint(0)
    cycles = list(feed.rounds(3))
    assert [[tuple(batch.reward.shape) for batch in cycle.batches] for cycle in cycles] == [[(2, 2, 20)]] * 3
    # The critics alone learn until fifty steps are taken: from those of the first two rollouts.
    assert [cycle.critic_only for cycle in cycles] == [True, True, False]
    first, second, _ = (torch.as_tensor(cycle.batches[0].observation) for cycle in cycles)
    assert not torch.equal(first, second)
    feed.close()


@pytest.mark.parametrize(("agent", "rows"), [({"minibatch_size": 6}, 6), ({"minibatch_size": 4_096}, 4_096)])
def test_a_gradient_step_takes_a_minibatch(agent: dict[str, Any], rows: int) -> None:
    recipe = ppo_recipe(**agent)
    assert feed_of(recipe).gradient_rows(recipe) == rows
    imitating = recipe_from_dict(
        {"algo": "gail", "dataset": "d", "env": "e", "agent": {"generator": "ppo", "generator_options": agent}}
    )
    assert feed_of(imitating).gradient_rows(imitating) == rows


def test_what_only_a_replay_reads_is_unread() -> None:
    recipe = ppo_recipe()
    names, why = feed_of(recipe).unread(recipe)
    assert "online.capacity" in names
    assert "rollout_steps" in why


@pytest.mark.parametrize("wrapped", [False, True])
def test_no_return_goes_on_where_a_checkpoint_cuts_the_episodes(wrapped: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"rollout_steps": 20, "scale_reward": True, "hidden": [8]}
    values = td3_recipe(seeds=[0]).to_dict() | {"algo": "ppo", "agent": options}
    if wrapped:
        data = str(make_demonstrations(tmp_path / "demonstrations").path)
        values |= {"algo": "gail", "agent": {"generator": "ppo", "generator_options": options}, "dataset": data}
    recipe = recipe_from_dict(values)
    loop = build_loop(Run.create(tmp_path / "run", recipe), open_problem(recipe), SilentListener())
    state: Any = loop.policy.state
    loop.feed.at_checkpoint(0)
    for cycle in loop.feed.rounds(1):
        loop.policy.agent.update(loop.policy.state, cycle.batches, cycle.noise)
    carry = (state.generator if wrapped else state).return_carry
    assert carry.abs().min() > 0.0
    loop.feed.at_checkpoint(20)
    assert carry.eq(0.0).all()
    loop.feed.close()
