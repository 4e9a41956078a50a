"""A small dataset and a run of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import offrl
from offrl.runs.run import Run
from tests.training.runs import make_demonstrations

SMALL: dict[str, Any] = {
    "steps": 40,
    "batch_size": 16,
    "device": "cpu",
    "agent": {"hidden": (8,)},
    "evaluation": {"every": 20, "episodes": 2, "final_episodes": 2},
    "log_every": 20,
    "checkpoint_every": 20,
    "early_stopping": {"every": 20},
    "progress": False,
}


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Pendulum demonstrations."""
    return make_demonstrations(tmp_path / "demos", episodes=6, length=20).path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Cloned from demonstrations, two seeds."""
    folder = tmp_path_factory.mktemp("cloned")
    demonstrations = make_demonstrations(folder / "demos", episodes=6, length=20)
    return offrl.train("bc", dataset=demonstrations, seeds=[3, 5], out=folder / "run", **SMALL)
