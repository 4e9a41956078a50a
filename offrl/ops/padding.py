"""Windows of episodes, [S, B, T], whose last steps may be padding."""

from __future__ import annotations

from torch import Tensor

from offrl.types import Batch


def mean_over_steps(values: Tensor, windows: Batch) -> Tensor:
    """The mean of [S, B, T] over the steps that aren't padding, [S]."""
    assert windows.mask is not None
    there = windows.mask.to(values.dtype)
    return (values * there).sum(dim=(1, 2)) / there.sum(dim=(1, 2))
