"""What can only be seen in an 8-bit image is learned online and from logs; `test_dqn` has the same of DQN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import offrl
from tests.envs.pixels import CATCH, logged

SEEDS = [50, 51]
"""No option was tuned on them."""
CAUGHT = 0.8
"""Mean return of who catches nine balls of ten; who stands still catches one, for −0.8."""


def trained(algo: str, out: Path, **recipe: Any) -> list[float]:
    """The mean return of each seed's last policy over 100 episodes."""
    evaluation = {"every": 0, "final_episodes": 100}
    run = offrl.train(
        algo, seeds=SEEDS, batch_size=32, device="cpu", evaluation=evaluation, out=out, progress=False, **recipe
    )
    scores = run.final_scores()
    assert scores is not None
    means: list[float] = scores["mean_return_per_seed"]
    return means


def cloned(dataset: Path, out: Path) -> list[float]:
    return trained("bc", out, dataset=dataset, steps=2_000, agent={"hidden": [64, 64]})


@pytest.mark.learning
def test_a_clone_catches_as_its_demonstrations_do(tmp_path: Path) -> None:
    assert min(cloned(logged(tmp_path / "log", 600, follows=1.0), tmp_path / "bc")) >= CAUGHT


@pytest.mark.learning
def test_iql_learns_from_a_log_in_which_most_flee(tmp_path: Path) -> None:
    """A clone misses more balls than it catches: the rewards alone tell."""
    log = logged(tmp_path / "log", 1_000, follows=0.4)
    options = {
        "hidden": [128, 128],
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "discount": 0.95,
        "target_rate": 0.02,
        "expectile": 0.9,
        "temperature": 10.0,
    }
    assert min(trained("iql", tmp_path / "iql", dataset=log, steps=6_000, agent=options)) >= CAUGHT
    assert max(cloned(log, tmp_path / "bc")) <= 0.0


@pytest.mark.learning
def test_sac_catches_what_it_sees(tmp_path: Path) -> None:
    options = {
        "hidden": [64, 64],
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "temperature_learning_rate": 1e-3,
        "initial_temperature": 0.1,
        "target_entropy_fraction": 0.3,
        "discount": 0.95,
        "target_rate": 0.02,
    }
    online = {"warmup_steps": 500, "capacity": 10_000, "updates_per_step": 0.5}
    found = trained("sac", tmp_path / "sac", env=CATCH, steps=10_000, agent=options, data={"n_step": 3}, online=online)
    assert min(found) >= CAUGHT
