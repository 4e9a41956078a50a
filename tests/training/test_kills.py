"""SIGKILL at random moments: nothing that was committed is lost, and everything opens afterwards."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offrl.collection.collect import collect
from offrl.data.store import TrajectoryStore
from offrl.errors import RunError
from offrl.runs.checkpoint import read_facts, read_part
from offrl.runs.run import Run
from offrl.training.run_training import resume, train
from tests.training.runs import assert_same_tensors, bc_recipe, last_tensors, make_demonstrations


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_training_keeps_its_checkpoints_and_ends_the_same(kills: int, tmp_path: Path) -> None:
    make_demonstrations(tmp_path / "data")
    recipe = bc_recipe(tmp_path / "data", steps=200 * kills, checkpoint_every=20, checkpoints_kept=3, log_every=20)
    started = time.perf_counter()
    through = train(recipe, tmp_path / "through")
    duration = time.perf_counter() - started

    path, rng, reached = tmp_path / "killed", np.random.default_rng(0), 0
    for _ in range(kills):
        action = resume if (path / "recipe.toml").exists() else lambda p: train(recipe, p)
        _killed_after(rng.uniform(0.02, 2.0 * duration / kills), action, path)
        try:
            run = Run.open(path)
        except RunError:
            assert reached == 0
            continue
        if run.has_checkpoint("last"):
            last_tensors(run)
            step = read_facts(run.checkpoint("last"))["step"]
            assert step >= reached
            reached = step
    assert reached > 0
    resumed = resume(path)
    assert_same_tensors(through, resumed)
    assert len(resumed.kept_checkpoints()) == 3
    for name in through.kept_checkpoints():
        expected, found = (read_part(each.checkpoint(name), "state") for each in (through, resumed))
        assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_collection_leaves_nothing_and_can_be_repeated(kills: int, tmp_path: Path) -> None:
    make_demonstrations(tmp_path / "data")
    recipe = bc_recipe(tmp_path / "data", steps=20, seeds=[0], agent={"hidden": [8]})
    run = train(recipe, tmp_path / "run")
    started = time.perf_counter()
    collect(run, episodes=10, destination=tmp_path / "whole")
    duration = time.perf_counter() - started
    whole, folder = TrajectoryStore.open(tmp_path / "whole"), tmp_path / "stores"
    folder.mkdir()

    def collect_to(path: Path) -> Any:
        return collect(run, episodes=10, destination=path, overwrite=path.exists())

    rng, left = np.random.default_rng(0), 0
    for _ in range(kills):
        _killed_after(rng.uniform(0.0, 1.2 * duration), collect_to, folder / "killed")
        left += any(path.name.startswith(".killed.partial") for path in folder.iterdir())
        assert len(list(folder.iterdir())) <= 2
        if (folder / "killed").exists():
            assert TrajectoryStore.open(folder / "killed").fingerprint == whole.fingerprint
    assert left > 0
    collect_to(folder / "killed")
    assert [path.name for path in folder.iterdir()] == ["killed"]
    assert TrajectoryStore.open(folder / "killed").fingerprint == whole.fingerprint


def _killed_after(seconds: float, action: Callable[[Path], Any], path: Path) -> None:
    """Run an action in a forked process, and kill that some seconds later (or find that it has ended)."""
    process = multiprocessing.get_context("fork").Process(target=action, args=(path,))
    process.start()
    process.join(seconds)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join()
