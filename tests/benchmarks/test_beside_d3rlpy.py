"""The comparison of returns with d3rlpy's: options that both know, what is handed over, and what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import offrl
from offrl import plugins
from tests.benchmarks import beside_d3rlpy
from tests.benchmarks.beside_d3rlpy import DATASETS, Budget, Cell, hand_over, methods, run_cell, table, verdict


def keep(out: Path, cell: Cell, mean: float) -> None:
    cell.result(out).parent.mkdir(parents=True, exist_ok=True)
    cell.result(out).write_text(json.dumps({"mean_return": mean}))


@pytest.mark.parametrize("dataset", DATASETS)
def test_options_are_those_of_offrl(dataset: str) -> None:
    for name, method in methods(dataset).items():
        config = plugins.algorithms[method.algo].options(method.agent)
        assert list(config.hidden) == method.actor == method.critic, name


def test_episodes_are_handed_over_with_all_their_transitions(tmp_path: Path) -> None:
    data = offrl.open_dataset("hopper-medium-expert")
    hand_over(data, tmp_path / "arrays.npz")
    arrays = dict(np.load(tmp_path / "arrays.npz"))
    ends = np.flatnonzero(arrays["terminals"] + arrays["timeouts"])
    assert len(ends) == len(data)
    assert int(arrays["transitions"]) == data.num_steps
    # d3rlpy takes the rows of a terminated episode as transitions, and all but the last of a truncated one.
    assert len(arrays["rewards"]) - int(arrays["timeouts"].sum()) == data.num_steps
    truncated = next(index for index, episode in enumerate(data) if episode.truncated[-1])
    end, episode = ends[truncated], data[truncated]
    np.testing.assert_array_equal(arrays["observations"][end], episode.observation[-1])
    np.testing.assert_array_equal(arrays["actions"][end - 1], episode.action[-1])
    assert arrays["rewards"][end] == 0.0
    assert arrays["terminals"][end] == 0.0


def test_what_is_finished_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Cell] = []

    def train(cell: Cell, out: Path, budget: Budget) -> list[float]:
        trained.append(cell)
        return [1.0, 2.0]

    monkeypatch.setattr(beside_d3rlpy, "train_ours", train)
    monkeypatch.setattr(beside_d3rlpy, "train_theirs", train)
    cells = [Cell("hopper-medium-replay", "iql", library, 100) for library in ("offrl", "d3rlpy")]
    for cell in cells * 2:
        cell.result(tmp_path).parent.mkdir(parents=True, exist_ok=True)
        run_cell(cell, tmp_path, Budget(10, 2))
    assert trained == cells
    assert (tmp_path / "table.md").read_text() == table(tmp_path)


def test_the_table_has_intervals_over_seeds(tmp_path: Path) -> None:
    for seed, ours, theirs in ((100, 900.0, 800.0), (101, 1000.0, 1000.0), (102, 1100.0, 1200.0)):
        keep(tmp_path, Cell("hopper-medium-replay", "td3+bc", "offrl", seed), ours)
        keep(tmp_path, Cell("hopper-medium-replay", "td3+bc", "d3rlpy", seed), theirs)
    keep(tmp_path, Cell("hopper-medium-replay", "iql", "offrl", 100), 5.0)
    assert table(tmp_path).splitlines()[2:] == [
        "| hopper-medium-replay | iql | 5 | not yet | 1 and 0 | not told yet |",
        "| hopper-medium-replay | td3+bc | 1000 (752 to 1248) | 1000 (503 to 1497) | 3 and 3 | within |",
    ]


@pytest.mark.parametrize(("ours", "word"), [(6.0, "below"), (9.0, "within"), (30.0, "above")])
def test_the_verdict_goes_by_their_interval(ours: float, word: str) -> None:
    # 10 ± 4.30 · 1 / √3 = 10 ± 2.48, by the t of two degrees of freedom.
    assert verdict(np.array([ours]), np.array([9.0, 10.0, 11.0])) == word
    assert verdict(np.array([ours]), np.array([9.0])) == "not told yet"
