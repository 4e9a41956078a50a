"""`offrl evaluate`, `offrl collect` and `offrl plot`: what they make of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from offrl.converters.catalog import local_path
from offrl.data.store import TrajectoryStore
from offrl.runs.checkpoint import read_facts
from offrl.runs.run import Run
from offrl.training.run_training import train
from tests.cli.conftest import Offrl
from tests.training.runs import bc_recipe, make_demonstrations


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds with both checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    demos = make_demonstrations(folder / "demos", episodes=6, length=20).path
    recipe = bc_recipe(demos, steps=40, evaluation={"every": 20, "episodes": 2, "final_episodes": 2})
    return train(recipe, folder / "run").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_evaluate_acts_by_other_options_than_trained_with(offrl: Offrl, tmp_path: Path) -> None:
    demos = make_demonstrations(tmp_path / "demos", episodes=6, length=20).path
    agent = {"context": 5, "width": 8, "layers": 1}
    train(bc_recipe(demos, algo="dt", agent=agent, steps=40), tmp_path / "run")
    command = ("evaluate", tmp_path / "run", "--episodes", 2, "--json")
    least, most = (offrl(*command, "--set", f"agent.target_return={asked}").json["returns"] for asked in (-1e6, 1e6))
    assert least != most
    for setting, told in (("agent.width=16", "can't act by another agent.width"), ("steps=3", "acting doesn't go by")):
        result = offrl(*command, "--set", setting)
        assert result.code == 2
        assert told in result.stderr


def test_evaluate_reports_every_episode(offrl: Offrl, run: Path) -> None:
    result = offrl("evaluate", run, "--episodes", 3, "--seed", 5, "--json")
    assert result.code == 0, result.stderr
    scores = result.json
    assert (scores["checkpoint"], scores["seeds"]) == ("last", [0, 1])
    assert np.shape(scores["returns"]) == (2, 3)
    assert scores["mean_return"] == pytest.approx(np.mean(scores["returns"]))
    assert offrl("evaluate", run, "--episodes", 3, "--seed", 5, "--json").json["returns"] == scores["returns"]
    assert offrl("evaluate", run, "--episodes", 3, "--seed", 6, "--json").json["returns"] != scores["returns"]


def test_evaluate_prints_a_row_for_each_seed(offrl: Offrl, run: Path) -> None:
    result = offrl("evaluate", run, "--episodes", 2, "--checkpoint", "best")
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["0", "2"], ["1", "2"]]
    assert lines[-1] == "checkpoint  best"
    assert "(standard error over 2 seeds and their starts)" in result.stdout


def test_the_checkpoint_that_training_reported_is_what_later_commands_take(offrl: Offrl, tmp_path: Path) -> None:
    make_demonstrations(tmp_path / "noise", shuffled=True)
    recipe = bc_recipe(
        tmp_path / "noise",
        seeds=[0],
        steps=20_000,
        agent={"hidden": [64, 64], "learning_rate": 1e-2},
        early_stopping={"every": 20, "patience": 3},
        evaluation={"every": 0, "final_episodes": 3},
        env="Pendulum-v1",
    )
    run = train(recipe, tmp_path / "run")
    (reported,) = run.lines("evaluations.jsonl")
    assert reported["checkpoint"] == run.reported_checkpoint == "best"
    evaluated = offrl("evaluate", run.path, "--episodes", 3, "--json").json
    assert (evaluated["checkpoint"], evaluated["returns"]) == ("best", reported["returns"])
    last = offrl("evaluate", run.path, "--episodes", 3, "--checkpoint", "last", "--json").json
    assert last["returns"] != reported["returns"]
    exported = offrl("export", run.path, "--format", "torchscript", "--json").json
    assert (exported["checkpoint"], exported["step"]) == ("best", read_facts(run.checkpoint("best"))["step"])
    options = ("--algo", "td3", "--steps", 20, "--set", "batch_size=8", "--eval-every", 0, "--eval-episodes", 1)
    tuned = offrl("finetune", run.path, *options, "--out", "tuned", "--json")
    assert tuned.code == 0, tuned.stderr
    assert Run.open(Path("tuned")).recipe.start_checkpoint == "best"
    for named, kind in (((), "best"), (("--checkpoint", "last"), "last")):
        collected = offrl("collect", run.path, "--episodes", 1, *named, "--out", Path.cwd() / kind)
        assert collected.code == 0, collected.stderr
        assert TrajectoryStore.open(Path(kind)).metadata.provenance["checkpoint"] == kind
    log = ("--dataset", tmp_path / "noise", "--estimators", "fqe", "--fqe-steps", 20, "--json")
    valued, best, other = (
        offrl("ope", run.path, *log, *named) for named in ((), ("--checkpoint", "best"), ("--checkpoint", "last"))
    )
    assert valued.code == 0, valued.stderr
    assert valued.stdout == best.stdout != other.stdout


def test_a_best_checkpoint_that_training_did_not_report_is_left_alone(offrl: Offrl, run: Path) -> None:
    assert Run.open(run).has_checkpoint("best")
    assert offrl("evaluate", run, "--episodes", 1, "--json").json["checkpoint"] == "last"
    for out, named, kind in (("./made", (), "last"), ("./better", ("--checkpoint", "best"), "best")):
        assert offrl("collect", run, "--episodes", 2, *named, "--out", out).code == 0
        assert TrajectoryStore.open(Path(out)).metadata.provenance["checkpoint"] == kind


@pytest.mark.parametrize("command", ["evaluate", "plot", "collect", "export"])
def test_a_directory_without_a_run_is_refused(offrl: Offrl, tmp_path: Path, command: str) -> None:
    more = ("--episodes", "2", "--out", "x") if command == "collect" else ()
    result = offrl(command, tmp_path / "nothing", *more)
    assert (result.code, result.stdout) == (2, "")
    assert str(tmp_path / "nothing") in result.stderr


def test_any_checkpoint_that_is_kept_can_be_named(offrl: Offrl, tmp_path: Path) -> None:
    make_demonstrations(tmp_path / "data")
    recipe = bc_recipe(
        tmp_path / "data", seeds=[0], steps=30, checkpoint_every=10, checkpoints_kept=2, env="Pendulum-v1"
    )
    run = train(recipe, tmp_path / "kept").path
    found = offrl("evaluate", run, "--episodes", 1, "--checkpoint", "step-20", "--json")
    assert found.json["checkpoint"] == "step-20"
    exported = offrl("export", run, "--format", "torchscript", "--checkpoint", "step-20", "--json").json
    assert (exported["checkpoint"], exported["step"]) == ("step-20", 20)
    log = ("--dataset", tmp_path / "data", "--estimators", "fqe", "--fqe-steps", 5, "--json")
    assert offrl("ope", run, *log, "--checkpoint", "step-20").code == 0
    gone = offrl("evaluate", run, "--checkpoint", "step-10")
    assert (gone.code, gone.stdout) == (2, "")
    assert "--checkpoint last|best|step-20|step-30" in gone.stderr
    unknown = offrl("evaluate", run, "--checkpoint", "newest")
    assert unknown.code == 2
    assert "step-5000" in unknown.stderr


def test_a_missing_checkpoint_is_named(offrl: Offrl, run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    result = offrl("evaluate", run)
    assert result.code == 2
    assert "'last' checkpoint" in result.stderr


def test_a_damaged_checkpoint_is_named(offrl: Offrl, run: Path) -> None:
    (state,) = Run.open(run).checkpoint("last").glob("state*")
    state.write_bytes(state.read_bytes()[:20])
    result = offrl("evaluate", run)
    assert (result.code, result.stdout) == (1, "")
    assert str(run) in result.stderr
    assert "Traceback" not in result.stderr


def test_another_environment_s_spaces_are_refused(offrl: Offrl, run: Path) -> None:
    result = offrl("evaluate", run, "--env", "CartPole-v1")
    assert result.code == 2
    assert "CartPole-v1" in result.stderr


def test_collect_makes_a_dataset_by_name_that_other_commands_know(offrl: Offrl, run: Path) -> None:
    result = offrl("collect", run, "--episodes", 4, "--out", "mine", "--json")
    assert result.code == 0, result.stderr
    store = TrajectoryStore.open(local_path("mine"))
    assert result.json["path"] == str(store.path)
    assert (store.num_episodes, store.num_steps) == (4, 800)
    assert result.json["mean_return"] == pytest.approx(store.episodes.return_.mean())
    assert [e["name"] for e in offrl("datasets", "list", "--json").json["datasets"] if e["kind"] == "local"] == ["mine"]
    assert offrl("datasets", "validate", "mine").code == 0
    fingerprint = store.fingerprint
    again = offrl("collect", run, "--episodes", 4, "--out", "mine")
    assert again.code == 2
    assert str(store.path) in again.stderr
    assert TrajectoryStore.open(store.path).fingerprint == fingerprint


def test_episodes_are_shared_evenly_or_refused(offrl: Offrl, run: Path) -> None:
    result = offrl("collect", run, "--episodes", 3, "--out", "./odd")
    assert result.code == 2
    assert not Path("odd").exists()


def test_collect_records_random_actions(offrl: Offrl) -> None:
    result = offrl("collect", "--random", "--env", "CartPole-v1", "--episodes", 5, "--out", "chance", "--json")
    assert result.code == 0, result.stderr
    assert (result.json["environment"], result.json["episodes"]) == ("CartPole-v1", 5)
    assert "behavior_log_prob" in TrajectoryStore.open(local_path("chance")).column_names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--random"], "no environment is named"),
        (["--env", "CartPole-v1"], "no run is named"),
        (["--random", "--env", "CartPole-v1", "--stochastic"], "--random doesn't go with --stochastic"),
        (["somewhere", "--random", "--env", "CartPole-v1"], "--random doesn't go with RUN"),
    ],
)
def test_collect_wants_a_run_or_else_random_actions_and_an_environment(
    offrl: Offrl, arguments: list[str], words: str
) -> None:
    result = offrl("collect", *arguments, "--episodes", 2, "--out", "./none")
    assert (result.code, result.stdout) == (2, "")
    assert words in result.stderr
    assert not Path("none").exists()


def test_plot_leaves_a_picture_in_the_run(offrl: Offrl, run: Path) -> None:
    result = offrl("plot", run, "--json")
    assert result.code == 0, result.stderr
    assert result.json["picture"] == str(run / "plots" / "evaluation.png")
    assert (run / "plots" / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    (curve,) = result.json["curves"]
    assert (curve["seeds"], curve["x"]) == (2, [20.0, 40.0])


def test_plot_of_a_metric_over_time_goes_where_it_is_told(offrl: Offrl, run: Path) -> None:
    result = offrl("plot", run, "--metric", "validation_loss", "--x", "minutes", "--out", "pictures/loss.png")
    assert result.code == 0, result.stderr
    assert "picture  pictures/loss.png" in result.stdout
    assert Path("pictures/loss.png").is_file()


def test_plot_refuses_a_metric_that_is_not_there(offrl: Offrl, run: Path) -> None:
    result = offrl("plot", run, "--metric", "nosuch")
    assert result.code == 2
    assert "'nosuch'" in result.stderr
    assert "validation_loss" in result.stderr


def test_what_was_collected_is_told_in_four_digits(offrl: Offrl, tmp_path: Path) -> None:
    asked = ("collect", "--optimal", "--env", "FrozenLake-v1", "--episodes", 7, "--out")
    told = offrl(*asked, tmp_path / "told").stdout
    report = offrl(*asked, tmp_path / "report", "--json").json
    assert f"mean return  {report['mean_return']:.4g}\n" in told
    assert "reference" not in told
    assert report["reference_scores"] == {}
