"""NumPy for few numbers, PyTorch for many or those elsewhere: what lets one formula serve both.

PyTorch takes longer to dispatch an operation than to do it on some hundred numbers, and several times as long as NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Any
"""A tensor or an array; formulas for both use what has one name and one meaning in either: arithmetic, comparisons,
slices, `sum(-1)`, `mean(-1)`, `argmax(-1)`, `clip`, and the functions of their `namespace`."""


def at_hand(values: Array) -> Array:
    """A tensor's values as an array that shares its memory, where that is this machine's; else what was given."""
    return values.numpy() if is_plain(values) and values.device.type == "cpu" else values


def handed_back(values: Array, to: Any = None) -> Array:
    """What was computed from `at_hand` as a tensor; but where `to`, who asked, had given an array, as an array."""
    if isinstance(to, np.ndarray):
        return at_hand(values)
    return torch.from_numpy(values) if isinstance(values, np.ndarray) else values


def namespace(values: Array) -> Any:
    """The module with the functions for it: NumPy or PyTorch."""
    return np if isinstance(values, np.ndarray) else torch


def one_hot(choice: Array, count: int) -> Array:
    """Which of `count` numbers from 0 each one is: integers [...] to bool [..., count]."""
    numbers = np.arange(count) if isinstance(choice, np.ndarray) else torch.arange(count, device=choice.device)
    return choice[..., None] == numbers


def is_plain(tensor: Any) -> bool:
    """Whether a tensor is just values; tracers, which record what PyTorch does, must see all of that."""
    return type(tensor) is Tensor and torch._C._get_tracing_state() is None
