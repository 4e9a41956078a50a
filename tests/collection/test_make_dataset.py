"""Datasets made by their recipes: from random actions, a training's policy and replay, and other datasets."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offrl.collection.make_dataset import Maker
from offrl.config import library as recipe_catalog
from offrl.config.toml import write_toml
from offrl.converters import catalog
from offrl.converters.catalog import local_path, open_dataset
from offrl.converters.listing import list_datasets
from offrl.data.store import TrajectoryStore
from offrl.data.validate import validate
from offrl.errors import DatasetNotFoundError, RecipeError, RequestError
from offrl.files import home
from offrl.runs.listener import SilentListener
from offrl.runs.run import Run
from offrl.training.loop import Interrupted
from tests.training.runs import td3_recipe

RANDOM = {"kind": "random", "env": "Pendulum-v1", "episodes": 2}


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offrl.collection.make_dataset.REFERENCE_EPISODES", 4)


@pytest.fixture
def training(tmp_path: Path) -> dict[str, Any]:
    """The `training` of a dataset's recipe: one seed of TD3 for 240 steps."""
    values = td3_recipe(seeds=[0]).to_dict()
    (tmp_path / "td3.toml").write_text(write_toml(values))
    return {"recipe": str(tmp_path / "td3.toml")}


def write_recipe(folder: Path, name: str, sources: list[dict[str, Any]], **more: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(f"# About {name}.\n" + write_toml({**more, "sources": sources}))
    return str(path)


def columns(store: TrajectoryStore) -> dict[str, Any]:
    return {name: store.read(name, 0, store.num_rows) for name in store.column_names}


def assert_same_data(one: TrajectoryStore, other: TrajectoryStore) -> None:
    assert one.column_names == other.column_names
    for name, values in columns(one).items():
        np.testing.assert_array_equal(values, other.read(name, 0, other.num_rows))


def test_random_episodes_become_a_local_dataset_with_a_card(tmp_path: Path) -> None:
    report = Maker().make(write_recipe(tmp_path, "mine", [RANDOM], license="MIT"))

    store = open_dataset("mine")
    assert (store.path, store.num_episodes, store.num_steps) == (local_path("mine"), 2, 400)
    assert store.metadata.environment == "Pendulum-v1"
    assert store.read("behavior_log_prob", 0, 1) == pytest.approx(np.log(1 / 4))
    assert validate(store) == []
    assert (report["path"], report["episodes"], report["steps"]) == (str(store.path), 2, 400)
    (entry,) = (entry for entry in list_datasets() if entry.kind == "local")
    assert entry.card["description"] == "About mine."
    assert entry.card["license"] == "MIT"
    assert entry.card["data"]["mean_return"] == pytest.approx(report["mean_return"], rel=1e-5)
    assert report["mean_return"] == pytest.approx(store.episodes.return_.mean())
    assert [path.name for path in home().iterdir()] == ["stores"]


def test_parquet_and_card_say_how_the_data_came_about(tmp_path: Path, training: dict[str, Any]) -> None:
    sources = [{"kind": "policy", "episodes": 2, "seed": 5}]
    recipe = write_recipe(tmp_path, "clone", sources, training=training, references="measured")
    report = Maker().make(recipe, tmp_path / "parquet")

    assert not local_path("clone").exists()
    store = open_dataset(tmp_path / "parquet")
    card = tomllib.loads((tmp_path / "parquet" / "card.toml").read_text())
    assert (card["name"], card["description"]) == ("clone", "About clone.")
    assert card["data"] == {
        "episodes": store.num_episodes,
        "steps": store.num_steps,
        "mean_return": pytest.approx(store.episodes.return_.mean(), rel=1e-5),
        "least_return": pytest.approx(store.episodes.return_.min(), rel=1e-5),
        "greatest_return": pytest.approx(store.episodes.return_.max(), rel=1e-5),
    }
    assert card["scores"] == store.metadata.reference_scores == report["reference_scores"]
    assert card["scores"]["expert"] == pytest.approx(card["training"]["mean_return"], rel=1e-5)
    assert -2_000 < card["scores"]["random"] < -500
    assert (card["training"]["step"], card["training"]["seeds"], card["training"]["set"]) == (240, [0], [])
    assert (card["sources"][0]["seed"], card["sources"][0]["steps"]) == (5, 400)
    assert card["made"]["versions"]["gymnasium"]
    made = {key: card[key] for key in ("training", "sources")} | card["made"]
    assert store.metadata.provenance == made


def test_policy_and_replay_come_from_one_training(tmp_path: Path, training: dict[str, Any]) -> None:
    told: list[str] = []
    policy = write_recipe(tmp_path, "policy", [{"kind": "policy", "episodes": 1}], training=training)
    replay = write_recipe(tmp_path, "replay", [{"kind": "replay"}], training=training)
    for recipe in (policy, replay):
        Maker(tell=told.append).make(recipe)

    assert len([text for text in told if text.startswith("Training")]) == 1
    store = open_dataset("replay")
    assert store.num_steps == 240
    assert set(store.episodes.sources.to_pylist()) == {f"online, seed 0, environment {i}" for i in range(2)}
    assert open_dataset("policy").num_steps == 200


def test_a_training_that_differs_in_a_setting_is_another_one(tmp_path: Path, training: dict[str, Any]) -> None:
    for name, settings in (("long", []), ("short", ["steps=160"])):
        changed = {**training, "set": settings}
        Maker().make(write_recipe(tmp_path, name, [{"kind": "replay"}], training=changed))
    assert [open_dataset(name).num_steps for name in ("long", "short")] == [240, 160]


def test_an_interrupted_training_goes_on_to_the_same_data(tmp_path: Path, training: dict[str, Any]) -> None:
    class Impatient(SilentListener):
        def progress(self, step: int, steps: int, metrics: dict[str, list[float | None]]) -> None:
            if step >= 120:
                raise Interrupted(step)

    sources = [{"kind": "policy", "episodes": 1, "stochastic": True}, {"kind": "replay"}]
    recipe = write_recipe(tmp_path, "late", sources, training=training)
    with pytest.raises(Interrupted):
        Maker(Impatient()).make(recipe)
    assert not local_path("late").exists()
    told: list[str] = []
    Maker(tell=told.append).make(recipe)
    assert told[0].startswith("Going on")
    late = open_dataset("late")

    (run,) = (home() / "trainings").iterdir()
    run.rename(tmp_path / "elsewhere")
    Maker().make(recipe, tmp_path / "through")
    assert_same_data(late, open_dataset(tmp_path / "through"))
    assert Run.open(tmp_path / "elsewhere").recipe.online.record


def test_a_mixture_names_its_datasets_and_keeps_what_all_of_them_log(tmp_path: Path, training: dict[str, Any]) -> None:
    Maker().make(write_recipe(tmp_path, "random", [RANDOM]))
    Maker().make(write_recipe(tmp_path, "replay", [{"kind": "replay"}], training=training))
    mixture = [{"kind": "dataset", "name": name} for name in ("random", "replay")]
    Maker().make(write_recipe(tmp_path, "both", mixture))

    both, random, replay = (open_dataset(name) for name in ("both", "random", "replay"))
    assert both.num_steps == random.num_steps + replay.num_steps
    assert both.episodes.sources.to_pylist()[:3] == ["random#0", "random#1", "replay#0"]
    assert set(random.column_names) - set(both.column_names) == {"behavior_log_prob"}
    whole = [columns(random)["action"], columns(replay)["action"]]
    np.testing.assert_array_equal(columns(both)["action"], np.concatenate(whole))
    made = both.metadata.provenance["sources"]
    assert [(source["name"], source["fingerprint"]) for source in made] == [
        ("random", random.fingerprint),
        ("replay", replay.fingerprint),
    ]


def test_datasets_that_a_recipe_names_are_made_first(
    tmp_path: Path, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes, policy = tmp_path / "package" / "recipes" / "datasets", {"kind": "policy", "episodes": 1}
    write_recipe(recipes, "toy-expert", [policy], training=training, references="measured")
    write_recipe(recipes, "toy-random", [RANDOM], references="toy-expert")
    write_recipe(recipes, "toy-both", [{"kind": "dataset", "name": "toy-random"}], references="toy-expert")
    for module in (recipe_catalog, catalog):
        monkeypatch.setattr(module, "bundled_root", lambda: tmp_path / "package")
    with pytest.raises(DatasetNotFoundError, match="offrl datasets make toy-random"):
        open_dataset("toy-random")
    told: list[str] = []
    Maker(tell=told.append).make("toy-both")

    assert [text for text in told if "first" in text] == ["Making toy-random first", "Making toy-expert first"]
    scores = [open_dataset(f"toy-{kind}").metadata.reference_scores for kind in ("both", "random", "expert")]
    assert scores[0] == scores[1] == scores[2]
    assert scores[0]["measured_on"] == "Pendulum-v1, 4 episodes each"


def test_a_dataset_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "mine", [RANDOM])
    Maker().make(recipe)
    Maker().make(recipe, tmp_path / "out")
    for out in (None, tmp_path / "out"):
        with pytest.raises(RequestError, match="the destination exists"):
            Maker().make(recipe, out)


@pytest.mark.parametrize(
    ("sources", "error", "words"),
    [
        ([{"kind": "dataset", "name": "nosuch"}], DatasetNotFoundError, "nosuch"),
        ([RANDOM, {**RANDOM, "env": "CartPole-v1"}], RecipeError, "of Pendulum-v1 and of CartPole-v1"),
        ([{**RANDOM, "env": "NoSuch-v0"}], RequestError, "NoSuch-v0"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    tmp_path: Path, sources: list[dict[str, Any]], error: type[Exception], words: str
) -> None:
    recipe = write_recipe(tmp_path, "wrong", sources)
    with pytest.raises(error, match=words):
        Maker().make(recipe)
    assert [path.name for path in home().rglob("*")] == ["stores"]


def test_a_wrong_name_is_noticed_before_anything_is_trained(tmp_path: Path, training: dict[str, Any]) -> None:
    recipe = write_recipe(tmp_path, "wrong", [{"kind": "replay"}], training=training, references="nosuch")
    told: list[str] = []
    with pytest.raises(DatasetNotFoundError, match="nosuch"):
        Maker(tell=told.append).make(recipe)
    assert told == []


def test_a_training_on_a_dataset_has_no_replay(tmp_path: Path) -> None:
    (tmp_path / "bc.toml").write_text('algo = "bc"\ndataset = "somewhere"\n')
    recipe = write_recipe(tmp_path, "wrong", [{"kind": "replay"}], training={"recipe": str(tmp_path / "bc.toml")})
    with pytest.raises(RecipeError, match="leaves no replay"):
        Maker().make(recipe)
