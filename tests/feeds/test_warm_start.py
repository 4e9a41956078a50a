"""Going on from another run: from which, with what, and what is handed over."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from offrl import plugins
from offrl.config.recipe import Recipe, recipe_from_dict
from offrl.errors import RecipeError, RequestError
from offrl.feeds import open_problem
from offrl.feeds.warm_start import (
    begun_from,
    check_fine_tuning,
    fine_tuning_problem,
    goes_online,
    mixes,
    starting_point,
    successors,
    take_over,
)
from offrl.nn.state import state_tensors
from offrl.runs.load import fresh_policy, load_policy
from offrl.runs.run import Run
from offrl.training.run_training import train
from tests.training.runs import bc_recipe, make_demonstrations

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demonstrations(tmp_path_factory.mktemp("data") / "demonstrations").path


@pytest.fixture(scope="module")
def pretrained(demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """TD3 of two seeds on a dataset."""
    values = bc_recipe(demonstrations, steps=40, env="none").to_dict()
    recipe = recipe_from_dict(values | {"algo": "td3", "agent": {"hidden": [16, 16]}})
    return train(recipe, tmp_path_factory.mktemp("pretrained") / "run")


@pytest.fixture(scope="module")
def cloned(demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A clone with early stopping, which reports its best policies."""
    recipe = bc_recipe(demonstrations, steps=80, env="none", early_stopping={"every": 20, "patience": 9})
    return train(recipe, tmp_path_factory.mktemp("cloned") / "run")


def going_on(run: Run, algo: str | None = None, **changes: Any) -> Recipe:
    """A recipe that goes on in the pendulum."""
    source = run.recipe
    values = {
        "algo": algo or source.algo,
        "seeds": list(source.seeds),
        "env": "Pendulum-v1",
        "dataset": source.dataset,
        "start": str(run.path),
        "device": "cpu",
        "agent": {"hidden": [16, 16]},
        "online": {"critic_warmup": 0, "offline_fraction": 0.0},
    }
    return recipe_from_dict({**values, **changes})


def test_who_learns_online_and_from_data_beside() -> None:
    online = {name for name in plugins.algorithms if goes_online(plugins.algorithms[name])}
    alone = {"dataset", "table", "windows"}
    assert online == {name for name in plugins.algorithms if not set(plugins.algorithms[name].feeds) <= alone}
    mixing = {name for name in plugins.algorithms if mixes(plugins.algorithms[name])}
    assert mixing == {name for name in plugins.algorithms if "replay" in plugins.algorithms[name].feeds}
    assert mixing >= {"dqn", "iql", "sac", "td3"}


def test_the_checkpoint_that_training_reported_is_the_start(pretrained: Run, cloned: Run, tmp_path: Path) -> None:
    assert starting_point(pretrained.path)[1] == "last"
    assert starting_point(cloned.path)[1] == "best"
    assert starting_point(cloned.path, "last")[1] == "last"
    with pytest.raises(RequestError, match="no policy to fine-tune: the run has no 'best' checkpoint"):
        starting_point(pretrained.path, "best")
    with pytest.raises(RequestError, match="no policy to fine-tune: there is no run"):
        starting_point(tmp_path / "nowhere")
    for asked, kind in ((None, "best"), ("best", "best"), ("last", "last")):
        recipe, origin = begun_from(going_on(cloned, "td3", start_checkpoint=asked), cloned.path)
        assert (recipe.start_checkpoint, origin) == (kind, cloned.checkpoint(kind))


def test_a_started_run_needs_no_more_of_what_it_started_from(pretrained: Run, tmp_path: Path) -> None:
    recipe = dataclasses.replace(going_on(pretrained), start=str(tmp_path / "gone"))
    with pytest.raises(RequestError, match="no policy to fine-tune"):
        fine_tuning_problem(recipe, None)
    problem = fine_tuning_problem(recipe, pretrained.checkpoint("last"))
    assert problem.origin == pretrained.checkpoint("last")
    assert open_problem(recipe, pretrained.checkpoint("last")).origin == problem.origin


def test_the_problem_is_the_environment_and_the_data_that_is_mixed_in(pretrained: Run) -> None:
    alone = fine_tuning_problem(going_on(pretrained), None)
    assert alone.data is None
    assert alone.dataset_facts["dataset"] == pretrained.recipe.dataset
    mixed = fine_tuning_problem(
        going_on(pretrained, online={"offline_fraction": 0.5}, data={"top_fraction": 0.5}), None
    )
    assert mixed.data is not None
    assert mixed.data.num_episodes == 4
    annealed = {"offline_fraction": 0.0, "offline_fraction_end": 0.5, "offline_fraction_steps": 10}
    assert fine_tuning_problem(going_on(pretrained, online=annealed), None).data is not None
    with pytest.raises(RecipeError, match="needs an environment"):
        fine_tuning_problem(going_on(pretrained, env="none"), None)


@pytest.mark.parametrize(
    ("algo", "changes", "words"),
    [
        ("sac", {}, "sac can't start from a policy that td3 trained"),
        ("td3", {"seeds": [0]}, r"seeds \[0, 1\], the recipe \[0\]"),
        ("td3", {"data": {"normalize_observation": False}}, "data.normalize_observation=true"),
        ("td3", {"data": {"frame_stack": 2}}, "see 1 observations at once, and the recipe says 2"),
    ],
)
def test_what_does_not_go_on_is_told_why(algo: str, changes: dict[str, Any], words: str, pretrained: Run) -> None:
    with pytest.raises(RecipeError, match=words):
        check_fine_tuning(going_on(pretrained, algo, **changes), pretrained.recipe)
    check_fine_tuning(going_on(pretrained), pretrained.recipe)


def test_what_can_go_on_is_named(pretrained: Run, cloned: Run) -> None:
    able = set(successors(cloned.recipe).partition("with --algo: ")[2].split(", "))
    assert able >= {"iql", "ppo", "sac", "td3"}
    assert not able & {"bc", "dqn", "gail", "irl"}
    assert successors(pretrained.recipe).startswith("leave --algo out to go on with td3")
    assert successors(recipe_from_dict({"algo": "irl"})).startswith("name a run that can go on")
    with pytest.raises(RecipeError, match="bc learns from a dataset only, so it can't go on online") as raised:
        open_problem(going_on(cloned, "bc", agent={}))
    assert raised.value.hint == successors(cloned.recipe)


def fresh(recipe: Recipe) -> Any:
    """Policies at step 0, and their problem."""
    problem = open_problem(recipe)
    return fresh_policy(problem.algorithm, problem.agent, problem.recipe, CPU, None), problem


def test_the_same_algorithm_takes_over_all_of_the_state(pretrained: Run) -> None:
    policy, problem = fresh(going_on(pretrained))
    take_over(policy, problem)
    source = state_tensors(load_policy(pretrained, "last")[0].state)
    taken = state_tensors(policy.state)
    assert taken.keys() == source.keys()
    assert all(torch.equal(tensor, source[name]) for name, tensor in taken.items())


@pytest.mark.parametrize("algo", ["ppo", "sac", "td3"])
def test_another_algorithm_takes_over_the_cloned_policy(algo: str, cloned: Run) -> None:
    agent = {"hidden": [16, 16], **({"policy": "squashed_gaussian", "activation": "relu"} if algo == "ppo" else {})}
    policy, problem = fresh(going_on(cloned, algo, agent=agent))
    before = {name: tensor.clone() for name, tensor in state_tensors(policy.state).items()}
    take_over(policy, problem)
    clone, _ = load_policy(cloned, "best")
    shown = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, _ = clone.agent.act(clone.state, shown, ())
        found, _ = policy.agent.act(policy.state, shown, policy.initial_carry(5))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    # Its critics are fresh.
    changed = {name for name, tensor in state_tensors(policy.state).items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not any(name.startswith(("critic", "value", "target_critic")) for name in changed)


def test_options_that_do_not_fit_change_nothing(pretrained: Run) -> None:
    policy, problem = fresh(going_on(pretrained, agent={"hidden": [8]}))
    before = {name: tensor.clone() for name, tensor in state_tensors(policy.state).items()}
    with pytest.raises(RecipeError, match="options don't fit the networks"):
        take_over(policy, problem)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_tensors(policy.state).items())
