"""The best state of each seed."""

from __future__ import annotations

import torch

from offrl.train.loop import BestState


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
