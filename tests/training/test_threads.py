"""Small networks are trained by one thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.config.recipe import recipe_from_dict
from offrl.feeds import feed_of
from offrl.plugins import algorithms
from offrl.runs.load import fresh_policy
from offrl.training.threads import threads_for
from offrl.types import Spec

VECTORS = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
IMAGES = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("algo", "agent", "batch_size", "space", "threads"),
    [
        ("dqn", {"hidden": [64, 64]}, 256, VECTORS, 1),
        ("dqn", {"hidden": [256, 256]}, 256, VECTORS, 2),
        ("dqn", {"hidden": [64, 64]}, 4_096, VECTORS, 2),
        ("dqn", {"hidden": [64, 64]}, 32, IMAGES, 2),
        # Gradient steps are on minibatches.
        ("ppo", {"minibatch_size": 64}, 65_536, VECTORS, 1),
        ("ppo", {"minibatch_size": 65_536}, 64, VECTORS, 2),
    ],
)
def test_products_that_are_large_are_shared(
    algo: str, agent: dict[str, Any], batch_size: int, space: gym.Space[Any], threads: int
) -> None:
    recipe = recipe_from_dict({"algo": algo, "env": "CartPole-v1", "agent": agent, "batch_size": batch_size})
    built = algorithms[algo].build(recipe.agent, Spec(space, gym.spaces.Discrete(2)))
    policy = fresh_policy(algorithms[algo], built, recipe, torch.device("cpu"), None)
    with threads_for(feed_of(recipe).gradient_rows(recipe), policy):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


def test_there_are_as_many_as_before_after_an_error() -> None:
    recipe = recipe_from_dict({"algo": "dqn", "env": "CartPole-v1", "agent": {"hidden": [8]}})
    built = algorithms["dqn"].build(recipe.agent, Spec(VECTORS, gym.spaces.Discrete(2)))
    policy = fresh_policy(algorithms["dqn"], built, recipe, torch.device("cpu"), None)
    with pytest.raises(ZeroDivisionError), threads_for(feed_of(recipe).gradient_rows(recipe), policy):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2
