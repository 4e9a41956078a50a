"""Evaluations of a run: those of its policies, of the checkpoint that it reports, where it is asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offrl.envs.evaluator import evaluate
from offrl.envs.starts import Purpose, Starts
from offrl.errors import RequestError, RunNotFoundError, SpaceMismatchError
from offrl.nn.state import state_tensors
from offrl.runs import evaluate_run as module
from offrl.runs.checkpoint import read_facts
from offrl.runs.evaluate_run import evaluate_run, scores_of
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from tests.envs.counting import COUNTING
from tests.runs.test_acting import untrained


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return untrained(tmp_path / "run", "td3", COUNTING)


def test_the_returns_are_those_of_the_run_s_policies(run: Run) -> None:
    scores = evaluate_run(run, episodes=6, seed=3)
    expected = evaluate(load_policy(run, "last")[0], COUNTING, 6, Starts(Purpose.FINAL, (2, 7), 3))
    np.testing.assert_allclose(scores["returns"], expected.returns)
    assert scores["lengths"] == expected.lengths.tolist()
    told = {name: scores[name] for name in ("checkpoint", "environment", "episodes", "seeds", "starts")}
    expected_told = {"checkpoint": "last", "environment": COUNTING, "episodes": 6, "seeds": [2, 7], "starts": "final"}
    assert told == expected_told
    assert "videos" not in scores


def test_policies_in_memory_score_as_they_do_from_the_disk(run: Run) -> None:
    policy, facts = load_policy(run, "last")
    assert scores_of(policy, run, facts, checkpoint="last", episodes=4) == evaluate_run(run, episodes=4)


def test_the_checkpoint_that_training_reported_is_taken_unless_another_is_named(run: Run) -> None:
    policy, facts = load_policy(run, "last")
    for tensor in state_tensors(policy.state).values():
        tensor.detach().zero_()
    run.save_checkpoint("best", 3, {"state": state_tensors(policy.state)}, {**facts, "step": 3, "normalized": False})
    last, best = (evaluate_run(run, episodes=2, checkpoint=kind) for kind in ("last", "best"))
    assert (last["checkpoint"], best["checkpoint"]) == ("last", "best")
    assert last["returns"] != best["returns"]
    # Only early stopping reports its best one.
    assert evaluate_run(run, episodes=2) == last


def test_references_of_the_data_make_scores(run: Run) -> None:
    policy, facts = load_policy(run, "last")
    plain = evaluate_run(run, episodes=2)
    assert plain["normalized_score"] is None
    references = {"random": plain["mean_return"] - 1.0, "expert": plain["mean_return"] + 1.0}
    scored = scores_of(policy, run, {**facts, "reference_scores": references}, checkpoint="last", episodes=2)
    assert scored["normalized_score"] == pytest.approx(50.0)


def test_another_environment_can_be_named_and_one_is_needed(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SpaceMismatchError, match="CartPole-v1"):
        evaluate_run(run, episodes=1, env="CartPole-v1")
    assert evaluate_run(run, episodes=1, env=COUNTING)["environment"] == COUNTING
    facts = {**read_facts(run.checkpoint("last")), "environment": None}
    policy, _ = load_policy(run, "last")
    with pytest.raises(RequestError, match="names no environment to evaluate in"):
        scores_of(policy, run, facts, checkpoint="last", episodes=1)
    with pytest.raises(RunNotFoundError, match="no 'best' checkpoint"):
        evaluate_run(run, episodes=1, checkpoint="best")


def test_films_are_of_the_same_policies_in_the_same_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def film(policy: Any, environment: str, destination: Path, starts: Starts, **options: Any) -> list[Path]:
        asked.append((policy.seeds, environment, starts))
        return [destination / f"seed-{number}.mp4" for number in starts.seeds]

    monkeypatch.setattr(module, "film", film)
    scores = evaluate_run(run, episodes=1, seed=9, video=tmp_path / "films")
    assert asked == [(2, COUNTING, Starts(Purpose.FINAL, (2, 7), 9))]
    assert scores["videos"] == [str(tmp_path / "films" / f"seed-{number}.mp4") for number in (2, 7)]
