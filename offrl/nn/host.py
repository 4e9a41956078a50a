"""Small networks on a few observations in NumPy: PyTorch takes longer to dispatch each operation than to do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_ROWS = 8
"""Observations of a seed; with more, the arithmetic is what takes the time."""
LARGEST_LAYER = 8_192
"""Elements of a weight; from here on NumPy's products may go to several threads, which take long to wake."""


def rectify(values: NDArray[Any]) -> None:
    """max(x, 0), in place."""
    np.maximum(values, 0.0, out=values)


def squash(values: NDArray[Any]) -> None:
    """tanh x, in place."""
    np.tanh(values, out=values)


IN_PLACE: dict[str, Callable[[NDArray[Any]], None]] = {"relu": rectify, "tanh": squash}


class HostLayers:
    """Affine layers with an activation between them, computed in NumPy from parameters that it shares with PyTorch.

    Args:
        layers: for each layer, W [N, outputs, inputs] and b [N, 1, outputs], outside of autograd.
        activation: "relu" or "tanh".
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], activation: str) -> None:
        small = all(weight.device.type == "cpu" and weight[0].numel() <= LARGEST_LAYER for weight, _ in layers)
        self.most_rows = MOST_ROWS if small else 0
        arrays = [(weight.mT.numpy(), bias.numpy()) for weight, bias in layers] if small else []
        self.product: Callable[..., NDArray[Any]] = np.matmul
        self.single = all(len(weight) == 1 for weight, _ in layers)
        if self.single:
            # Matrices rather than stacks of one: NumPy has less to look at.
            arrays, self.product = [(weight[0], bias[0]) for weight, bias in arrays], np.dot
        self.hidden, self.last = arrays[:-1], arrays[-1:]
        self.activate = IN_PLACE[activation]

    def takes(self, x: Tensor) -> bool:
        """Whether these are few rows for small layers."""
        return is_plain(x) and x.shape[1] <= self.most_rows

    def __call__(self, x: Tensor) -> Tensor:
        """[N, B, inputs] to [N, B, outputs]."""
        values = x.numpy()[0] if self.single else x.numpy()
        for weight, bias in self.hidden:
            values = self.product(values, weight)
            values += bias
            self.activate(values)
        ((weight, bias),) = self.last
        output = self.product(values, weight) + bias
        return torch.from_numpy(output[None] if self.single else output)


def at_hand(tensor: Tensor) -> Any:
    """A tensor's values as an array that shares its memory, where that is this machine's; else the tensor itself.

    For what both have under one name: arithmetic, comparisons, `sum(-1)`, `argmax(-1)`.
    """
    return tensor.numpy() if is_plain(tensor) and tensor.device.type == "cpu" else tensor


def handed_back(values: Any) -> Tensor:
    """What was computed from `at_hand` as a tensor."""
    return torch.from_numpy(values) if isinstance(values, np.ndarray) else values


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is just values; tracers, which record what PyTorch does, must see all of that."""
    return type(tensor) is Tensor and torch._C._get_tracing_state() is None


Function = TypeVar("Function", bound=Callable[..., Any])


def without_gradients(function: Function) -> Function:
    """As `torch.no_grad()`, whose own bookkeeping takes as long as a small layer does."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            return function(*arguments, **options)
        finally:
            torch._C._set_grad_enabled(before)

    return cast(Function, call)
