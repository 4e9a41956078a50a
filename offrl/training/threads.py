"""How many threads share PyTorch's operations on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from offrl.config.recipe import Recipe
from offrl.envs.policy import Policy
from offrl.feeds import feed_of
from offrl.nn.state import state_tensors
from offrl.replay.row_layout import RowLayout

SMALL_PRODUCT = 2**20
"""Multiplications of a matrix product that one thread does in some 25 µs."""


@contextmanager
def threads_for(recipe: Recipe, policy: Policy) -> Iterator[None]:
    """One thread for small networks, and as many as there were before for others, and afterwards.

    Sharing a small product saves microseconds at best, and costs a wait for the slower thread at every operation: where
    the other core is busy, each of them takes milliseconds.
    """
    before = torch.get_num_threads()
    if largest_product(feed_of(recipe).gradient_rows(recipe), policy) <= SMALL_PRODUCT:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def largest_product(rows: int, policy: Policy) -> float:
    """Multiplications of the largest matrix product in a gradient step; infinite with images, which are convolved."""
    if RowLayout.of(policy.agent.spec).images:
        return float("inf")
    return float(rows * max((tensor.numel() for tensor in state_tensors(policy.state).values()), default=0))
