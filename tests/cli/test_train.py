"""`offrl train`: which recipe a command line means, what a run leaves, and what is refused."""

from __future__ import annotations

import csv
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from offrl.config.recipe import Recipe
from offrl.runs.progress import TrainingProgress
from offrl.runs.run import Run
from offrl.training import run_training
from tests.cli.conftest import Offrl
from tests.training.runs import make_demonstrations

TINY = ("--batch-size", "16", "--device", "cpu", "--eval-every", "0", "--eval-episodes", "2")
SMALL = ("--set", "agent.hidden=[8]", "--set", "log_every=20", "--set", "checkpoint_every=20")


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Pendulum demonstrations."""
    return make_demonstrations(tmp_path / "demos", episodes=6, length=20).path


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that would have been trained."""
    started: list[Recipe] = []

    def start(recipe: Recipe, out: Path | None, listener: Any, asked: Any) -> Run:
        started.append(recipe)
        return Run(Path("never"), recipe)

    monkeypatch.setattr(run_training, "train", start)
    return started


def test_each_seed_s_returns_and_the_iqm_are_one_json_object(offrl: Offrl, demos: Path) -> None:
    result = offrl("train", "bc", "--dataset", demos, "--steps", 40, "--seeds", 3, *TINY, *SMALL, "--json")
    assert result.code == 0, result.stderr
    scores = result.json
    assert scores["seeds"] == [0, 1, 2]
    assert [len(returns) for returns in scores["returns"]] == [2, 2, 2]
    low, high = scores["iqm_interval"]
    assert low <= scores["iqm"] <= high
    assert scores["starts"] == "final"
    assert scores["environment"] == "Pendulum-v1"
    run = Run.open(Path(scores["run"]))
    assert run.path.parent == Path("runs")
    assert run.lines("evaluations.jsonl")[-1]["returns"] == scores["returns"]


def test_people_get_a_table_and_the_run_s_path(offrl: Offrl, demos: Path) -> None:
    result = offrl("train", "bc", "--dataset", demos, "--steps", 20, *TINY, *SMALL, "--out", "here", "--writers", "csv")
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["seed", "episodes", "mean", "return", "least", "greatest", "mean", "length"]
    assert lines[2].split()[:2] == ["0", "2"]
    assert any("(standard error over 2 episodes of one training)" in line for line in lines)
    assert not any(line.startswith("interquartile mean") for line in lines)
    assert lines[-1] == "run  here"
    assert "step 20 of 20" in result.stderr
    with open("here/metrics.csv", newline="") as file:
        assert next(csv.reader(file)) == ["step", "seed", "metric", "value"]


def test_an_online_algorithm_needs_an_environment_only(offrl: Offrl) -> None:
    online = ("--set", "online.warmup_steps=20", "--set", "online.capacity=100")
    result = offrl("train", "td3", "--env", "Pendulum-v1", "--steps", 40, *TINY, *SMALL, *online, "--json")
    assert result.code == 0, result.stderr
    assert result.json["dataset"] is None
    assert result.json["lengths"] == [[200, 200]]


def test_flags_are_keys_of_the_recipe(offrl: Offrl, recipes: list[Recipe]) -> None:
    flags: dict[str, Any] = {
        "--env": "E-v0",
        "--steps": 5,
        "--batch-size": 7,
        "--device": "cpu",
        "--top-fraction": 0.5,
        "--eval-every": 3,
        "--eval-episodes": 4,
        "--writers": "csv,tensorboard",
    }
    result = offrl("train", "bc", "--dataset", "my logs", *(str(part) for pair in flags.items() for part in pair))
    assert result.code == 0, result.stderr
    (recipe,) = recipes
    assert (recipe.algo, recipe.dataset, recipe.env, recipe.device) == ("bc", "my logs", "E-v0", "cpu")
    assert (recipe.steps, recipe.batch_size, recipe.data.top_fraction) == (5, 7, 0.5)
    assert (recipe.evaluation.every, recipe.evaluation.episodes, recipe.evaluation.final_episodes) == (3, 4, 4)
    assert recipe.writers == ("csv", "tensorboard")


@pytest.mark.parametrize(
    ("options", "seeds"),
    [((), (0,)), (("--seeds", "3"), (0, 1, 2)), (("--seed", "7"), (7,)), (("--seeds", "2", "--seed", "7"), (7, 8))],
)
def test_seeds_are_counted_from_the_first(
    offrl: Offrl, recipes: list[Recipe], options: tuple[str, ...], seeds: tuple[int, ...]
) -> None:
    offrl("train", "bc", "--dataset", "x", *options)
    assert recipes[0].seeds == seeds


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ((), "none"),
        (("--cross-validate",), "l2"),
        (("--cross-validate", "l1"), "l1"),
        (("--cross-validate=l1",), "l1"),
        (("--cross-validate", "--seeds", "2"), "l2"),
        (("--cross-validate", "--seeds=2"), "l2"),
        (("--cross-validate", "agent.ema=0,0.9"), "none"),
    ],
)
def test_cross_validation_is_of_l2_unless_named(
    offrl: Offrl, recipes: list[Recipe], options: tuple[str, ...], kind: str
) -> None:
    offrl("train", "bc", "--dataset", "x", *options)
    assert recipes[0].cross_validation.kind == kind


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("agent.hidden=[64,64],[256,256]", ([64, 64], [256, 256])),
        ("agent.hidden=[[64,64],[256,256]]", ([[64, 64], [256, 256]],)),
        ("agent.learning_rate=1e-4, 1e-3", (1e-4, 1e-3)),
        ("agent.activation=relu,tanh", ("relu", "tanh")),
        ("agent.layer_norm=true,false", (True, False)),
        ("batch_size=64", (64,)),
    ],
)
def test_values_to_try_are_toml_with_commas_between(
    offrl: Offrl, recipes: list[Recipe], text: str, values: tuple[Any, ...]
) -> None:
    offrl("train", "bc", "--dataset", "x", "--cross-validate", text)
    assert recipes[0].cross_validation.options == {text.partition("=")[0]: values}


def test_values_to_try_add_to_those_of_the_recipe(offrl: Offrl, recipes: list[Recipe], tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('algo = "bc"\ndataset = "x"\n[cross_validation.options.agent]\nhidden = [[8], [16]]\n')
    offrl("train", "bc", "--recipe", file, "--cross-validate", "agent.ema=0,0.9")
    assert recipes[0].cross_validation.options == {"agent.hidden": ([8], [16]), "agent.ema": (0, 0.9)}


@pytest.mark.parametrize("tried", [("l1", "l2"), ("=3",)])
def test_what_says_no_values_to_try_is_refused(offrl: Offrl, tried: tuple[str, ...]) -> None:
    result = offrl("train", "bc", "--dataset", "x", *(part for text in tried for part in ("--cross-validate", text)))
    assert result.code == 2
    assert "cross" in result.stderr


def test_the_matching_recipe_then_flags_then_settings(offrl: Offrl, recipes: list[Recipe]) -> None:
    assert "Recipe: bc/hopper" in offrl("train", "bc", "--dataset", "hopper-expert").stderr
    offrl("train", "bc", "--dataset", "hopper-expert", "--steps", "11", "--set", "steps=12")
    offrl("train", "bc", "--dataset", "hopper-expert", "--steps", "11")
    offrl("train", "bc", "--recipe", "bc/hopper", "--dataset", "other")
    assert "Recipe" not in offrl("train", "bc", "--dataset", "other").stderr
    assert [recipe.env for recipe in recipes] == ["Hopper-v5"] * 4 + [None]
    assert [recipe.steps for recipe in recipes[1:3]] == [12, 11]
    assert recipes[3].dataset == "other"


def test_a_coefficient_is_chosen_and_shown(offrl: Offrl, demos: Path) -> None:
    plan = ("--cross-validate", "--set", "cross_validation.steps=10", "--set", "cross_validation.folds=2")
    options = ("train", "bc", "--dataset", demos, "--steps", "20", *TINY, *SMALL, *plan)
    choice = offrl(*options, "--json").json["cross_validation"]
    assert choice["folds"] == 2
    assert choice["chosen"] in [line["settings"] for line in choice["table"]]
    assert list(choice["chosen"]) == ["agent.l2"]
    assert "held-out loss (2 folds)" in offrl(*options, "--out", "other").stdout


def test_options_are_chosen_and_shown(offrl: Offrl, demos: Path) -> None:
    tried = ("--cross-validate", "agent.hidden=[8],[4,4]", "--cross-validate", "agent.activation=relu,tanh")
    plan = ("--set", "cross_validation.steps=10", "--set", "cross_validation.folds=2")
    result = offrl("train", "bc", "--dataset", demos, "--steps", "20", *TINY, *tried, *plan, "--out", "run")
    assert result.code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["agent.hidden", "agent.activation"]
    assert [line.split("  ")[0] for line in lines[2:6]] == ["[8]", "[8]", "[4, 4]", "[4, 4]"]
    assert any(line.startswith("chosen agent.hidden") for line in lines)
    assert "Cross-validation: agent.hidden=[8], agent.activation=" in result.stderr
    assert Run.open(Path("run")).recipe.agent.hidden in [(8,), (4, 4)]


def test_a_run_is_resumed_and_may_go_on_for_longer(offrl: Offrl, demos: Path) -> None:
    offrl("train", "bc", "--dataset", demos, "--steps", 20, *TINY, *SMALL, "--out", "run")
    result = offrl("train", "--resume", "run", "--steps", 40, "--json")
    assert result.code == 0, result.stderr
    assert result.json["step"] == 40
    assert Run.open(Path("run")).recipe.steps == 40


def test_ctrl_c_saves_and_says_how_to_go_on(offrl: Offrl, demos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = TrainingProgress.progress

    def press(self: TrainingProgress, step: int, steps: int, metrics: Any) -> None:
        shown(self, step, steps, metrics)
        os.kill(os.getpid(), signal.SIGINT)

    options = ("train", "bc", "--dataset", demos, "--steps", 1000, *TINY, *SMALL, "--out", "run", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "progress", press)
        result = offrl(*options)
    assert (result.code, result.stdout) == (130, "")
    stopped = re.search(r"^Saved at step (\d+); continue with: offrl train --resume run$", result.stderr, re.MULTILINE)
    assert stopped, result.stderr
    step = int(stopped[1])
    assert offrl("train", "--resume", "run", "--steps", step + 20, "--json").json["step"] == step + 20


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train"], 2, ["no algorithm", "offrl train bc"]),
        (["train", "magic", "--dataset", "x"], 2, ["'magic'", "sac, sqil, td3"]),
        (["train", "bc"], 2, ["bc learns from a dataset", "--dataset"]),
        (["train", "bc", "--dataset", "hopper-expertt"], 2, ["'hopper-expertt'", "offrl datasets list"]),
        (["train", "bc", "--dataset", "./nowhere"], 2, ["./nowhere"]),
        (["train", "bc", "--dataset", "DEMOS", "--set", "agent.hiden=[8]"], 2, ["'agent.hiden'", "hidden"]),
        (["train", "bc", "--dataset", "DEMOS", "--set", "stepz=8"], 2, ["'stepz'", "steps"]),
        (["train", "bc", "--dataset", "DEMOS", "--set", "steps"], 2, ["'steps'", "key=value"]),
        (["train", "bc", "--dataset", "DEMOS", "--set", "steps=many"], 2, ["'steps'", "many"]),
        (["train", "bc", "--dataset", "DEMOS", "--writers", "excel"], 2, ["writers", "excel"]),
        (["train", "bc", "--dataset", "DEMOS", "--recipe", "td3/hopper"], 2, ["td3/hopper", "for td3, not for bc"]),
        (["train", "bc", "--dataset", "DEMOS", "--recipe", "nosuch.toml"], 2, ["nosuch.toml", "bc/hopper"]),
        (["train", "bc", "--dataset", "DEMOS", "--env", "CartPole-v1"], 2, ["CartPole-v1", "observation space"]),
        (["train", "bc", "--dataset", "DEMOS", "--env", "NoSuch-v1"], 2, ["NoSuch"]),
        (["train", "bc", "--dataset", "DEMOS", "--device", "cuda:99"], 2, ["device"]),
        (["train", "bc", "--dataset", "DEMOS", "--top-fraction", "0"], 2, ["top_fraction"]),
        (["train", "td3", "--env", "CartPole-v1"], 2, ["Discrete"]),
        (["train", "--resume", "nosuch"], 2, ["nosuch", "recipe.toml"]),
        (["train", "bc", "--resume", "run", "--seeds", "2"], 2, ["--resume", "ALGO", "seeds"]),
        (["train", "bc", "--steps", "0", "--dataset", "DEMOS"], 2, ["--steps"]),
    ],
)
def test_a_wrong_request_is_refused_and_leaves_no_run(
    offrl: Offrl, demos: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    result = offrl(*(str(demos) if argument == "DEMOS" else argument for argument in arguments), "--json")
    assert (result.code, result.stdout) == (code, ""), result.stderr
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert list(Path.cwd().rglob("recipe.toml")) == []


def test_a_directory_with_a_run_is_not_overwritten(offrl: Offrl, demos: Path) -> None:
    options = ("train", "bc", "--dataset", demos, "--steps", 20, *TINY, *SMALL, "--out", "run")
    offrl(*options)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    result = offrl(*options)
    assert result.code != 0
    assert "--resume run" in result.stderr
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_a_run_in_use_is_refused(offrl: Offrl, demos: Path) -> None:
    offrl("train", "bc", "--dataset", demos, "--steps", 20, *TINY, *SMALL, "--out", "run")
    with Run.open(Path("run")).lock():
        result = offrl("train", "--resume", "run", "--steps", 40)
    assert result.code == 2
    assert "another process" in result.stderr
    assert Run.open(Path("run")).recipe.steps == 20


def test_a_recipe_of_one_s_own_runs_by_its_path(offrl: Offrl, demos: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'algo = "bc"\ndataset = "{demos}"\nsteps = 20\n[evaluation]\nfinal_episodes = 1\n')
    result = offrl("recipes", "run", path, *SMALL, "--set", "batch_size=8", "--out", "run", "--json")
    assert result.code == 0, result.stderr
    assert result.json["step"] == 20
    recipe = Run.open(Path("run")).recipe
    assert (recipe.batch_size, recipe.evaluation.final_episodes, recipe.agent.hidden) == (8, 1, (8,))
