"""The summary of an evaluation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from offrl.envs.evaluator import Evaluation
from offrl.envs.starts import Purpose, Starts
from offrl.runs.scores import Scores, normalized_score, summarize

RETURNS = [[10.0, 30.0], [40.0, 60.0]]
EVALUATION = Evaluation(np.array(RETURNS), np.array([[1, 2], [3, 4]]))
REFERENCES = {"random": 0.0, "expert": 70.0}


def scores_of(returns: list[list[float]], references: dict[str, float] | None = None) -> Scores:
    """As many seeds as there are rows."""
    evaluation = Evaluation(np.array(returns), np.ones((len(returns), len(returns[0])), np.int64))
    starts = Starts(Purpose.FINAL, tuple(range(len(returns))))
    return Scores(summarize(evaluation, "Some-v0", starts, references or {}))


def test_normalized_scores_are_0_for_random_and_100_for_the_expert() -> None:
    scores = {"random": -50.0, "expert": 150.0}
    assert [normalized_score(value, scores) for value in (-50.0, 150.0, 50.0)] == [0.0, 100.0, 50.0]
    assert normalized_score(1.0, {}) is None
    assert normalized_score(1.0, {"random": 0.0}) is None


def test_a_summary_is_json_with_every_return() -> None:
    summary = summarize(EVALUATION, "Some-v0", Starts(Purpose.PROGRESS, (3, 4), 50), REFERENCES)

    assert json.loads(json.dumps(summary)) == summary
    assert (summary["seeds"], summary["starts"], summary["episodes"]) == ([3, 4], "progress", 2)
    assert summary["returns"] == RETURNS
    assert summary["lengths"] == [[1, 2], [3, 4]]
    assert summary["mean_return_per_seed"] == [20.0, 50.0]
    assert summary["mean_return"] == summary["iqm"] == 35.0
    assert summary["standard_error"] == pytest.approx(15.0)
    # Student's t with one degree of freedom.
    assert summary["mean_return_interval"] == pytest.approx([35.0 - 12.7062 * 15.0, 35.0 + 12.7062 * 15.0], rel=1e-4)
    assert summary["iqm_interval"] == pytest.approx(summary["mean_return_interval"])
    assert summary["normalized_score"] == pytest.approx(50.0)
    assert summary["normalized_score_per_seed"] == pytest.approx([200 / 7, 500 / 7])


def test_what_is_not_known_is_none() -> None:
    unknown = ("standard_error", "mean_return_interval", "iqm", "iqm_interval", "normalized_score")
    single = scores_of([[5.0]])
    assert [single[name] for name in (*unknown, "normalized_score_per_seed")] == [None] * 6
    assert single.summary() == {"environment": "Some-v0", "mean return": "5.00"}
    boundless = scores_of([[1.0, np.inf], [2.0, 3.0]])
    assert [boundless[name] for name in ("standard_error", "mean_return_interval", "iqm_interval")] == [None] * 3


def test_one_seed_s_error_is_over_its_episodes_and_it_has_no_interquartile_mean() -> None:
    one = scores_of([[1.0, 2.0, 3.0, 6.0]])
    assert (one["iqm"], one["iqm_interval"]) == (None, None)
    assert one.summary() == {
        "environment": "Some-v0",
        "mean return": "3.00 ± 1.08 (standard error over 4 episodes of one training)",
        "95% interval": "-0.44 to 6.44 (Student's t)",
    }


def test_several_seeds_errors_are_over_seeds_and_starts() -> None:
    words = scores_of(RETURNS, REFERENCES).summary()
    assert words["mean return"] == "35.0 ± 15.0 (standard error over 2 seeds and their starts)"
    assert words["95% interval"] == "-155.6 to 225.6 (Student's t)"
    assert "interquartile mean" not in words
    five = scores_of([[value] for value in (1.0, 2.0, 3.0, 5.0, 9.0)]).summary()
    assert five["interquartile mean"] == "3.33 (95% interval -1.53 to 8.20, Student's t)"
    assert words["normalized score"] == "50.0 (0: random, 0.0; 100: expert, 70.0)"
    many = scores_of([[float(seed)] for seed in range(12)]).summary()
    assert many["interquartile mean"].endswith(", bootstrap over seeds)")
    assert many["interquartile mean"].startswith("5.50 (95% interval ")


def test_lines_of_earlier_versions_are_read_anew() -> None:
    """They shared their starts among seeds, and had an interquartile mean of one seed, over its episodes."""
    old: dict[str, Any] = {
        "environment": "Some-v0",
        "episodes": 2,
        "returns": RETURNS,
        "normalized_score": None,
        "iqm": 35.0,
        "iqm_interval": [30.0, 40.0],
    }
    several = Scores.of_line({**old, "seeds": [0, 1]})
    assert several.summary()["mean return"] == "35.0 ± 15.0 (standard error over 2 seeds, all from the same starts)"
    assert several["iqm_interval"] == several["mean_return_interval"]
    one = Scores.of_line({**old, "returns": RETURNS[:1], "seeds": [0]})
    assert (one["iqm"], one["iqm_interval"], one["standard_error"]) == (None, None, 10.0)
