"""What in a recipe won't do what it seems to, against recipes that do."""

from __future__ import annotations

from typing import Any

import pytest

from offrl.config.library import RecipeFile, bundled_recipes
from offrl.config.recipe import Recipe, recipe_from_dict, with_settings
from offrl.feeds import feed_of
from offrl.training.unused_options import warnings_of


def recipe_of(algo: str, settings: list[str], **values: Any) -> Recipe:
    return recipe_from_dict(with_settings({"algo": algo, **values}, settings))


def doubts(recipe: Recipe) -> list[str]:
    return warnings_of(recipe, feed_of(recipe))


@pytest.mark.parametrize("bundled", bundled_recipes(), ids=lambda bundled: bundled.name)
def test_no_recipe_of_offrl_s_own_is_warned_of(bundled: RecipeFile) -> None:
    place = {} if {"env", "dataset"} & set(bundled.values) else {"dataset": "any"}
    assert doubts(recipe_from_dict({**bundled.values, **place})) == []


@pytest.mark.parametrize(
    ("algo", "place", "setting", "named"),
    [
        ("ppo", {"env": "CartPole-v1"}, "batch_size=64", "batch_size"),
        ("ppo", {"env": "CartPole-v1"}, "data.n_step=3", "data.n_step"),
        ("ppo", {"env": "CartPole-v1"}, "online.updates_per_step=0.5", "online.updates_per_step"),
        ("gail", {"dataset": "any", "env": "CartPole-v1"}, "online.capacity=50", "online.capacity"),
        ("td3", {"env": "Pendulum-v1"}, "data.episodes=5", "data.episodes"),
        ("td3", {"dataset": "any"}, "online.updates_per_step=2.0", "online.updates_per_step"),
        ("bc", {"dataset": "any"}, "online.environments=4", "online.environments"),
        ("td3", {"env": "Pendulum-v1"}, "online.offline_fraction_end=0.5", "online.offline_fraction_end"),
    ],
)
def test_an_option_that_nothing_reads_is_named(algo: str, place: dict[str, str], setting: str, named: str) -> None:
    assert doubts(recipe_of(algo, [], **place)) == []
    (warning,) = doubts(recipe_of(algo, [setting], **place))
    assert named in warning


@pytest.mark.parametrize(
    ("algo", "place", "setting"),
    [
        ("sac", {"env": "Pendulum-v1"}, "batch_size=64"),
        ("sac", {"env": "Pendulum-v1"}, "online.updates_per_step=0.5"),
        ("gail", {"dataset": "any", "env": "CartPole-v1"}, "batch_size=64"),
        ("ppo", {"env": "CartPole-v1"}, "online.environments=4"),
        ("gail", {"dataset": "any", "env": "CartPole-v1"}, "data.episodes=5"),
        ("td3", {"dataset": "any"}, "data.episodes=5"),
    ],
)
def test_an_option_that_is_read_is_not(algo: str, place: dict[str, str], setting: str) -> None:
    assert doubts(recipe_of(algo, [setting], **place)) == []
