"""Modules that only a dataset or a run names are not imported, by any command or function."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import offrl
from offrl.data.metadata_file import read_metadata, write_metadata
from offrl.data.store import TrajectoryStore
from offrl.errors import RequestError, UnsafeEnvironmentError
from offrl.trust import allowing, make, remember, remembered
from tests.source import syntax_trees

MODULE = "foreign_poles"
ENVIRONMENT = f"{MODULE}:Pole-v0"
ENTRY = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"


@pytest.fixture(autouse=True)
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that can be imported, and that no test has imported yet."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(
        f"import gymnasium\ngymnasium.register('Pole-v0', entry_point='{ENTRY}', max_episode_steps=20)\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    yield
    forget()


def forget() -> None:
    sys.modules.pop(MODULE, None)


def renamed(store: Path, out: Path) -> Path:
    """A copy of a store that names the module."""
    shutil.copytree(store, out)
    write_metadata(out, replace(read_metadata(out), environment=ENVIRONMENT))
    return out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset that names the module."""
    offrl.collect(random=True, env="CartPole-v1", episodes=3, out=tmp_path / "plain")
    return renamed(tmp_path / "plain", tmp_path / "named")


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    """A run that names the module, and was trained by somebody else."""
    trained = offrl.train("bc", dataset=data, trust=True, steps=2, out=tmp_path / "trained", progress=False, **SMALL)
    foreign = tmp_path / "foreign"
    shutil.copytree(trained.path, foreign)
    forget()
    return foreign


SMALL: dict[str, Any] = {
    "agent": {"hidden": (4,)},
    "evaluation": {"episodes": 1, "final_episodes": 1},
    "batch_size": 8,
}
WAYS: dict[str, Callable[..., object]] = {
    "evaluate": lambda run, **extra: offrl.evaluate(run, episodes=1, **extra),
    "collect": lambda run, **extra: offrl.collect(run, episodes=1, out=run.with_name("collected"), **extra),
    "finetune": lambda run, **extra: offrl.finetune(
        run, algo="ppo", steps=8, out=run.with_name("tuned"), progress=False, **extra
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_module_that_a_run_names_is_imported_where_the_user_names_or_allows_it(run: Path, way: str) -> None:
    with pytest.raises(UnsafeEnvironmentError, match=MODULE) as refused:
        WAYS[way](run)
    assert "--trust" in refused.value.hint
    assert f"--env {ENVIRONMENT}" in refused.value.hint
    assert MODULE not in sys.modules
    WAYS[way](run, env=ENVIRONMENT)
    for folder in ("collected", "tuned"):
        shutil.rmtree(run.with_name(folder), ignore_errors=True)
    forget()
    WAYS[way](run, trust=True)


def test_a_run_is_resumed_where_the_user_allows_its_module(run: Path) -> None:
    with pytest.raises(UnsafeEnvironmentError):
        offrl.resume(run, steps=3, progress=False)
    assert MODULE not in sys.modules
    offrl.resume(run, steps=3, progress=False, trust=True)
    forget()
    offrl.resume(run, steps=4, progress=False)  # the user has trained it by now


def test_the_module_that_a_dataset_names_is_imported_where_the_user_names_or_allows_it(data: Path) -> None:
    def train(out: str, **extra: Any) -> object:
        options = SMALL | extra
        return offrl.train("bc", dataset=data, steps=2, out=data.with_name(out), progress=False, **options)

    with pytest.raises(UnsafeEnvironmentError, match=MODULE):
        train("refused")
    assert not data.with_name("refused").exists()
    assert MODULE not in sys.modules
    train("without", env="none", evaluation=None)
    assert MODULE not in sys.modules
    train("named", env=ENVIRONMENT)
    forget()
    train("set", settings=[f"env={ENVIRONMENT}"])
    forget()
    train("allowed", trust=True)
    forget()
    recipe = data.with_name("mine.toml")
    recipe.write_text(f'algo = "bc"\nenv = "{ENVIRONMENT}"\n')
    train("recipe", recipe=recipe)


def test_own_runs_are_remembered_and_copies_and_changed_ones_are_not(data: Path, run: Path) -> None:
    own = run.with_name("trained")
    offrl.evaluate(own, episodes=1)
    forget()
    moved = own.rename(own.with_name("moved"))
    with pytest.raises(UnsafeEnvironmentError):
        offrl.evaluate(moved, episodes=1)
    shutil.copytree(moved, own)
    with pytest.raises(UnsafeEnvironmentError):
        offrl.evaluate(own, episodes=1)
    remember(own, "other_poles:Pole-v0")
    with pytest.raises(UnsafeEnvironmentError):
        offrl.evaluate(own, episodes=1)
    assert MODULE not in sys.modules


def test_notes_that_are_damaged_allow_nothing(tmp_path: Path, offrl_home: Path) -> None:
    remember(tmp_path, ENVIRONMENT)
    assert remembered(tmp_path) == ENVIRONMENT
    (note,) = (offrl_home / "trusted").iterdir()
    for text in ("", "[]", "{}", "null"):
        note.write_text(text)
        assert remembered(tmp_path) is None


def test_random_episodes_and_records_are_of_environments_that_the_user_names(tmp_path: Path) -> None:
    offrl.collect(random=True, env=ENVIRONMENT, episodes=1, out=tmp_path / "random")
    forget()
    with offrl.record(ENVIRONMENT, tmp_path / "recorded") as env:
        env.reset(seed=0)
        env.step(0)
    assert TrajectoryStore.open(tmp_path / "recorded").metadata.environment == ENVIRONMENT


def test_what_is_allowed_in_a_block_is_not_behind_it() -> None:
    with allowing(ENVIRONMENT), pytest.raises(UnsafeEnvironmentError):
        make("other_poles:Pole-v0")
    with pytest.raises(UnsafeEnvironmentError):
        make(ENVIRONMENT)
    with allowing(ENVIRONMENT):
        make(ENVIRONMENT).close()
    make(ENVIRONMENT).close()  # nothing is imported any more
    with pytest.raises(RequestError, match="more than one module"), allowing(everything=True):
        make("os:path:Pole-v0")


def test_environments_are_made_in_one_place() -> None:
    makers = {"make", "make_vec", "spec", "from_json", "load_env_creator"}
    found = {
        module
        for module, tree in syntax_trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in makers
        and isinstance(node.value, ast.Name)
        and node.value.id in ("gym", "gymnasium", "EnvSpec", "registration")
    }
    assert found == {"offrl.trust"}
