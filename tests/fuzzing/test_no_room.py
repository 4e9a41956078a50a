"""Commands that write, where they can't: one readable error, and nothing under the name that was asked for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from tests.fuzzing.attempts import at_home, outcome_of
from tests.fuzzing.subjects import command, settings
from tests.runs.full_disk import files_up_to

WRITING = {
    "collect": ("collect", "{home}/bc", "--episodes", "2", "--out", "{out}"),
    "collect at random": ("collect", "--random", "--env", "CartPole-v1", "--episodes", "2", "--out", "{out}"),
    "train": ("train", "bc", "--dataset", "demos", "--steps", "2", *settings(), "--out", "{out}"),
    "plot": ("plot", "{home}/bc", "--out", "{out}.png"),
    "ope": ("ope", "{home}/bc", "--dataset", "demos", "--estimators", "wis", "--plot", "{out}"),
    "export": ("export", "{home}/dqn", "--format", "torchscript", "--out", "{out}.pt"),
    "datasets export": ("datasets", "export", "demos", "{out}"),
    "relabel": ("relabel", "lake", "--reward", "{home}/irl", "--out", "{out}"),
    "convert": ("convert", "{home}/steps.csv", "{out}", "--bandit"),
}
PLACES = {
    "a full disk": ("new", lambda: files_up_to(200), "disk is full"),
    "a folder that nothing can be made in": ("/proc/new", nullcontext, r"can't be (written|made)"),
    "a name that is too long": ("n" * 300, nullcontext, "name too long"),
    "a file in place of a folder": ("training.toml/new", nullcontext, r"can't be (written|made)|Not a directory"),
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("what", WRITING)
def test_what_can_not_be_written_is_told_and_leaves_nothing(what: str, where: str, home: Path, tmp_path: Path) -> None:
    name, limits, message = PLACES[where]
    here: Callable[[], AbstractContextManager[None]] = limits
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    (copy / "steps.csv").write_text("observation,action,reward\n0.5,1,1.0\n0.25,0,0.0\n")
    out = copy / name
    before = sorted(path.name for path in copy.iterdir())
    read = command(*(argument.replace("{out}", str(out)) for argument in WRITING[what]))
    with at_home(copy), here():
        outcome, told = outcome_of(lambda: read(copy))
    assert outcome == "refused", told
    assert re.search(message, told.rpartition("\nError:")[2] or told), told
    assert sorted(path.name for path in copy.iterdir() if path.name != "work") == before
