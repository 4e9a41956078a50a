"""A whole table on files of the layouts that D4RL and Minari have: what is trained, kept, left out and told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest

import offrl
from offrl.config.recipe import Recipe
from offrl.config.score_table import table_from_dict
from offrl.errors import RecipeError, RequestError
from offrl.runs.run import Run
from offrl.sweeps.run_table import Cell, TableScores, reward_scale, run_table
from tests.converters.readers.test_minari import make

HOPPER, PEN = "d4rl:hopper-medium-v2", "minari:D4RL/pen/human-v2"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hopper file of D4RL's version 2, and a dataset of Minari's, in a working directory of its own."""
    for name in ("d4rl", "minari", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path / "work")
    write_hopper(tmp_path / "d4rl" / "hopper-medium-v2.hdf5")
    box = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
    with pytest.warns():
        make("D4RL/pen/human-v2", [6, 8], box, box)


def write_hopper(path: Path, episodes: int = 4, length: int = 20) -> None:
    """Random steps as D4RL's files of version 2 hold them; odd episodes are truncated."""
    rng, rows = np.random.default_rng(0), episodes * length
    ends = np.arange(rows) % length == length - 1
    odd = np.arange(rows) // length % 2 == 1
    observations = rng.standard_normal((rows + 1, 11)).astype(np.float32)
    columns = {
        "observations": observations[:-1],
        "next_observations": observations[1:],
        "actions": rng.uniform(-0.9, 0.9, (rows, 3)).astype(np.float32),
        "rewards": rng.standard_normal(rows).astype(np.float32),
        "terminals": ends & ~odd,
        "timeouts": ends & odd,
        "infos/qpos": rng.standard_normal((rows, 6)),
        "infos/action_log_probs": rng.standard_normal(rows),
        "metadata/algorithm": np.bytes_("SAC"),
    }
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values


def values(**changes: Any) -> dict[str, Any]:
    recipe = {
        "steps": 4,
        "seeds": [100, 101],
        "batch_size": 8,
        "checkpoint_every": 2,
        "agent": {"hidden": [8]},
        "data": {"validation_fraction": 0.0},
        "evaluation": {"every": 0, "final_episodes": 1, "max_episode_steps": 5},
    }
    table = {
        "published_by": "somebody",
        "recipe": recipe,
        "algorithms": {
            "td3+bc": {"recipe": {"algo": "td3", "agent": {"bc_alpha": 2.5}}},
            "iql": {"recipe": {"algo": "iql"}, "returns_span": 1000.0},
        },
        "datasets": [
            {"name": HOPPER, "recipe": {"env": "Hopper-v4"}, "published": {"td3+bc": 60.37, "iql": 67.53}},
            {"name": "d4rl:antmaze-umaze-v2"},
            {"name": PEN, "recipe": {"env": "none"}},
        ],
    }
    return table | changes


class Trainings:
    """Counts what is trained, and stops where it is told to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.trained: list[str] = []
        self.resumed: list[str] = []
        self.told: list[str] = []
        self.stop_at = stop_at

    def run(self, table: dict[str, Any], **changes: Any) -> TableScores:
        return run_table(table_from_dict(table), Path("runs"), changes, self.train, self.resume, self.told.append)

    def train(self, recipe: Recipe, path: Path) -> Run:
        self.trained.append(f"{path.parent.name}/{path.name}")
        run = offrl.train(recipe=recipe, out=path, progress=False)
        if len(self.trained) == self.stop_at:
            (path / "evaluations.jsonl").unlink()
            raise KeyboardInterrupt
        return run

    def resume(self, path: Path) -> Run:
        self.resumed.append(f"{path.parent.name}/{path.name}")
        return offrl.resume(path, progress=False)


def test_all_algorithms_learn_from_all_datasets_that_are_there() -> None:
    trainings = Trainings()
    scores = trainings.run(values())
    folders = ["d4rl-hopper-medium-v2/td3+bc", "d4rl-hopper-medium-v2/iql"]
    folders += ["minari-D4RL-pen-human-v2/td3+bc", "minari-D4RL-pen-human-v2/iql"]
    assert trainings.trained == folders
    assert [(cell.dataset, len(cell.scores), cell.published) for cell in scores.cells] == [
        (HOPPER, 2, 60.37),
        (HOPPER, 2, 67.53),
        (PEN, 0, None),
        (PEN, 0, None),
    ]
    assert list(scores.left_out) == ["d4rl:antmaze-umaze-v2"]
    assert any("Left out: d4rl:antmaze-umaze-v2" in line for line in trainings.told)
    found = offrl.open_run(scores.cells[0].run).final_scores()
    assert found is not None
    assert scores.cells[0].scores == tuple(found["normalized_score_per_seed"])
    text = Path("runs/table.md").read_text()
    assert text == scores.markdown()
    assert "Published: somebody" in text
    assert "d4rl:antmaze-umaze-v2" in text


def test_rewards_are_scaled_where_the_table_says_by_how_much_returns_differ() -> None:
    Trainings().run(values())
    returns = offrl.open_dataset(HOPPER).episodes.return_
    recipe = offrl.open_run("runs/d4rl-hopper-medium-v2/iql").recipe
    assert recipe.data.reward_scale == pytest.approx(1000.0 / (returns.max() - returns.min()))
    assert offrl.open_run("runs/d4rl-hopper-medium-v2/td3+bc").recipe.data.reward_scale == 1.0


def test_equal_returns_are_not_scaled() -> None:
    data = offrl.open_dataset(HOPPER)
    assert reward_scale(data[:1], 1000.0) == 1.0


def test_what_was_stopped_goes_on_and_what_is_done_is_kept() -> None:
    with pytest.raises(KeyboardInterrupt):
        Trainings(stop_at=2).run(values())
    again = Trainings()
    scores = again.run(values())
    # The others of Minari's, without an environment, have no scores to tell that they are finished.
    assert again.trained == ["minari-D4RL-pen-human-v2/td3+bc", "minari-D4RL-pen-human-v2/iql"]
    assert again.resumed == ["d4rl-hopper-medium-v2/iql"]
    assert [len(cell.scores) for cell in scores.cells] == [2, 2, 0, 0]


def test_a_run_of_another_recipe_is_not_taken_for_this_table_s() -> None:
    table = values(datasets=[{"name": HOPPER, "recipe": {"env": "Hopper-v4"}}])
    Trainings().run(table)
    with pytest.raises(RequestError, match="another recipe") as raised:
        Trainings().run(table, steps=6)
    assert "d4rl-hopper-medium-v2/td3+bc" in raised.value.where


def test_a_wrong_option_is_refused_before_anything_is_trained() -> None:
    trainings = Trainings()
    with pytest.raises(RecipeError, match="bc_alpa"):
        trainings.run(
            values(
                algorithms={
                    "iql": {"recipe": {"algo": "iql"}},
                    "td3+bc": {"recipe": {"algo": "td3", "agent": {"bc_alpa": 1.0}}},
                }
            )
        )
    assert trainings.trained == []


def test_averages_are_of_datasets_with_scores() -> None:
    here = Path("runs")
    cells = (
        Cell("one", "iql", (10.0, 20.0), 30.0, here),
        Cell("two", "iql", (25.0, 35.0), 50.0, here),
        Cell("three", "iql", (), 70.0, here),
        Cell("one", "bc", (1.0,), None, here),
    )
    scores = TableScores(cells, {}, "", here)
    assert list(scores.averages()) == [("iql", 2, 22.5, 40.0), ("bc", 1, 1.0, None)]
    assert scores.markdown().splitlines()[2:] == [
        "| one | iql | 15.0 | 7.1 | 2 | 30.0 |",
        "| two | iql | 30.0 | 7.1 | 2 | 50.0 |",
        "| three | iql |  |  | 0 | 70.0 |",
        "| one | bc | 1.0 |  | 1 |  |",
        "| average of 2 | iql | 22.5 |  |  | 40.0 |",
        "| average of 1 | bc | 1.0 |  |  |  |",
    ]
    assert json.dumps(scores.to_dict())


def test_the_public_function_reads_a_file_and_names_the_folder_after_it() -> None:
    Path("mine.toml").write_text(
        'datasets = [{name = "pendulum-replay"}]\n'
        "recipe = {steps = 2, batch_size = 8, evaluation = {every = 0, final_episodes = 1, max_episode_steps = 5}}\n"
        'algorithms = {clone = {recipe = {algo = "bc", agent = {hidden = [8]}}}}\n'
    )
    scores = offrl.run_table("mine.toml", settings={"seeds": [3]}, progress=False)
    assert scores.path == Path("runs/mine")
    assert len(scores.cells[0].scores) == 1
    assert (scores.path / "pendulum-replay" / "clone" / "recipe.toml").is_file()
