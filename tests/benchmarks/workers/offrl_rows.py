"""offrl itself."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
import numpy as np
from measuring import (
    ACTION_DIM,
    BATCH_SIZE,
    BLOCK,
    EPISODE_LENGTH,
    OBSERVATION_DIM,
    SAMPLING_EPISODES,
    Window,
    main,
    process_seconds,
    steadily,
    synthetic_episodes,
)

from offrl.data.block import EpisodeBlock
from offrl.data.sampler import ReplaySampler
from offrl.data.store import StoreWriter, TrajectoryStore
from offrl.types import Spec


@contextmanager
def store(episodes: int) -> Iterator[TrajectoryStore]:
    """The synthetic episodes as a store on disk."""
    data = synthetic_episodes(episodes)

    def with_final_row(values: np.ndarray) -> np.ndarray:
        """[episodes, T, …] to [episodes · (T + 1), …], zero where only the final observation stands."""
        padding = [(0, 0), (0, 1)] + [(0, 0)] * (values.ndim - 2)
        return np.pad(values, padding).reshape(-1, *values.shape[2:])

    columns = {
        "observation": data.observation.reshape(-1, OBSERVATION_DIM),
        "action": with_final_row(data.action),
        "reward": with_final_row(data.reward),
        "terminated": np.zeros(data.observation.shape[:2], dtype=bool).reshape(-1),
        "truncated": with_final_row(np.tile(np.arange(EPISODE_LENGTH) == EPISODE_LENGTH - 1, (episodes, 1))),
    }
    spec = Spec(
        gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32),
        gym.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32),
    )
    with tempfile.TemporaryDirectory() as folder:
        with StoreWriter(Path(folder) / "store", spec) as writer:
            writer.append(EpisodeBlock(columns, np.full(episodes, EPISODE_LENGTH)))
        yield writer.close()


def sampling(window: Window, batches: int = 1) -> float:
    with store(SAMPLING_EPISODES) as dataset:
        sampler = ReplaySampler([dataset], batch_size=BATCH_SIZE, seeds=[0])

        def step() -> int:
            sampler.sample(batches)
            return batches * BATCH_SIZE

        return steadily(window, step)


def sampling_blocks(window: Window) -> float:
    """As the training loop draws them."""
    return sampling(window, BLOCK)


def show_help(window: Window) -> float:
    """`offrl --help`, as the shell starts it."""
    return process_seconds(window, [str(Path(sys.executable).with_name("offrl")), "--help"])


if __name__ == "__main__":
    main({"sampling": sampling, "sampling-blocks": sampling_blocks, "help": show_help}, "offrl")
