"""Windows of a dataset's episodes: what batches hold, what is held out, what is refused, and going on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offrl.config.recipe import Recipe
from offrl.deploy.export import export_policy
from offrl.errors import RecipeError
from offrl.feeds import feed_of, open_problem
from offrl.feeds.windows import WindowsFeed
from offrl.runs.listener import SilentListener
from offrl.runs.run import Run
from offrl.training.build import build_loop
from offrl.training.run_training import resume, train
from offrl.training.unused_options import warnings_of
from tests.training.runs import assert_same_tensors, bc_recipe, make_demonstrations

SMALL: dict[str, Any] = {"policy": "deterministic", "width": 8, "layers": 1, "context": 6, "learning_rate": 1e-2}


def recipe_of(path: Path, **changes: Any) -> Recipe:
    values = {"algo": "bc-rnn", "agent": SMALL, "env": "none"}
    return bc_recipe(make_demonstrations(path, length=9).path, **{**values, **changes})


def test_an_update_takes_windows(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "data")
    loop = build_loop(Run.create(tmp_path / "run", recipe), open_problem(recipe), SilentListener())
    first, second = loop.feed.rounds(2)
    (batch,) = first.batches
    assert batch.reward.shape == (2, 32, 6)
    assert batch.mask is not None
    assert batch.timestep is not None
    begin = batch.timestep[..., :1]
    assert torch.equal(batch.timestep, torch.minimum(begin + torch.arange(6), torch.tensor(8)))
    assert torch.equal(batch.mask, begin + torch.arange(6) <= 8)
    # An episode's rewards are all its number.
    assert (batch.reward == batch.reward[..., :1]).all()
    assert not torch.equal(batch.timestep, second.batches[0].timestep)  # type: ignore[arg-type]
    assert feed_of(recipe).gradient_rows(recipe) == 32 * 6


def test_updates_are_gathered_in_parts_that_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws of a published transformer's update take 28 MB."""
    agent = {"context": 6, "width": 8, "layers": 1, "heads": 2, "policy": "deterministic"}
    recipe = recipe_of(tmp_path / "data", algo="bc-transformer", agent=agent)
    loop = build_loop(Run.create(tmp_path / "run", recipe), open_problem(recipe), SilentListener())
    assert isinstance(loop.feed, WindowsFeed)
    floats = 2 * (32 * 6 * loop.feed.sampler.layout.pair_width + 32 * 6 * (8 + 2 * 6 + 2 * 8))
    sizes: list[int] = []
    draw = loop.feed.sampler.batches
    loop.feed.sampler.batches = lambda count: (sizes.append(count), draw(count))[1]  # type: ignore[method-assign]
    for room, expected in ((5 * floats, [5, 5, 1]), (floats - 1, [1] * 11), (2**24, [11])):
        monkeypatch.setattr("offrl.feeds.windows.FLOATS_AT_ONCE", room)
        sizes.clear()
        assert len(list(loop.feed.rounds(11))) == 11
        assert sizes == expected


def test_a_window_that_no_episode_fills_is_refused(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "data", agent={**SMALL, "context": 10})
    with pytest.raises(RecipeError, match=r"windows of 10 steps, and the longest episode of .* has 9") as caught:
        open_problem(recipe)
    assert caught.value.hint == "set agent.context=9, or less"
    open_problem(dataclasses.replace(recipe, agent=dataclasses.replace(recipe.agent, context=9)))


def test_returns_of_several_steps_are_without_effect(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "data", data={"n_step": 3})
    assert warnings_of(recipe, feed_of(recipe)) == [
        "Without effect on bc-rnn here: data.n_step; it learns from windows of the dataset alone."
    ]


def test_training_on_equals_training_through_and_stops_by_held_out_windows(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path / "data")
    through = train(recipe, tmp_path / "whole")
    train(dataclasses.replace(recipe, steps=40), tmp_path / "halves")
    assert_same_tensors(through, resume(tmp_path / "halves", steps=120))
    losses = [line["validation_loss"] for line in through.lines("metrics.jsonl") if "validation_loss" in line]
    assert np.mean(losses[-1]) < 0.5 * np.mean(losses[0])


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_what_it_remembers_goes_into_exported_files_and_out_of_them(tmp_path: Path, format: str) -> None:
    run = train(recipe_of(tmp_path / "data", steps=40), tmp_path / "run")
    exported = export_policy(run, tmp_path / "policy", format, seed=1, checkpoint="last")
    assert exported.difference is not None
    assert exported.difference < 1e-4
    names = [each["name"] for each in exported.metadata["inputs"]]
    assert names == ["observation", "carry.hidden", "carry.cell", "carry.steps"]
