"""The best state of each seed, and the end of training at a goal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from offrl.runs.checkpoint import read_facts
from offrl.training.loop import BestState
from offrl.training.run_training import resume, train
from tests.training.runs import assert_same_tensors, td3_recipe


def test_each_seed_keeps_the_tensors_of_its_best_score() -> None:
    best = BestState(torch.full((2,), float("-inf")))
    weights = torch.tensor([[1.0, 1.0], [10.0, 10.0]])

    assert best.keep(torch.tensor([5.0, 7.0]), {"weights": weights, "steps": torch.tensor(1.0)}).tolist() == [
        True,
        True,
    ]
    weights += 1.0
    assert best.keep(torch.tensor([6.0, 3.0]), {"weights": weights, "steps": torch.tensor(2.0)}).tolist() == [
        True,
        False,
    ]
    weights += 1.0
    assert best.keep(torch.tensor([6.0, 6.9]), {"weights": weights, "steps": torch.tensor(3.0)}).tolist() == [False] * 2

    assert best.scores.tolist() == [6.0, 7.0]
    assert best.tensors["weights"].tolist() == [[2.0, 2.0], [10.0, 10.0]]


def test_what_an_optimizer_comes_to_remember_is_kept_with_the_rest() -> None:
    """PyTorch's make their moments at the first step, which is behind the first evaluation of a fine-tuning."""
    best = BestState(torch.full((2,), float("-inf")))
    weights, moments = torch.ones(2, 3), torch.full((2, 3), 5.0)
    best.keep(torch.tensor([1.0, 9.0]), {"weights": weights})
    improved = best.keep(torch.tensor([2.0, 3.0]), {"weights": weights + 1.0, "moments": moments})
    assert improved.tolist() == [True, False]
    assert best.tensors["weights"].tolist() == [[2.0] * 3, [1.0] * 3]
    assert best.tensors["moments"].tolist() == [[5.0] * 3, [0.0] * 3]
    # A seed's own, by value.
    moments.zero_()
    assert best.tensors["moments"].tolist() == [[5.0] * 3, [0.0] * 3]


@pytest.mark.parametrize(
    # A pendulum's return is never above 0 nor below -2000.
    ("goal", "reached"),
    [(-2_000.0, 120), (0.5, 240), (None, 240)],
)
def test_online_training_ends_at_the_first_evaluation_that_reaches_the_goal(
    goal: float | None, reached: int, tmp_path: Path
) -> None:
    online = {"warmup_steps": 40, "capacity": 150, "environments": 2, "stop_at": goal}
    run = train(td3_recipe(online=online), tmp_path / "run")
    assert read_facts(run.checkpoint("last"))["step"] == reached
    assert [line["step"] for line in run.lines("evaluations.jsonl")] == [*range(120, reached + 1, 120), reached]


def test_a_run_that_reached_its_goal_goes_no_further(tmp_path: Path) -> None:
    online = {"warmup_steps": 40, "capacity": 150, "environments": 2, "stop_at": -2_000.0}
    for name in ("one", "other"):
        run = train(td3_recipe(online=online), tmp_path / name)
    assert_same_tensors(run, resume(tmp_path / "one"))


def test_the_goal_is_for_every_seed(tmp_path: Path) -> None:
    online = {"warmup_steps": 40, "capacity": 150, "environments": 2}
    evaluations = train(td3_recipe(online=online), tmp_path / "run").lines("evaluations.jsonl")
    low, high = sorted(evaluations[0]["mean_return_per_seed"])
    assert low < high
    between = {**online, "stop_at": (low + high) / 2}
    stopped = train(td3_recipe(online=between, steps=130), tmp_path / "between")
    assert read_facts(stopped.checkpoint("last"))["step"] == 130
