"""Comparisons of what agents hold and return, whose errors name what differs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from offrl.nn.state import state_tensors
from offrl.ops.trees import tree_leaves, tree_map

RTOL, ATOL = 1e-4, 1e-5
"""Float tolerance: of sums whose order isn't the same, and what optimizers make of them."""


def copy_of(tree: Any) -> Any:
    """The tensors of a tree as they are now."""
    return tree_map(lambda tensor: tensor.detach().clone(), tree)


def values_of(state: Any) -> dict[str, Tensor]:
    """All that a checkpoint saves of a state, as it is now."""
    values: dict[str, Tensor] = copy_of(state_tensors(state))
    return values


def require(holds: bool, what: str) -> None:
    """Raise AssertionError unless something holds."""
    if not holds:
        raise AssertionError(what)


def require_same(found: Any, expected: Any, what: str) -> None:
    """Raise AssertionError unless two trees have the same bits; NaN is like NaN.

    Args:
        found, expected: trees of tensors.
        what: says in a sentence's beginning what should be the same.
    """
    require_close(found, expected, what, rtol=0.0, atol=0.0)


def require_close(found: Any, expected: Any, what: str, rtol: float = RTOL, atol: float = ATOL) -> None:
    """Raise AssertionError unless two trees are the same up to float tolerance."""
    ours, theirs = dict(tree_leaves(found)), dict(tree_leaves(expected))
    different = ", ".join(sorted(ours.keys() ^ theirs.keys()))
    require(not different, f"{what}: only one of the two has {different}")
    for name, tensor in ours.items():
        other = theirs[name]
        place = f"{what}: '{name}'" if name else what
        kinds = [f"{each.dtype} {list(each.shape)}" for each in (tensor, other)]
        require(kinds[0] == kinds[1], f"{place} is {kinds[0]}, not {kinds[1]}")
        if not torch.allclose(tensor.double(), other.double(), rtol=rtol, atol=atol, equal_nan=True):
            off = (tensor.double() - other.double()).abs().max()
            raise AssertionError(f"{place} is off by up to {float(off):.3g}, of values up to {_largest(other):.3g}")


def _largest(tensor: Tensor) -> float:
    return float(tensor.double().abs().max())
