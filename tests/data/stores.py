"""Small stores to test with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.types import Spec

SPEC = Spec(gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), gym.spaces.Box(-1.0, 3.0, (1,), np.float32))


def make_block(lengths: list[int], seed: int = 0) -> EpisodeBlock:
    """Random episodes of the given lengths that fit `SPEC`; every other one is truncated, the first terminates."""
    rng = np.random.default_rng(seed)
    sizes = np.array(lengths, np.int64)
    rows = int(sizes.sum() + len(sizes))
    final = np.cumsum(sizes + 1) - 1
    columns: dict[str, NDArray[Any]] = {
        "observation": rng.standard_normal((rows, 2)).astype(np.float32),
        "action": rng.uniform(-1, 3, (rows, 1)).astype(np.float32),
        "reward": rng.standard_normal(rows),
        "terminated": np.zeros(rows, np.bool_),
        "truncated": np.zeros(rows, np.bool_),
    }
    columns["action"][final] = 0
    columns["reward"][final] = 0
    columns["terminated"][final[::2] - 1] = True
    columns["truncated"][final[1::2] - 1] = True
    return EpisodeBlock(columns, sizes, np.arange(len(sizes)) + seed, [f"f#{i}" for i in range(len(sizes))])


def make_store(path: Path, lengths: list[int], *, seed: int = 0, shard_bytes: int = 64 * 2**20) -> TrajectoryStore:
    """A store of `make_block`'s episodes."""
    with StoreWriter(path, SPEC, shard_bytes=shard_bytes) as writer:
        writer.append(make_block(lengths, seed))
    return TrajectoryStore.open(path)
