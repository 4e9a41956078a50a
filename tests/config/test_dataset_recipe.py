"""Recipes of datasets: what they may say, and that the bundled ones name things that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offrl.config.dataset_recipe import (
    MEASURED,
    DatasetRecipe,
    DatasetSource,
    PolicySource,
    RandomSource,
    ReplaySource,
    Training,
    dataset_recipe_from_dict,
)
from offrl.config.library import RecipeFile, bundled_dataset_recipes, find_dataset_recipe, find_recipe
from offrl.config.recipe import Recipe, recipe_from_dict, with_settings
from offrl.errors import RecipeError

RANDOM = {"kind": "random", "env": "CartPole-v1", "episodes": 3}
BUNDLED = bundled_dataset_recipes()
PARSED = {file.name: dataset_recipe_from_dict(file.values, str(file.path)) for file in BUNDLED}


def test_every_kind_of_source_is_read() -> None:
    values = {
        "references": "measured",
        "training": {"recipe": "td3/hopper", "set": ["steps=5"], "checkpoint": "best"},
        "sources": [
            RANDOM,
            {"kind": "policy", "episodes": 4, "stochastic": True, "seed": 2},
            {"kind": "replay"},
            {"kind": "dataset", "name": "hopper-expert"},
        ],
    }
    assert dataset_recipe_from_dict(values) == DatasetRecipe(
        sources=(
            RandomSource("random", "CartPole-v1", 3),
            PolicySource("policy", 4, stochastic=True, seed=2),
            ReplaySource("replay"),
            DatasetSource("dataset", "hopper-expert"),
        ),
        training=Training("td3/hopper", ("steps=5",), "best"),
        references=MEASURED,
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "'sources'"),
        ({"sources": []}, "'sources'"),
        ({"sources": [RANDOM], "episodes": 3}, "unknown key 'episodes'"),
        ({"sources": [{**RANDOM, "steps": 3}]}, "unknown key 'sources.0.random.steps'"),
        ({"sources": [RANDOM, {"kind": "magic"}]}, "'sources.1'"),
        ({"sources": [{**RANDOM, "episodes": 0}]}, "'sources.0.random.episodes'"),
        ({"sources": [{"kind": "random", "env": "CartPole-v1"}]}, "'sources.0.random.episodes'"),
        ({"sources": [RANDOM], "training": {"recipe": "td3/hopper", "steps": 3}}, "unknown key 'training.steps'"),
        ({"sources": [RANDOM], "references": "measured"}, "names no training"),
        ({"sources": [{"kind": "replay"}]}, "names no training"),
        ({"sources": [{"kind": "policy", "episodes": 1}]}, "names no training"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        dataset_recipe_from_dict(values, "mine.toml")
    assert words in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert caught.value.hint


def training_recipe(training: Training) -> Recipe:
    return recipe_from_dict(with_settings(find_recipe(training.recipe).values, list(training.set)))


@pytest.mark.parametrize("file", BUNDLED, ids=lambda file: file.name)
def test_bundled_recipes_name_what_exists(file: RecipeFile) -> None:
    recipe, known = PARSED[file.name], set(PARSED)
    assert file.purpose
    assert recipe.references == MEASURED or recipe.references in known - {file.name}
    named = {source.name for source in recipe.sources if isinstance(source, DatasetSource)}
    assert named <= known - {file.name}
    if recipe.training is not None:
        assert training_recipe(recipe.training).env


def test_datasets_of_one_environment_share_their_reference_scores() -> None:
    """Following the references from any of them leads to the same measurement."""

    def measured(name: str) -> str:
        references = PARSED[name].references
        assert references is not None
        return name if references == MEASURED else measured(references)

    by_task: dict[str, set[str]] = {}
    for name in PARSED:
        by_task.setdefault(name.partition("-")[0], set()).add(measured(name))
    assert {task: len(origins) for task, origins in by_task.items()} == dict.fromkeys(by_task, 1)


@pytest.mark.parametrize("task", ["hopper", "halfcheetah", "walker2d"])
def test_locomotion_tasks_have_the_same_set(task: str) -> None:
    kinds = ("random", "medium", "medium-replay", "medium-expert", "expert")
    assert {name for name in PARSED if name.startswith(f"{task}-")} == {f"{task}-{kind}" for kind in kinds}
    mixture = PARSED[f"{task}-medium-expert"].sources
    assert mixture == tuple(DatasetSource("dataset", f"{task}-{kind}") for kind in ("medium", "expert"))
    # So the second dataset finds the training that the first one left.
    assert PARSED[f"{task}-medium"].training == PARSED[f"{task}-medium-replay"].training


def test_a_recipe_is_found_by_its_dataset_or_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("# Mine.\nsources = []\n")
    assert find_dataset_recipe(str(path)) == RecipeFile("mine", path, {"sources": []})
    assert find_dataset_recipe("hopper-random") == find_dataset_recipe("datasets/hopper-random")
    for name in ("hopper-randomm", "td3/hopper"):
        with pytest.raises(RecipeError, match=r"(?s)no recipe for a dataset.*hopper-random"):
            find_dataset_recipe(name)


def test_recipes_of_datasets_train_nothing() -> None:
    with pytest.raises(RecipeError, match=r"(?s)recipe of a dataset.*offrl datasets make hopper-random"):
        find_recipe("datasets/hopper-random")
