"""Networks that don't fit into memory are refused before they are there."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl import plugins
from offrl.errors import RecipeError
from offrl.nn import MLP, free_memory, seed_generators
from offrl.training.run_training import train
from offrl.types import Spec
from tests.testing.test_check_agent import LEFT_TO_DATA
from tests.training.runs import td3_recipe

CPU = torch.device("cpu")
BOX = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_what_is_free_is_what_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  2000 kB\nMemFree:  10 kB\nMemAvailable:  1500 kB\n")
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "LIMIT", tmp_path / "limit")
    assert free_memory.free_bytes(CPU) == 1500 * 1024
    for limit, free in (("max", 1500 * 1024), ("1000000", 1_000_000), ("9000000000", 1500 * 1024)):
        (tmp_path / "limit").write_text(limit + "\n")
        assert free_memory.free_bytes(CPU) == free
    (tmp_path / "meminfo").unlink()
    assert free_memory.free_bytes(CPU) is None


def test_a_layer_that_cannot_be_trained_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 members of 1,000 times 1,000 weights are 40 GB, and 160 GB in training."""
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: 100 * 10**9)
    with pytest.raises(RecipeError, match=r"training needs 160\.0 GB or more .*, and 100\.0 GB are free"):
        MLP(1_000, 1, (1_000,), seed_generators([0]), ensemble=10_000)
    with pytest.raises(RecipeError, match=r"training needs 160\.0 GB"):
        MLP(1_000, 1, (1_000,), seed_generators(range(100)), ensemble=100)


def test_layers_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three layers would fit alone; of them all the weights are there when the rest is asked for."""
    monkeypatch.setattr(free_memory, "SMALLEST_ASKED", 2**10)
    layer = 4 * (100 * 100 + 100)
    weights = 2 * layer + 4 * 101
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: 4 * layer)
    with pytest.raises(RecipeError, match="don't fit into memory"):
        MLP(100, 1, (100, 100), seed_generators([0]))
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: 3 * weights)
    MLP(100, 1, (100, 100), seed_generators([0]))
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: None)
    MLP(100, 1, (100, 100), seed_generators([0]))


@pytest.mark.parametrize("algo", sorted(set(plugins.algorithms) - {"irl"}))
def test_every_algorithm_with_networks_asks(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards of tables are as small as these."""
    algorithm = plugins.algorithms[algo]
    choices = gym.spaces.Discrete(3)
    options = algorithm.options(LEFT_TO_DATA.get(algo, {}))
    learner = algorithm.learner(options)
    spec = Spec(BOX, BOX if "continuous" in learner.actions else choices)
    agent = algorithm.build(options, spec)
    monkeypatch.setattr(free_memory, "SMALLEST_ASKED", 1)
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: 1_000)
    with pytest.raises(RecipeError, match="don't fit into memory"):
        agent.init([0, 1], CPU)


def test_a_run_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: 2**30)
    with pytest.raises(RecipeError, match="don't fit") as raised:
        train(td3_recipe(algo="edac", agent={"hidden": [64, 64], "critics": 50_000}), tmp_path / "run")
    assert "agent.critics" in raised.value.hint
    assert not (tmp_path / "run").exists()
