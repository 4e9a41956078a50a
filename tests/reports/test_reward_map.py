"""Learned rewards as pictures: of grids, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.collection.collect import collect_optimal
from offrl.errors import RequestError
from offrl.reports.reward_map import draw_reward, require_grid
from offrl.training.run_training import train
from tests.envs.grids import SLIPPERY
from tests.feeds.test_table import irl_recipe
from tests.training.runs import bc_recipe, make_demonstrations


def test_a_reward_of_a_grid_is_drawn(tmp_path: Path) -> None:
    collect_optimal(SLIPPERY, episodes=20, destination=tmp_path / "demos")
    run = train(irl_recipe(tmp_path / "demos", steps=10), tmp_path / "run")
    # Training itself draws nothing.
    assert not list(run.path.rglob("*.png"))
    picture = draw_reward(run, tmp_path / "plots" / "reward.png")
    assert picture == tmp_path / "plots" / "reward.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_states_that_lie_in_no_grid_are_not_drawn(tmp_path: Path) -> None:
    collect_optimal("Taxi-v4", episodes=5, destination=tmp_path / "demos")
    run = train(irl_recipe(tmp_path / "demos", steps=2, log_every=2, agent={"l2": 0.1}), tmp_path / "run")
    assert draw_reward(run, tmp_path / "reward.png") is None
    with pytest.raises(RequestError, match="don't lie in a grid"):
        require_grid(run, tmp_path / "reward.png")
    assert not (tmp_path / "reward.png").exists()


def test_only_runs_of_irl_have_a_map(tmp_path: Path) -> None:
    run = train(bc_recipe(make_demonstrations(tmp_path / "data").path, env="none", steps=40), tmp_path / "run")
    with pytest.raises(RequestError, match="no table of rewards"):
        draw_reward(run, tmp_path / "reward.png")
