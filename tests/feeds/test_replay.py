"""Rounds of own steps and updates: how many each holds, and what they pass on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offrl.config.recipe import OnlineConfig
from offrl.errors import RecipeError
from offrl.feeds import feed_of, open_problem
from offrl.feeds.replay import ReplayFeed, offline_share
from offrl.runs.listener import SilentListener
from offrl.runs.run import Run
from offrl.training.build import build_loop
from offrl.training.run_training import resume, train
from tests.training.runs import assert_same_tensors, make_demonstrations, td3_recipe


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


def test_what_chooses_among_a_dataset_s_episodes_is_unread_without_one(tmp_path: Path) -> None:
    recipe = td3_recipe()
    names, why = feed_of(recipe).unread(recipe)
    assert "data.top_fraction" in names
    assert why == "it learns from its own steps alone"


def test_the_data_s_share_changes_in_a_straight_line() -> None:
    online = OnlineConfig(offline_fraction=0.8, offline_fraction_end=0.2, offline_fraction_steps=100)
    assert [offline_share(online, step) for step in (0, 50, 100, 500)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert offline_share(dataclasses.replace(online, offline_fraction_steps=0), 70) == 0.8


@pytest.mark.parametrize("algo", ["td3", "calql"])
def test_what_is_restored_goes_on_as_what_was_not_stopped(algo: str, tmp_path: Path) -> None:
    """The ring, its draws and the steps taken; environments are reset at every checkpoint."""
    one, other = (_feed(tmp_path / name, 2, 1.0, warmup_steps=10, algo=algo) for name in ("one", "other"))
    one.at_checkpoint(0)
    list(one.rounds(8))
    parts = {part: {name: tensor.clone() for name, tensor in named.items()} for part, named in one.parts().items()}
    assert parts.keys() == {"sampler", "noise", "exploration", "ring"}
    other.restore(parts)
    for feed in (one, other):
        feed.at_checkpoint(16)
    assert other.steps_taken == one.steps_taken == 16
    for cycle, again in zip(one.rounds(6), other.rounds(6), strict=True):
        for batch, twin in zip(cycle.batches, again.batches, strict=True):
            assert torch.equal(torch.as_tensor(batch.observation), torch.as_tensor(twin.observation))
            if batch.return_to_go is not None:
                assert torch.equal(batch.return_to_go, torch.as_tensor(twin.return_to_go))
        assert all(torch.equal(draws, again.noise[name]) for name, draws in cycle.noise.items())
    one.close()
    other.close()


def test_the_replay_holds_what_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an agent samples: the pendulum's torque is clipped to ±2, which is ±1 to agents."""
    feed = _feed(tmp_path, 2, 1.0, warmup_steps=100)
    monkeypatch.setattr(feed, "choose_action", lambda: torch.tensor([[[3.0], [-0.25]]]))
    feed.at_checkpoint(0)
    list(feed.rounds(3))
    actions = feed.ring.layout.value("action", torch.as_tensor(feed.ring.rows))[:, :3, 0]
    assert actions.tolist() == [[1.0] * 3, [-0.25] * 3]
    feed.close()


@pytest.mark.parametrize("normalize", [True, False])
def test_from_nothing_batches_hold_exactly_the_data_s_share_seen_as_own_steps_are(
    normalize: bool, tmp_path: Path
) -> None:
    """Demonstrations are worth the number of their episode, the steps of a pendulum less than nothing."""
    data = make_demonstrations(tmp_path / "data")
    changes: dict[str, Any] = {"dataset": str(data.path), "data": {"normalize_observation": normalize}}
    online = {"warmup_steps": 6, "capacity": 100, "environments": 2, "offline_fraction": 0.25}
    recipe = td3_recipe(online=online, **changes)
    loop = build_loop(Run.create(tmp_path / "run", recipe), open_problem(recipe), SilentListener())
    feed, normalizer = loop.feed, loop.policy.normalizer
    assert isinstance(feed, ReplayFeed)
    feed.at_checkpoint(0)
    batches = [batch for cycle in feed.rounds(20) for batch in cycle.batches]
    assert batches
    assert all((batch.reward >= 0).sum(dim=1).tolist() == [4, 4] for batch in batches)
    assert (normalizer is not None) is normalize
    rows = torch.from_numpy(data.gather_columns(["observation"], np.arange(data.num_rows))["observation"])
    shown = rows if normalizer is None else torch.as_tensor(normalizer.normalize(rows))
    known = {tuple(row) for row in shown.round(decimals=4).tolist()}
    for batch in batches:
        seen = torch.as_tensor(batch.observation).round(decimals=4)
        assert all(tuple(row) in known for row in seen[batch.reward >= 0].tolist())
    # Own steps come the same way: as the environment shows them they lie on the unit circle.
    own = torch.cat([torch.as_tensor(batch.observation)[batch.reward < 0] for batch in batches])
    raw = own
    if normalizer is not None:
        raw = own * torch.from_numpy(normalizer.std[""] + normalizer.eps) + torch.from_numpy(normalizer.mean[""])
    torch.testing.assert_close(raw[:, 0] ** 2 + raw[:, 1] ** 2, torch.ones(len(raw)), rtol=0.0, atol=1e-4)
    feed.close()


def test_a_run_on_data_and_own_steps_from_nothing_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    data = make_demonstrations(tmp_path / "data")
    recipe = td3_recipe(
        algo="rlpd",
        dataset=str(data.path),
        agent={"hidden": [8], "critics": 3, "policy_delay": 2},
        online={"warmup_steps": 20, "capacity": 100, "offline_fraction": 0.5, "updates_per_step": 2.0},
        steps=60,
        checkpoint_every=20,
        evaluation={"every": 0, "final_episodes": 1},
    )
    through = train(recipe, tmp_path / "through")
    train(dataclasses.replace(recipe, steps=40), tmp_path / "halves")
    assert_same_tensors(through, resume(tmp_path / "halves", steps=60))


def test_a_dataset_without_a_share_of_the_batches_is_asked_about(tmp_path: Path) -> None:
    recipe = td3_recipe(algo="rlpd", dataset=str(tmp_path), agent={})
    with pytest.raises(RecipeError, match="batches are to hold nothing of it") as raised:
        feed_of(recipe)
    assert "online.offline_fraction=0.5" in raised.value.hint
    mixed = {"online": {"offline_fraction": 0.5}}
    assert feed_of(td3_recipe(dataset=str(tmp_path), **mixed)) is ReplayFeed
    assert feed_of(td3_recipe(dataset=str(tmp_path))) is not ReplayFeed
    for algo in ("bc", "ppo"):
        with pytest.raises(RecipeError) as raised:
            feed_of(td3_recipe(algo=algo, dataset=None if algo == "ppo" else str(tmp_path), agent={}, **mixed))
        assert f"{algo} has no batches of data and own steps together" in str(raised.value)
        assert "rlpd, sac, td3" in raised.value.hint


def test_batches_of_own_steps_hold_what_the_algorithm_asks_for(tmp_path: Path) -> None:
    """Episodes of the pendulum last 200 steps: of the first ones nothing is known, until a checkpoint cuts them."""
    recipe = td3_recipe(algo="calql", seeds=[0], data={"reward_scale": 0.5}, online={"warmup_steps": 20})
    feed = build_loop(Run.create(tmp_path / "run", recipe), open_problem(recipe), SilentListener()).feed
    assert isinstance(feed, ReplayFeed)
    feed.at_checkpoint(0)
    *_, cycle = feed.rounds(60)
    (batch,) = cycle.batches
    assert batch.next_action is None
    assert torch.as_tensor(batch.return_to_go).isneginf().all()
    feed.at_checkpoint(60)
    rewards = feed.ring.layout.value("reward", torch.as_tensor(feed.ring.rows))[0, :60]
    expected = sum(0.99**step * reward for step, reward in enumerate(rewards.tolist()))
    returns = feed.ring.layout.value("return_to_go", torch.as_tensor(feed.ring.rows))[0, :60]
    assert returns[0].item() == pytest.approx(expected, rel=1e-4)
    assert returns[-1].item() == pytest.approx(rewards[-1].item())
    feed.close()


def _feed(path: Path, environments: int, updates_per_step: float, warmup_steps: int, algo: str = "td3") -> ReplayFeed:
    recipe = td3_recipe(seeds=[0], algo=algo)
    online = dataclasses.replace(
        recipe.online, environments=environments, updates_per_step=updates_per_step, warmup_steps=warmup_steps
    )
    recipe = dataclasses.replace(recipe, online=online)
    loop = build_loop(Run.create(path / "run", recipe), open_problem(recipe), SilentListener())
    assert isinstance(loop.feed, ReplayFeed)
    return loop.feed
