"""The summary of an evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest

from offrl.envs.evaluator import Evaluation
from offrl.runs.scores import normalized_score, summarize

EVALUATION = Evaluation(np.array([[10.0, 30.0], [40.0, 60.0]]), np.array([[1, 2], [3, 4]]))


def test_normalized_scores_are_0_for_random_and_100_for_the_expert() -> None:
    scores = {"random": -50.0, "expert": 150.0}
    assert [normalized_score(value, scores) for value in (-50.0, 150.0, 50.0)] == [0.0, 100.0, 50.0]
    assert normalized_score(1.0, {}) is None
    assert normalized_score(1.0, {"random": 0.0}) is None
    assert normalized_score(1.0, {"random": 7.0, "expert": 7.0}) is None


def test_a_summary_is_json_with_every_return() -> None:
    summary = summarize(EVALUATION, "Some-v0", (3, 4), {"random": 0.0, "expert": 70.0})

    assert json.loads(json.dumps(summary)) == summary
    assert summary["returns"] == [[10.0, 30.0], [40.0, 60.0]]
    assert summary["lengths"] == [[1, 2], [3, 4]]
    assert summary["mean_return_per_seed"] == [20.0, 50.0]
    assert summary["mean_return"] == summary["iqm"] == 35.0
    assert summary["standard_error"] == pytest.approx(15.0)
    assert summary["normalized_score"] == pytest.approx(50.0)
    assert summary["normalized_score_per_seed"] == pytest.approx([200 / 7, 500 / 7])
    low, high = summary["iqm_interval"]
    assert 10.0 <= low < 35.0 < high <= 60.0


def test_what_is_not_known_is_none() -> None:
    summary = summarize(Evaluation(np.array([[5.0]]), np.array([[1]])), "Some-v0", (0,), {})
    assert summary["standard_error"] is None
    assert summary["normalized_score"] is None
    assert summary["normalized_score_per_seed"] is None
