"""Judging runs from Python: scores, tables, values from logs, pictures and files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import offrl
from offrl.errors import RequestError, RunNotFoundError
from offrl.runs.run import Run
from tests.api.conftest import SMALL


def test_a_run_is_opened_by_its_path(run: Run) -> None:
    opened = offrl.open_run(str(run.path))
    assert opened.recipe == run.recipe
    assert offrl.open_run(run) is run
    shown = repr(opened)
    assert all(words in shown for words in ("bc on ", "seeds [3, 5]", "40 steps", "mean return"))
    with pytest.raises(RunNotFoundError):
        offrl.open_run("nowhere")


def test_scores_are_figures_and_words(run: Run) -> None:
    scores = offrl.evaluate(run.path, 2, seed=9)
    assert scores == run.evaluate(episodes=2, seed=9)
    assert np.shape(scores["returns"]) == (2, 2)
    assert scores["mean_return"] == pytest.approx(np.mean(scores["returns"]))
    assert type(scores.to_dict()) is dict
    assert scores.to_dict() == scores
    lines = repr(scores).splitlines()
    assert lines[0].split() == ["environment", "Pendulum-v1"]
    assert "standard error over 2 seeds and their starts" in lines[1]
    assert len(lines) == 3


def test_metrics_have_a_row_for_each_step_and_seed(run: Run) -> None:
    table = run.metrics()
    assert table[["step", "seed"]].to_numpy().tolist() == [[20, 3], [20, 5], [40, 3], [40, 5]]
    logged = {line["step"]: line for line in run.lines("metrics.jsonl") if "imitation_loss" in line}
    assert table["imitation_loss"].tolist() == [value for step in (20, 40) for value in logged[step]["imitation_loss"]]
    assert table["validation_loss"].notna().all()


def test_evaluations_have_a_row_for_each_step_and_seed(run: Run) -> None:
    table = run.evaluations()
    assert table["step"].tolist() == [20, 20, 40, 40, 40, 40]
    assert table["final"].tolist() == [False] * 4 + [True] * 2
    final, scores = table[table["final"]], run.final_scores()
    assert scores is not None
    assert final["mean_return"].tolist() == pytest.approx(scores["mean_return_per_seed"])
    assert final["mean_length"].tolist() == [200.0, 200.0]
    assert final["episodes"].tolist() == [2, 2]


def test_a_run_without_lines_has_empty_tables(run: Run, tmp_path: Path) -> None:
    empty = Run.create(tmp_path / "run", run.recipe)
    assert (len(empty.metrics()), len(empty.evaluations()), empty.final_scores()) == (0, 0, None)
    assert list(empty.metrics()) == ["step", "seed"]
    assert "mean return" not in repr(empty)


def test_runs_are_compared_in_a_table(run: Run, tmp_path: Path, demos: Path) -> None:
    options = {**SMALL, "evaluation": {"every": 0}}
    unjudged = offrl.train("bc", dataset=demos, env="none", out=tmp_path / "unjudged", **options)
    table, scores = offrl.compare([run, unjudged.path]), run.final_scores()
    assert scores is not None
    assert table["run"].tolist() == [str(run.path), str(unjudged.path)]
    assert table["seeds"].tolist() == [2, 1]
    first = table.iloc[0]
    assert first["mean_return"] == scores["mean_return"]
    assert [first["mean_low"], first["mean_high"]] == scores["mean_return_interval"]
    assert [first["iqm_low"], first["iqm_high"]] == scores["iqm_interval"]
    assert math.isnan(table["mean_return"][1])


def test_policies_are_valued_from_a_log(tmp_path: Path) -> None:
    options = {**SMALL, "evaluation": {"every": 0, "final_episodes": 1}}
    run = offrl.train("bc", dataset="cartpole-random", out=tmp_path / "run", **options)
    log = offrl.open_dataset("cartpole-random")
    found = offrl.ope(run, dataset=log, estimators=["wis"], stochastic=True, resamples=50)
    (policy,) = found.policies
    assert (found.dataset, found.episodes, policy.estimates[0].name) == ("cartpole-random", 1000, "wis")
    with pytest.raises(RequestError, match="weight"):
        offrl.ope(run, dataset=log, reward_bounds=(0.0, 1.0))
    with pytest.raises(RequestError, match="reward"):
        offrl.ope(run, dataset=log, weight_bound=2.0)
    with pytest.raises(RequestError, match="no policy"):
        offrl.ope(dataset=log)
    drawn = offrl.plot(found, tmp_path / "worth")
    assert (drawn.path, drawn.page) == (tmp_path / "worth.png", tmp_path / "worth.html")
    assert (drawn._repr_png_() or b"").startswith(b"\x89PNG")
    with pytest.raises(RequestError, match="out"):
        offrl.plot(found)


def test_learning_curves_are_drawn(run: Run, tmp_path: Path) -> None:
    drawn = offrl.plot(run)
    assert drawn.path == run.path / "plots" / "evaluation.png"
    assert drawn.path.is_file()
    drawn = offrl.plot([run.path, run], tmp_path / "loss.svg", metric="imitation_loss", x="minutes")
    assert len(drawn.curves) == 1
    assert drawn._repr_png_() is None
    with pytest.raises(RequestError, match="one run at a time"):
        offrl.plot([run, run], metric="reward")
    with pytest.raises(RequestError, match="no run"):
        offrl.plot([])


def test_a_policy_leaves_as_a_file(run: Run, tmp_path: Path) -> None:
    result = offrl.export(run, "torchscript", seed=5)
    assert result.path == run.path / "policy-seed-5.pt"
    assert result.metadata["seed"] == 5
    assert offrl.export(run.path, "torchscript", tmp_path / "arm.pt", seed=3).path == tmp_path / "arm.pt"
    with pytest.raises(RequestError, match="no format 'pickle'"):
        offrl.export(run, "pickle", seed=3)
