"""Something is where a command was to write: the request was wrong, and what is there stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.training.run_training import train
from tests.cli.conftest import Offrl
from tests.training.runs import bc_recipe, make_demonstrations

COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("train", "bc", "--dataset", "demos", "--env", "none", "--steps", "4"),
    "finetune": ("finetune", "cloned", "--algo", "td3", "--env", "Pendulum-v1", "--steps", "4"),
    "collect": ("collect", "cloned", "--env", "Pendulum-v1", "--episodes", "2"),
    "collect --random": ("collect", "--random", "--env", "Pendulum-v1", "--episodes", "1"),
    "collect --optimal": ("collect", "--optimal", "--env", "FrozenLake-v1", "--episodes", "1"),
    "relabel": ("relabel", "demos", "--reward", "cloned"),
    "export": ("export", "cloned", "--format", "torchscript", "--seed", "0"),
    "datasets make": ("datasets", "make", "recipe.toml"),
}
RECIPE = """
[[sources]]
kind = "random"
env = "CartPole-v1"
episodes = 1
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_there_is_no_place_for_something_new(name: str, offrl: Offrl) -> None:
    demonstrations = make_demonstrations(Path("demos"), episodes=2, length=10)
    train(bc_recipe(demonstrations.path, env="none", steps=4), Path("cloned"))
    Path("recipe.toml").write_text(RECIPE)
    out = Path.cwd() / "out"
    out.write_text("mine")
    command = [
        str(Path.cwd() / part) if part in ("demos", "cloned", "recipe.toml") else part for part in COMMANDS[name]
    ]
    result = offrl(*command, "--out", out)
    assert result.code == 2, result.stderr
    assert str(out) in result.stderr
    assert out.read_text() == "mine"


def test_a_directory_with_a_run_is_no_place_for_another(offrl: Offrl) -> None:
    demonstrations = make_demonstrations(Path("demos"), episodes=2, length=10)
    run = train(bc_recipe(demonstrations.path, env="none", steps=4), Path("cloned"))
    for command in (
        ("train", "bc", "--dataset", demonstrations.path, "--env", "none"),
        ("finetune", run.path, "--algo", "td3", "--env", "Pendulum-v1", "--steps", "4"),
    ):
        result = offrl(*command, "--out", run.path)
        assert result.code == 2
        assert "a run in this directory already" in result.stderr


def test_options_that_can_not_work_leave_no_directory(offrl: Offrl) -> None:
    task = ("train", "dqn", "--env", "CartPole-v1", "--out", "run")
    for setting, words in (
        ("online.critic_warmup=50", "no critics apart"),
        ("steps=true", "'steps': should be a whole number, got True"),
        ("online.capacity=-1", "online.capacity"),
        ("data.top_fraction=1.5", "data.top_fraction"),
        ("agent.double=1", "'agent.double': should be true or false, got 1"),
    ):
        result = offrl(*task, "--set", setting)
        assert result.code == 2
        assert words in result.stderr
        assert not Path("run").exists()
