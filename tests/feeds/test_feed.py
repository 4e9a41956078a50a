"""Rounds of updates: how many environment steps and updates each holds, and what they pass on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from offrl.config.recipe import recipe_from_dict
from offrl.errors import RecipeError
from offrl.feeds import open_problem
from offrl.feeds.replay import ReplayFeed
from offrl.runs.listener import SilentListener
from offrl.runs.run import Run
from offrl.training.build import build_loop
from offrl.training.run_training import train
from tests.training.runs import make_demonstrations, sac_recipe, td3_recipe


@pytest.mark.parametrize(
    ("environments", "updates_per_step", "vector_steps", "updates"),
    [(1, 1.0, 2, 1), (2, 1.0, 1, 1), (4, 1.0, 1, 2), (1, 0.5, 4, 1), (3, 1.0, 2, 3), (1, 4.0, 1, 2)],
)
def test_a_round_keeps_the_ratio_of_updates_to_steps(
    environments: int, updates_per_step: float, vector_steps: int, updates: int, tmp_path: Path
) -> None:
    """TD3 takes two gradient steps per update: 2 · updates = updates_per_step · vector_steps · environments."""
    feed = _feed(tmp_path, environments, updates_per_step, warmup_steps=0)

    assert (feed.vector_steps, feed.updates) == (vector_steps, updates)
    feed.at_checkpoint(0)
    cycles = list(feed.rounds(3))
    assert len(cycles) == 3 * updates
    assert int(feed.steps_taken) == 3 * feed.steps_per_round == 3 * vector_steps * environments
    assert all(len(cycle.batches) == 2 and not cycle.critic_only for cycle in cycles)


def test_the_warm_up_collects_without_learning(tmp_path: Path) -> None:
    feed = _feed(tmp_path, environments=1, updates_per_step=1.0, warmup_steps=7)
    feed.at_checkpoint(0)

    assert [len(list(feed.rounds(1))) for _ in range(5)] == [0, 0, 0, 1, 1]
    actions = feed.ring.rows[0, :6, 3]
    assert (abs(actions) < 1.0).all()
    assert actions.std() > 0.1


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


def test_priorities_need_an_algorithm_that_tells_its_errors(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="td3 has no TD errors to draw by"):
        train(td3_recipe(priority={"kind": "rank"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


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


def _feed(path: Path, environments: int, updates_per_step: float, warmup_steps: int) -> ReplayFeed:
    recipe = td3_recipe(seeds=[0])
    online = dataclasses.replace(
        recipe.online, environments=environments, updates_per_step=updates_per_step, warmup_steps=warmup_steps
    )
    recipe = dataclasses.replace(recipe, online=online)
    loop = build_loop(Run.create(path / "run", recipe), open_problem(recipe), SilentListener())
    assert isinstance(loop.feed, ReplayFeed)
    return loop.feed
