"""No library: what a single file of straight-line PyTorch does, and what importing PyTorch alone costs."""

from __future__ import annotations

import sys
from itertools import pairwise

import torch
from measuring import (
    ACTION_DIM,
    BATCH_SIZE,
    BLOCK,
    DEMONSTRATIONS,
    HIDDEN,
    OBSERVATION_DIM,
    SAMPLING_EPISODES,
    Window,
    main,
    process_seconds,
    steadily,
    synthetic_episodes,
)
from torch import nn


def sampling(window: Window, batches: int = 1) -> float:
    """Index five tensors with the same random rows."""
    columns = [torch.from_numpy(column) for column in synthetic_episodes(SAMPLING_EPISODES).transitions().values()]
    rows, drawn = len(columns[0]), batches * BATCH_SIZE

    def step() -> int:
        index = torch.randint(rows, (drawn,))
        for column in columns:
            column[index]
        return drawn

    return steadily(window, step)


def sampling_blocks(window: Window) -> float:
    return sampling(window, BLOCK)


def bc(window: Window) -> float:
    """Deterministic cloning: squared error, Adam."""
    transitions = synthetic_episodes(DEMONSTRATIONS).transitions()
    observations, actions = torch.from_numpy(transitions["observation"]), torch.from_numpy(transitions["action"])
    widths = [OBSERVATION_DIM, *HIDDEN]
    hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    policy = nn.Sequential(*hidden, nn.Linear(HIDDEN[-1], ACTION_DIM), nn.Tanh())
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)

    def step() -> int:
        index = torch.randint(len(observations), (BATCH_SIZE,))
        loss = nn.functional.mse_loss(policy(observations[index]), actions[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return 1

    return steadily(window, step)


def import_torch(window: Window) -> float:
    return process_seconds(window, [sys.executable, "-c", "import torch"])


if __name__ == "__main__":
    main({"sampling": sampling, "sampling-blocks": sampling_blocks, "bc": bc, "help": import_torch}, "torch")
