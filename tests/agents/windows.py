"""Random windows for agents that learn from such, and plain modules with one seed's weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from offrl.testing.random_data import RandomData
from offrl.types import Batch, Spec


def random_windows(spec: Spec, count: int, seeds: int, windows: int = 5, steps: int = 4) -> list[Batch]:
    """Batches [S, B, T, …], the last steps of some of which are padding."""
    data = RandomData(spec, 7)
    return [data.windows(seeds, windows, steps, 1.0) for _ in range(count)]


def with_other_padding(batch: Batch) -> Batch:
    """The same with something else where nothing is."""
    assert batch.mask is not None
    assert isinstance(batch.observation, torch.Tensor)
    there = batch.mask.unsqueeze(-1)
    assert not there.all()
    return replace(
        batch,
        observation=torch.where(there, batch.observation, 5.0),
        action=torch.where(there, batch.action, -0.9),
        reward=torch.where(batch.mask, batch.reward, 3.0),
    )
