"""What can't work is told before there is a run directory, whoever asks for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import pytest

from offrl import plugins
from offrl.config.recipe import Recipe, merged, recipe_from_dict
from offrl.errors import RecipeError, RequestError, RunExistsError
from offrl.training import run_training
from offrl.training.run_training import train
from tests.training.runs import bc_recipe, make_demonstrations, td3_recipe

WRONG: dict[str, tuple[Any, ...]] = {
    "bool": (0, 1, 0.5, "true", "no", [], {}),
    "int": (True, False, -1, 1.5, "3", math.nan, math.inf, [1], {}),
    "float": (True, False, "0.5", math.nan, math.inf, -math.inf, -1e300, 1e300, [0.5], {}),
    "choice": (True, 0, 3, 1.5, "1", [], {}),
    "text": (True, 1, 0.5, [], {}, "no such choice"),
    "list": (True, 7, 0.5, "text", [True], [-1], [math.nan], ["text"], {}),
    "table": (True, 7, 0.5, "text", [1]),
}
"""Values that options of each kind refuse."""
FREE = ("algo", "dataset", "start", "expert", "env", "device")
"""Options that are names: what they name is looked up later."""


def kind_of(hint: Any) -> str:
    """By an option's type hint, which of the wrong values it has."""
    text = str(hint)
    if dataclasses.is_dataclass(hint) or get_origin(hint) is dict:
        return "table"
    if hint == Literal[1, 2]:
        return "choice"
    for kind in ("tuple", "float", "bool", "int"):
        if kind in text:
            return {"tuple": "list"}.get(kind, kind)
    return "text"


def options_of(kind: type[Any], section: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Every option of a dataclass, by dotted name, and its kind."""
    for name, hint in get_type_hints(kind).items():
        if name not in FREE and hint is not Any:
            yield ".".join((*section, name)), kind_of(hint)
        if dataclasses.is_dataclass(hint):
            yield from options_of(hint, (*section, name))  # type: ignore[arg-type]


@pytest.mark.parametrize("algo", sorted(plugins.algorithms))
def test_every_option_refuses_what_is_of_another_kind_and_names_itself(algo: str) -> None:
    record = plugins.algorithms[algo]
    options = [*options_of(Recipe), *options_of(record.config, ("agent",))]
    for held in record.wraps:
        options += options_of(plugins.algorithms[held].config, ("agent", "generator_options"))
    for name, kind in options:
        generators = [held for held in record.wraps if name.rpartition(".")[2] in _names(held)]
        changes = {"agent.generator": generators[0]} if name.startswith("agent.generator_options.") else {}
        for value in WRONG[kind]:
            assert named(merged({"algo": algo}, {**changes, name: value}), name), (name, value)


def named(values: dict[str, Any], name: str) -> bool:
    """Whether a recipe is refused, and the message names an option."""
    try:
        recipe_from_dict(values)
    except RecipeError as error:
        return name in error.what
    return False


def _names(algo: str) -> set[str]:
    return {field.name for field in dataclasses.fields(plugins.algorithms[algo].config)}


DQN: dict[str, Any] = {"algo": "dqn", "env": "CartPole-v1", "agent": {"hidden": [4]}}
GENERATED: dict[str, Any] = {"generator": "dqn", "generator_options": {"hidden": [4]}}


@pytest.fixture
def demonstrations(tmp_path: Path) -> Path:
    return make_demonstrations(tmp_path / "demonstrations", episodes=2, length=10).path


def refused(recipe: Recipe, path: Path, *words: str, asked: tuple[str, ...] = ()) -> None:
    """Training is refused as a wrong request that says these words, and leaves nothing."""
    with pytest.raises(RequestError) as caught:
        train(recipe, path, asked=asked)
    assert caught.value.exit_code == 2
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.hint
    assert not path.exists()


def test_critics_alone_can_learn_only_where_they_can(tmp_path: Path) -> None:
    path, online = tmp_path / "run", {"critic_warmup": 50, "warmup_steps": 50}
    refused(recipe_from_dict({**DQN, "online": online}), path, "dqn has no critics apart", "online.critic_warmup")


def test_a_mean_return_to_stop_at_needs_evaluations(tmp_path: Path) -> None:
    recipe = td3_recipe(online={"stop_at": -500.0}, evaluation={"every": 0})
    refused(recipe, tmp_path / "run", "online.stop_at", "--eval-every")


def test_stopping_early_needs_held_out_episodes(demonstrations: Path, tmp_path: Path) -> None:
    stopping, path = {"early_stopping": {"patience": 3}}, tmp_path / "run"
    for options in ({"validation_fraction": 0.0}, {"episodes": 1}):
        refused(bc_recipe(demonstrations, data=options, **stopping), path, "none are held out", "patience")
    refused(td3_recipe(**stopping), path, "td3 has no validation loss", "patience")


@pytest.mark.parametrize("env", ["none", None])
def test_evaluations_that_were_asked_for_need_an_environment(env: str | None, tmp_path: Path) -> None:
    from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore

    known = make_demonstrations(tmp_path / "known", episodes=2, length=10)
    path, store = tmp_path / "run", known.path
    if env is None:
        store = tmp_path / "unknown"
        with StoreWriter(store, known.spec) as writer:
            for block in TrajectoryStore.open(known.path).iterate_blocks(1_000):
                writer.append(EpisodeBlock(dict(block.columns), block.lengths))
    recipe = bc_recipe(store, env=env, evaluation={"every": 10})
    refused(recipe, path, "no environment is known", "--eval-every", asked=("evaluation",))
    # A recipe may say how to evaluate, wherever that is.
    assert train(recipe, path, asked=("steps",)).final_scores() is None


@pytest.mark.parametrize("what", ["run", "file"])
def test_a_run_needs_a_place_of_its_own(what: str, demonstrations: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if what == "run":
        train(bc_recipe(demonstrations, env="none", steps=5), path)
    else:
        path.write_text("mine")
    before = {each: each.stat().st_mtime_ns for each in (path, *path.rglob("*"))}
    with pytest.raises(RunExistsError, match=r"in this directory already|a file of this name") as caught:
        train(bc_recipe(tmp_path / "nowhere"), path)
    assert caught.value.exit_code == 2
    assert {each: each.stat().st_mtime_ns for each in (path, *path.rglob("*"))} == before


def test_whatever_goes_wrong_before_the_first_step_leaves_no_directory(
    demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise MemoryError("too large")

    monkeypatch.setattr(run_training, "build_loop", fail)
    with pytest.raises(MemoryError):
        train(bc_recipe(demonstrations, env="none"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
