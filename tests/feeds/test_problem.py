"""What a recipe's names stand for, and which data can't be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offrl.config.recipe import recipe_from_dict
from offrl.data.store import StoreWriter, TrajectoryStore
from offrl.data.validate import TOO_LARGE, validate
from offrl.errors import DataError, RecipeError
from offrl.feeds import feed_of, open_problem
from offrl.feeds.dagger import DaggerFeed
from offrl.feeds.dataset import DatasetFeed
from offrl.feeds.demonstrations import DemonstrationsFeed
from offrl.feeds.problem import open_finite
from offrl.feeds.replay import ReplayFeed
from offrl.feeds.rollouts import RolloutsFeed
from offrl.feeds.table import TableFeed
from offrl.plugins import algorithms
from tests.data.stores import SPEC, make_block
from tests.training.runs import bc_recipe, make_demonstrations


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("column", "row"), [("observation", 1), ("observation", 3), ("action", 5), ("reward", 5)])
def test_data_that_are_not_finite_are_refused(tmp_path: Path, column: str, row: int, value: float) -> None:
    block = make_block([3, 4])  # row 3 holds the final observation of an episode
    block.columns[column][row] = value
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(block)
    with pytest.raises(DataError, match=f"'{column}' of the dataset") as raised:
        open_problem(bc_recipe(tmp_path / "s", env="none"))
    assert f"offrl datasets validate {tmp_path / 's'}" in raised.value.hint


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s", SPEC).close()
    with pytest.raises(DataError, match="has no episodes"):
        open_problem(bc_recipe(tmp_path / "s", env="none"))


def test_the_agent_is_built_once(tmp_path: Path) -> None:
    """Looking whether it can be built is building it."""
    problem = open_problem(bc_recipe(make_demonstrations(tmp_path / "s").path, env="none"))
    assert problem.agent is problem.agent
    assert problem.algorithm is algorithms["bc"]
    assert problem.learner is problem.algorithm
    assert problem.learner_options is problem.recipe.agent


def test_what_is_held_is_what_learns(tmp_path: Path) -> None:
    data = make_demonstrations(tmp_path / "s").path
    agent = {"generator": "td3", "generator_options": {"hidden": [8]}}
    problem = open_problem(recipe_from_dict({"algo": "gail", "dataset": str(data), "agent": agent}))
    assert problem.learner is algorithms["td3"]
    assert problem.learner_options.hidden == (8,)
    assert problem.recipe.env == "Pendulum-v1"


def test_episodes_are_chosen_by_return_and_number(tmp_path: Path) -> None:
    """Episode i of eight has a reward of i in every step."""
    data = make_demonstrations(tmp_path / "s").path

    def returns(**options: Any) -> list[float]:
        problem = open_problem(bc_recipe(data, env="none", data=options))
        assert problem.data is not None
        found: list[float] = problem.data.episodes.return_.tolist()
        return found

    assert returns() == [50.0 * i for i in range(8)]
    assert returns(top_fraction=0.5) == [200.0, 250.0, 300.0, 350.0]
    assert returns(top_fraction=0.5, episodes=2) == [200.0, 250.0]
    with pytest.raises(RecipeError, match=r"4 episodes to choose from.*5 are asked for"):
        returns(top_fraction=0.5, episodes=5)


def test_the_recipe_has_the_environment_of_its_data_and_names_it_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_demonstrations(tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    problem = open_problem(bc_recipe(Path("./s")))
    assert (problem.recipe.env, problem.recipe.dataset) == ("Pendulum-v1", str(tmp_path / "s"))
    assert open_problem(bc_recipe(tmp_path / "s", env="none")).recipe.env == "none"
    assert problem.dataset_facts["dataset"] == str(tmp_path / "s")


@pytest.mark.parametrize("algo", sorted(set(algorithms) - {"dagger"}))
def test_an_expert_is_for_those_who_ask_one(algo: str) -> None:
    recipe = recipe_from_dict({"algo": algo, "env": "CartPole-v1", "dataset": "d", "expert": "run"})
    with pytest.raises(RecipeError, match=f"{algo} has no use for an expert"):
        feed_of(recipe)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"algo": "td3", "dataset": "d"}, DatasetFeed),
        ({"algo": "td3", "env": "e"}, ReplayFeed),
        ({"algo": "td3", "env": "e", "dataset": "d"}, DatasetFeed),
        ({"algo": "td3", "env": "e", "dataset": "d", "start": "run"}, ReplayFeed),
        ({"algo": "ppo", "env": "e"}, RolloutsFeed),
        ({"algo": "gail", "env": "e", "dataset": "d"}, DemonstrationsFeed),
        ({"algo": "irl", "env": "e", "dataset": "d"}, TableFeed),
        ({"algo": "dagger", "env": "e", "expert": "run"}, DaggerFeed),
    ],
)
def test_the_first_feed_that_suits_a_recipe_is_taken(values: dict[str, Any], kind: type[Any]) -> None:
    assert feed_of(recipe_from_dict(values)) is kind


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        ("reward", 1e308, "reward"),
        ("reward", -1e39, "reward"),
        ("reward", 2e38, "the return, "),
        ("observation", 1e300, "observation"),
    ],
)
def test_what_single_precision_has_no_number_for_is_refused_in_the_words_of_validation(
    column: str, value: float, named: str, tmp_path: Path
) -> None:
    """Rewards of 1e308 add up to infinity, and each of them is infinity to whatever learns."""
    block = make_block([3, 4])
    block.columns["observation"] = block.columns["observation"].astype(np.float64)
    block.columns[column][:3] = value
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(block)
    with pytest.raises(DataError) as caught:
        open_finite(str(tmp_path / "s"))
    assert TOO_LARGE in caught.value.what
    assert named in caught.value.what
    found = {
        finding.message for finding in validate(TrajectoryStore.open(tmp_path / "s")) if finding.code == "overflow"
    }
    assert found
    assert all(TOO_LARGE in message for message in found)
    if named.startswith("the return"):
        assert {message.split(",")[0] for message in found} == {"the return"}
