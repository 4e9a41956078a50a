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

from offrl.collection.collect import collect
from offrl.data.store import TrajectoryStore
from offrl.errors import DatasetNotFoundError, RunError
from offrl.runs.checkpoint import read_facts
from offrl.runs.run import Run
from offrl.training.run_training import resume, train
from tests.training.runs import assert_same_tensors, bc_recipe, last_tensors, make_demonstrations


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_training_keeps_its_checkpoints_and_ends_the_same(kills: int, tmp_path: Path) -> None:
    make_demonstrations(tmp_path / "data")
    recipe = bc_recipe(tmp_path / "data", steps=200 * kills, checkpoint_every=20, log_every=20)
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
    assert_same_tensors(through, resume(path))


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_collection_keeps_its_episodes(kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offrl.collection.collect.COMMIT_STEPS", 2_000)
    make_demonstrations(tmp_path / "data")
    recipe = bc_recipe(tmp_path / "data", steps=20, seeds=[0], agent={"hidden": [8]})
    run = train(recipe, tmp_path / "run")
    started = time.perf_counter()
    collect(run, episodes=40, destination=tmp_path / "whole")
    duration = time.perf_counter() - started
    whole = TrajectoryStore.open(tmp_path / "whole")

    def collect_to(path: Path) -> Any:
        return collect(run, episodes=40, destination=path)

    rng, partial = np.random.default_rng(0), 0
    for attempt in range(kills):
        destination = tmp_path / f"killed-{attempt}"
        if attempt % 2:
            _killed_after(rng.uniform(0.02, 1.2 * duration), collect_to, destination)
        else:
            _killed_after(rng.uniform(0.0, 0.2 * duration), collect_to, destination, begun=_has_episodes)
        try:
            store = TrajectoryStore.open(destination)
        except DatasetNotFoundError:
            continue
        assert store.num_steps % 2_000 == 0
        partial += 0 < store.num_episodes < 40
        for index in range(store.num_episodes):
            np.testing.assert_array_equal(store.episode(index).observation, whole.episode(index).observation)
    assert partial > 0


def _has_episodes(path: Path) -> bool:
    try:
        return TrajectoryStore.open(path).num_episodes > 0
    except DatasetNotFoundError:
        return False


def _killed_after(
    seconds: float, action: Callable[[Path], Any], path: Path, *, begun: Callable[[Path], bool] = lambda path: True
) -> None:
    """Run an action in a forked process, and kill that some seconds after it has begun (or find that it has ended)."""
    process = multiprocessing.get_context("fork").Process(target=action, args=(path,))
    process.start()
    while process.is_alive() and not begun(path):
        time.sleep(0.01)
    process.join(seconds)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    process.join()
