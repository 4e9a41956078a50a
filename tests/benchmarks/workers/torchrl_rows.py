"""torchrl's replay buffer over one dense tensor storage, and over memory-mapped files."""

from __future__ import annotations

import tempfile

import torch
from measuring import BATCH_SIZE, BLOCK, SAMPLING_EPISODES, Window, main, steadily, synthetic_episodes
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorDictReplayBuffer


def sampling(window: Window, storage: LazyTensorStorage | None = None, batches: int = 1) -> float:
    """Uniform batches of transitions in TorchRL's own layout, the successor nested under "next"."""
    columns = {
        name: torch.from_numpy(column) for name, column in synthetic_episodes(SAMPLING_EPISODES).transitions().items()
    }
    rows, drawn = len(columns["reward"]), batches * BATCH_SIZE
    successor = {
        "observation": columns["next_observation"],
        "reward": columns["reward"].unsqueeze(-1),
        "terminated": columns["terminated"].unsqueeze(-1),
    }
    layout = {"observation": columns["observation"], "action": columns["action"], "next": TensorDict(successor, [rows])}
    if storage is None:
        storage = LazyTensorStorage(rows)
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=drawn)
    buffer.extend(TensorDict(layout, [rows]))

    def step() -> int:
        buffer.sample()
        return drawn

    return steadily(window, step)


def sampling_memmap(window: Window) -> float:
    with tempfile.TemporaryDirectory() as folder:
        rows = synthetic_episodes(SAMPLING_EPISODES).reward.size
        return sampling(window, LazyMemmapStorage(rows, scratch_dir=folder))


def sampling_blocks(window: Window) -> float:
    return sampling(window, batches=BLOCK)


if __name__ == "__main__":
    rows = {"sampling": sampling, "sampling-memmap": sampling_memmap, "sampling-blocks": sampling_blocks}
    main(rows, "torchrl")
