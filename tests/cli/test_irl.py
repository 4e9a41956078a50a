"""The way from an environment's table to a dataset with learned rewards, command by command."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.converters.catalog import local_path
from offrl.data.store import TrajectoryStore
from tests.cli.conftest import Offrl
from tests.converters.readers.test_imitation import trajectory, write_folder
from tests.training.runs import make_demonstrations

LAKE = "FrozenLake-v1"


def collect(offrl: Offrl, *more: str, episodes: int = 30) -> None:
    result = offrl("collect", "--optimal", "--env", LAKE, "--episodes", episodes, "--out", "lake", *more)
    assert result.code == 0, result.stderr


def test_from_a_table_to_a_relabeled_dataset(offrl: Offrl) -> None:
    collect(offrl)
    trained = offrl(
        *("train", "irl", "--method", "maxcausalent", "--features", "state_action", "--dataset", "lake"),
        *("--steps", "20", "--eval-episodes", "4", "--out", "run", "--json"),
    )
    assert trained.code == 0, trained.stderr
    assert trained.json["environment"] == LAKE
    assert {path.name for path in Path("run").iterdir()} >= {"recipe.toml", "metrics.jsonl", "reward.json", "plots"}
    assert Path("run/plots/reward.png").is_file()
    for command in (("evaluate", "run", "--episodes", "3"), ("collect", "run", "--episodes", "2", "--out", "again")):
        assert offrl(*command).code == 0
    curve = offrl("plot", "run", "--metric", "feature_error", "--json")
    assert curve.json["curves"][0]["x"] == [10.0, 20.0]
    picture = offrl("plot", "run", "--metric", "reward", "--out", "map.png")
    assert (picture.code, picture.stdout) == (0, "picture  map.png\n")
    assert Path("map.png").read_bytes().startswith(b"\x89PNG")

    relabeled = offrl("relabel", "lake", "--reward", "run", "--out", "learned", "--json")
    assert relabeled.code == 0, relabeled.stderr
    store = TrajectoryStore.open(local_path("learned"))
    assert relabeled.json["path"] == str(store.path)
    assert relabeled.json["mean_reward"] == pytest.approx(float(store.statistics["reward"].mean), rel=1e-6)
    assert offrl("datasets", "validate", "learned").code == 0
    again = offrl("relabel", "lake", "--reward", "run", "--out", "learned")
    assert again.code == 2
    shown = offrl("relabel", "lake", "--reward", "run", "--out", "other")
    assert "mean reward" in shown.stdout


def test_temperature_is_for_the_optimal_policy(offrl: Offrl) -> None:
    collect(offrl, "--temperature", "0.1", episodes=2)
    assert "behavior_log_prob" in TrajectoryStore.open(local_path("lake")).column_names
    refused = offrl("collect", "--random", "--env", LAKE, "--episodes", 2, "--out", "x", "--temperature", "0.1")
    assert (refused.code, "no optimal policy" in refused.stderr) == (2, True)
    both = offrl("collect", "--random", "--optimal", "--env", LAKE, "--episodes", 2, "--out", "x")
    assert (both.code, "doesn't go with --random" in both.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("collect", "--optimal", "--env", "CartPole-v1", "--episodes", "2", "--out", "x"), "isn't a table"),
        (("train", "irl", "--dataset", "lake", "--method", "nonsense"), "agent.method"),
        (("train", "irl", "--env", LAKE), "irl learns from a dataset"),
        (("train", "irl", "--dataset", "pendulum"), "choose gail or airl"),
        (("relabel", "lake", "--reward", "nowhere", "--out", "x"), "no run in this directory"),
    ],
)
def test_what_cannot_be_done_is_said(offrl: Offrl, arguments: tuple[str, ...], words: str) -> None:
    collect(offrl, episodes=2)
    make_demonstrations(local_path("pendulum"), episodes=2, length=5)
    result = offrl(*arguments)
    assert result.code in (1, 2)
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_map_needs_a_grid_and_a_table(offrl: Offrl, tmp_path: Path) -> None:
    collect(offrl, episodes=2)
    bc = offrl("train", "bc", "--dataset", "lake", "--steps", "2", "--env", "none", "--out", "run")
    assert bc.code == 0, bc.stderr
    result = offrl("plot", "run", "--metric", "reward")
    assert (result.code, "no table of rewards" in result.stderr) == (2, True)
    assert offrl("plot", "run", "run", "--metric", "reward").code == 2


def test_recordings_of_imitation_convert(offrl: Offrl, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "demos", [trajectory(0, 5), trajectory(1, 2)])
    result = offrl("convert", source, "mine", "--dry-run", "--time-limit", "5", "--json")
    assert result.code == 0, result.stderr
    assert (result.json["format"], result.json["terminated"], result.json["written"]) == ("imitation", 1, None)
    refused = offrl("convert", source, "mine")
    assert refused.code == 2
    assert "--time-limit" in refused.stderr
