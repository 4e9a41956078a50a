"""`offrl recipes`: what is listed and shown, and that it can be read back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from offrl.config.library import RecipeFile, bundled_recipes, find_recipe, matching_recipe, values_for
from offrl.config.recipe import recipe_from_dict
from tests.cli.conftest import Offrl


def test_list_names_each_recipe_with_its_purpose(offrl: Offrl) -> None:
    table, recipes = offrl("recipes", "list").stdout, offrl("recipes", "list", "--json").json["recipes"]
    names = {recipe["name"]: recipe for recipe in recipes}
    assert {"bc/hopper", "td3/hopper"} <= set(names)
    assert all(name in table for name in names)
    assert names["bc/hopper"]["dataset"] == "hopper-expert"
    assert names["td3/hopper"]["env"] == "Hopper-v5"
    assert all(recipe["purpose"] and Path(recipe["path"]).is_file() for recipe in recipes)


@pytest.mark.parametrize("recipe", bundled_recipes(), ids=lambda recipe: recipe.name)
def test_every_bundled_recipe_is_valid_and_shown_with_every_key(offrl: Offrl, recipe: RecipeFile) -> None:
    shown = tomllib.loads(offrl("recipes", "show", recipe.name).stdout)
    assert recipe_from_dict(shown) == recipe_from_dict(recipe.values)
    assert recipe.path.parent.name == recipe.values["algo"]
    learner = shown["agent"].get("generator_options", shown["agent"])
    assert {"learning_rate", "actor_learning_rate"} & (set(shown["agent"]) | set(learner))
    assert shown["data"]["top_fraction"] == 1.0


def test_show_prints_an_algorithm_s_defaults(offrl: Offrl) -> None:
    shown = tomllib.loads(offrl("recipes", "show", "bc").stdout)
    assert recipe_from_dict(shown) == recipe_from_dict({"algo": "bc"})
    as_json = offrl("recipes", "show", "bc", "--json").json
    assert as_json["recipe"] == shown


def test_show_reads_a_file_of_one_s_own(offrl: Offrl, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('algo = "bc"\nsteps = 7\n')
    assert tomllib.loads(offrl("recipes", "show", path).stdout)["steps"] == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("algo = 'bc'\nstepps = 7\n", "unknown key 'stepps'"),
        ("algo = 'bc'\nsteps = 'many'\n", "'steps'"),
        ("algo = 'bc'\n[agent]\nhiden = [1]\n", "unknown key 'agent.hiden'"),
        ("algo = bc\n", "can't be read"),
        ("algo = 'magic'\n", "no algorithm 'magic'"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_by_name(offrl: Offrl, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    result = offrl("recipes", "show", path)
    assert (result.code, result.stdout) == (2, "")
    assert message in result.stderr
    assert str(path) in result.stderr


def test_an_unknown_recipe_is_refused_with_those_there_are(offrl: Offrl) -> None:
    result = offrl("recipes", "show", "bc/hoppper")
    assert result.code == 2
    assert "bc/hopper" in result.stderr.partition("hint")[2]


def test_a_recipe_matches_by_dataset_and_without_one_by_environment() -> None:
    def name(algo: str, dataset: str | None, env: str | None) -> str | None:
        found = matching_recipe(algo, dataset, env)
        return found.name if found else None

    assert name("bc", "hopper-expert", None) == "bc/hopper"
    assert name("bc", "hopper-expert", "Other-v0") == "bc/hopper"
    assert name("bc", None, "Hopper-v5") is None
    assert name("td3", None, "Hopper-v5") == "td3/hopper"
    assert name("td3", "hopper-expert", "Hopper-v5") == "td3/hopper-expert"
    assert name("td3", None, "Unknown-v0") is None
    assert name("td3", None, None) is None


def test_own_steps_mixed_with_data_begin_as_those_without_do_where_no_recipe_mixes() -> None:
    """What keeps an agent near data that it can't add to isn't meant for one that adds to it."""

    def name(algo: str, dataset: str | None, env: str | None, **online: float) -> str | None:
        _, found = values_for(algo, None, {"dataset": dataset, "env": env, "online": online})
        return found.name if found else None

    assert name("sac", "hopper-expert", "Hopper-v5") == "sac/offline"
    assert name("sac", "hopper-expert", "Hopper-v5", offline_fraction=0.5) == "sac/hopper"
    assert name("td3", "hopper-expert", "Unknown-v0", offline_fraction_end=0.5) is None
    assert name("rlpd", "hopper-medium-replay", "Hopper-v5", offline_fraction=0.25) == "rlpd/hopper"
    assert name("rlpd", "hopper-medium-replay", None) == "rlpd/hopper"
    assert name("rlpd", "somebody/s-logs", "Other-v0") == "rlpd/online"
    # Without a dataset it asks for one, and finetune --algo rlpd goes by it.
    assert name("rlpd", None, "Hopper-v5") == "rlpd/online"
    assert name("rlpd", None, None) is None
    assert (
        values_for("sac", None, {"dataset": "some", "env": "Hopper-v5", "online.offline_fraction": 0.5})[1] is not None
    )


@pytest.mark.parametrize(("algo", "option"), [("dqn", "conservative"), ("sac", "bc_alpha"), ("td3", "bc_alpha")])
def test_what_an_algorithm_wants_of_any_dataset_is_a_recipe_without_a_task(algo: str, option: str) -> None:
    found = matching_recipe(algo, "somebody/s-logs", "Hopper-v5")
    assert found is not None
    assert found.name == f"{algo}/offline"
    assert found.values["agent"][option] > 0.0
    assert matching_recipe("bc", "somebody/s-logs", "Hopper-v5") is None


def test_a_path_wins_where_no_bundled_recipe_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bc").mkdir()
    (tmp_path / "bc" / "own.toml").write_text("algo = 'bc'\n")
    assert find_recipe("bc/own.toml").path == Path("bc/own.toml")


TABLE = """
recipe = {steps = 2, seeds = [3], batch_size = 8, evaluation = {every = 0, final_episodes = 1, max_episode_steps = 5}}
algorithms = {clone = {recipe = {algo = "bc", agent = {hidden = [8]}}}}
datasets = [{name = "pendulum-replay", published = {clone = 12.5}}, {name = "d4rl:nothing-v0"}]
"""


def test_a_table_is_run_and_gone_on_with(offrl: Offrl, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TABLE)
    first = offrl("recipes", "run", tmp_path / "mine.toml")
    assert first.code == 0
    assert "12.5" in first.stdout
    assert "Left out: d4rl:nothing-v0" in first.stderr
    again = offrl("recipes", "run", tmp_path / "mine.toml", "--json").json
    assert [(cell["dataset"], cell["published"]) for cell in again["cells"]] == [("pendulum-replay", 12.5)]
    assert again["cells"][0]["run"] == "runs/mine/pendulum-replay/clone"
    assert list(again["left_out"]) == ["d4rl:nothing-v0"]
    other = offrl("recipes", "run", tmp_path / "mine.toml", "--set", "steps=3")
    assert other.code == 2
    assert "another recipe" in other.stderr


def test_a_table_is_not_shown_or_trained_as_a_recipe(offrl: Offrl) -> None:
    shown = offrl("recipes", "show", "tables/d4rl-gym9")
    assert shown.code == 2
    assert "table of many trainings" in shown.stderr
    assert "tables/d4rl-gym9" in offrl("recipes", "show", "tables/d4rl").stderr
