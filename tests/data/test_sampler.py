"""The sampler against plain loops over episodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from offrl.data.sampler import ReplaySampler
from offrl.data.store import TrajectoryStore
from tests.data.stores import make_store


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    return make_store(tmp_path / "s", [3, 1, 5, 8, 2], shard_bytes=200)


def test_calls_may_be_blocked_as_one_likes(store: TrajectoryStore) -> None:
    one = ReplaySampler([store], batch_size=7, seeds=[3, 5]).sample(4)
    sampler = ReplaySampler([store], batch_size=7, seeds=[3, 5])
    two = [sampler.sample(2), sampler.sample(2)]
    torch.testing.assert_close(one.reward, torch.cat([batch.reward for batch in two]), rtol=0, atol=0)
