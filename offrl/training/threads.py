"""How many threads share PyTorch's operations on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from offrl.envs.policy import Policy
from offrl.nn.state import modules_of
from offrl.replay.row_layout import RowLayout

SMALL_PRODUCT = 2**20
"""Multiplications of a matrix product that one thread does in some 25 µs."""


@contextmanager
def threads_for(rows: int, policy: Policy) -> Iterator[None]:
    """One thread for small networks, and as many as there were before for others, and afterwards.

    Args:
        rows: transitions of each seed that one gradient step learns from.
        policy: its state's networks do.

    Sharing a small product saves microseconds at best, and costs a wait for the slower thread at every operation: where
    the other core is busy, each of them takes milliseconds.
    """
    before = torch.get_num_threads()
    sizes = (part.numel() for network in modules_of(policy.state) for part in network.parameters())
    # Images are convolved, which is larger work than the weights tell.
    images = bool(RowLayout.of(policy.agent.spec).images)
    if not images and rows * max(sizes, default=0) <= SMALL_PRODUCT:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
