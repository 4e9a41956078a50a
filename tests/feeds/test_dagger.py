"""DAgger's replay holds the expert's actions in the learner's states; what can't be taught is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from offrl.agents.bc import BC, BCConfig
from offrl.config.recipe import Recipe, recipe_from_dict
from offrl.data import schema
from offrl.envs.policy import Policy
from offrl.errors import OffrlError, RecipeError, RequestError, SpaceMismatchError
from offrl.feeds import open_problem
from offrl.feeds.dagger import Teacher
from offrl.feeds.replay import ReplayFeed
from offrl.runs.listener import SilentListener
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.build import build_loop
from offrl.training.run_training import resume, train
from tests.agents.batches import bounded_below
from tests.training.runs import assert_same_tensors, bc_recipe, make_demonstrations


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    """Cloned policies that see the pendulum through a normalizer, by number of seeds."""
    folder = tmp_path_factory.mktemp("experts")
    demonstrations = make_demonstrations(folder / "demonstrations").path
    return {
        count: train(bc_recipe(demonstrations, env="none", seeds=list(range(count))), folder / f"bc-{count}")
        for count in (1, 2, 3)
    }


def dagger_recipe(expert: Run | Path | None, **changes: Any) -> Recipe:
    """240 steps of two environments and two seeds, a checkpoint every 80."""
    values: dict[str, Any] = {
        "algo": "dagger",
        "env": "Pendulum-v1",
        "steps": 240,
        "batch_size": 16,
        "seeds": [4, 5],
        "device": "cpu",
        "checkpoint_every": 80,
        "log_every": 40,
        "agent": {"hidden": [8]},
        "online": {"warmup_steps": 40, "capacity": 400, "environments": 2},
        "evaluation": {"every": 0, "final_episodes": 1},
    }
    if expert is not None:
        values["expert"] = str(expert.path if isinstance(expert, Run) else expert)
    return recipe_from_dict({**values, **changes})


@pytest.mark.parametrize("count", [1, 2])
def test_the_replay_holds_what_the_expert_would_do(count: int, experts: dict[int, Run], tmp_path: Path) -> None:
    recipe = dagger_recipe(experts[count])
    problem = open_problem(recipe)
    feed = build_loop(Run.create(tmp_path / "run", problem.recipe), problem, SilentListener()).feed
    assert isinstance(feed, ReplayFeed)
    taken: list[Any] = []
    step = feed.collector.step
    feed.collector.step = lambda action: (taken.append(action), step(action))[1]  # type: ignore[method-assign]
    feed.at_checkpoint(0)
    list(feed.rounds(60))
    expert, _ = load_policy(experts[count], "last")
    # Rows of two seeds' two environments each, in the order of steps; no episode of 200 steps has ended.
    rows, slices = torch.from_numpy(feed.ring.rows[:, :60]), feed.ring.layout.slices
    shown, told = rows[..., slices["observation"]], rows[..., slices[schema.ACTION]]
    normalizer: Any = expert.normalizer
    by_policy = shown.reshape(count, -1, 3)
    expected = expert.act(normalizer.normalize(by_policy), ())[0].reshape(told.shape)
    torch.testing.assert_close(told, expected)
    acted = torch.stack([torch.as_tensor(action) for action in taken], dim=2).flatten(0, 1)
    # The expert itself acts in the first 40 steps of a seed, 20 of each environment.
    torch.testing.assert_close(acted[:, :20], told[:, :20])
    assert not torch.isclose(acted[:, 20:], told[:, 20:]).all(dim=-1).any()
    feed.close()


def test_training_on_equals_training_through(experts: dict[int, Run], tmp_path: Path) -> None:
    recipe = dagger_recipe(experts[1])
    through = train(recipe, tmp_path / "through")
    train(dataclasses.replace(recipe, steps=80), tmp_path / "halves")
    assert_same_tensors(through, resume(tmp_path / "halves", steps=240))
    assert Path(str(through.recipe.expert)).is_absolute()


def test_the_learner_comes_to_act_like_the_expert(experts: dict[int, Run], tmp_path: Path) -> None:
    recipe = dagger_recipe(experts[1], agent={"hidden": [32, 32], "learning_rate": 3e-3}, steps=800)
    run = train(dataclasses.replace(recipe, batch_size=64), tmp_path / "run")
    losses = [line["imitation_loss"] for line in run.lines("metrics.jsonl") if "imitation_loss" in line]
    assert max(losses[-1]) < 0.2 * min(losses[0])


BAD: dict[str, tuple[Any, type[OffrlError], str]] = {
    "no expert": (lambda experts: dagger_recipe(None), RecipeError, "--expert RUN"),
    "no run": (lambda experts: dagger_recipe(Path("nowhere")), RequestError, "no expert to ask"),
    "another task": (lambda experts: dagger_recipe(experts[1], env="CartPole-v1"), SpaceMismatchError, "CartPole-v1"),
    "too many experts": (lambda experts: dagger_recipe(experts[3]), RecipeError, "3 policies, and there are 2"),
    "other frames": (lambda experts: dagger_recipe(experts[1], data={"frame_stack": 2}), OffrlError, "Pendulum|frame"),
    "no use for one": (lambda experts: dagger_recipe(experts[1], algo="td3"), RecipeError, "leave --expert out"),
    "data": (lambda experts: dagger_recipe(experts[1], dataset="hopper-expert"), RecipeError, "own steps only"),
    "no environment": (lambda experts: dagger_recipe(experts[1], env="none"), RecipeError, "--env"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_taught_is_refused(
    case: tuple[Any, type[OffrlError], str], experts: dict[int, Run], tmp_path: Path
) -> None:
    make, kind, words = case
    with pytest.raises(kind, match=words):
        train(make(experts), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_expert_s_action_is_told_as_the_environment_would_receive_it() -> None:
    """A mean of −3 where actions are 0 and more."""
    agent = BC(BCConfig(hidden=()), bounded_below())
    state = agent.init((0,), torch.device("cpu"))
    with torch.no_grad():
        state.policy.flat.zero_()
        state.policy.layers[-1].bias[..., 0] = -3.0
        state.policy.layers[-1].bias[..., 1] = 2.0
    teacher = Teacher(Policy(agent, state, 1, torch.device("cpu"), None, None))
    assert teacher.act(torch.zeros(1, 1, 3)).tolist() == [[[0.0, 2.0]]]
    assert teacher.told.tolist() == [[0.0, 2.0]]
