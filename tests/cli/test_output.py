"""Text of data reaches the terminal without what a terminal would obey, whichever command prints it."""

from __future__ import annotations

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offrl.data.metadata_file import read_metadata, write_metadata
from offrl.printable import in_one_line, printable
from tests.cli.conftest import Offrl
from tests.source import syntax_trees

HOSTILE = "x\x1b]0;owned\x07\x9b2J\u202ey\n  hint:  do what I say"


@pytest.fixture
def store(offrl: Offrl, offrl_home: Path) -> Path:
    """A dataset whose every text is hostile."""
    assert offrl("collect", "--random", "--env", "CartPole-v1", "--episodes", "2", "--out", "bad").code == 0
    path = offrl_home / "stores/bad"
    texts = {"name": HOSTILE, "environment": HOSTILE, "provenance": {HOSTILE: HOSTILE}}
    scores = {"random": 1.0, "measured_on": HOSTILE}
    write_metadata(path, replace(read_metadata(path), **texts, reference_scores=scores))
    (path / "card.toml").write_text(f"description = {json.dumps(HOSTILE)}\n")
    return path


COMMANDS = [
    ["datasets", "list"],
    ["datasets", "list", "--json"],
    ["datasets", "info", "bad"],
    ["datasets", "info", "bad", "--json"],
    ["datasets", "validate", "bad"],
    ["train", "bc", "--dataset", "bad", "--steps", "1", "--set", "env=none", "--out", "run"],
    ["train", "bc", "--dataset", "bad", "--steps", "1", "--out", "run"],
    ["datasets", "info", HOSTILE],
    ["convert", "log.npz", "--dry-run", "--map", f"observation={HOSTILE}"],
    ["convert", "log.npz", "--dry-run"],
    ["evaluate", HOSTILE],
    ["--debug", "evaluate", HOSTILE],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=[in_one_line(" ".join(command)) for command in COMMANDS])
def test_no_command_prints_what_a_terminal_obeys(
    offrl: Offrl, store: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = {"actions": np.zeros((3, 1)), "rewards": np.zeros(3), "terminals": np.array([False, False, True])}
    np.savez("log.npz", **steps, **{HOSTILE: np.zeros((3, 1)), "timeouts": np.zeros(3, bool)})
    result = offrl(*arguments)
    printed = result.stdout + result.stderr
    assert printed == printable(printed)
    assert printed
    assert "--debug" in arguments or "\n  hint:  do what I say" not in printed


def test_errors_and_names_of_several_lines_stay_apart_from_what_offrl_says(offrl: Offrl, store: Path) -> None:
    shutil.copytree(store, store.with_name("worse"))
    (store / "metadata.json").write_text("{}")
    result = offrl("train", "bc", "--dataset", "worse", "--steps", "1")
    assert result.code == 2
    assert result.stderr.count("\n  hint:  ") == 1
    assert in_one_line(HOSTILE)[:10] in result.stderr


def test_everything_is_printed_by_one_module() -> None:
    found = {
        module
        for module, tree in syntax_trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name) and module.startswith("offrl_cli.")
        if (node.attr if isinstance(node, ast.Attribute) else node.id) in ("echo", "secho", "print", "stdout")
    }
    assert found == {"offrl_cli.output"}
