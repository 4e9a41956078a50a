"""Matrix products: by NumPy's BLAS where they are small, by PyTorch where they are large, as their output lies."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from offrl.tracing.builder import Builder, Place
from offrl.tracing.graph import Call, Value
from offrl.tracing.operations import arguments_of

aten = torch.ops.aten
LARGEST_PRODUCT = 2**18
"""Multiplications of a matrix product that NumPy's BLAS still does in one thread: others take long to wake."""
NARROW, MANY = 16, 128
"""Products with up to so many columns, and from so many rows on, are computed through their transposes: the plain way
takes two to four times as long."""


def product(b: Builder, call: Call, out: Place | None) -> bool:
    """`mm` and `bmm`."""
    left, right = call.arguments
    return _product(b, call, left, right, None, out)


def product_and_sum(b: Builder, call: Call, out: Place | None) -> bool:
    """`addmm` and `baddbmm`."""
    added, left, right, beta, alpha = arguments_of(call)
    return beta == 1 and alpha == 1 and _product(b, call, left, right, added, out)


def _product(b: Builder, call: Call, left: Value, right: Value, added: Value | None, out: Place | None) -> bool:
    x, y = b.memory(left), b.memory(right)
    bias = None if added is None else b.memory(added)
    if x is None or y is None or (added is not None and bias is None) or x.dtype != torch.float32 or not x.numel():
        return False
    if out is None:
        (value,) = call.made
        narrow = value.shape[-2] >= MANY and value.shape[-1] <= NARROW
        free = not value.storage.rigid and id(value) not in b.assigned
        out = b.transposed_buffer(value) if narrow and free else b.out(value)
    memory = out.tensor
    if memory is None:
        return False
    if bias is not None:
        bias = bias.expand(memory.shape)
    if not memory.is_contiguous() and memory.mT.is_contiguous():
        x, y, memory, bias = y.mT, x.mT, memory.mT, None if bias is None else bias.mT
    _emit(b, x, y, bias, memory)
    return True


def _emit(b: Builder, x: Tensor, y: Tensor, bias: Tensor | None, out: Tensor) -> None:
    rows, inner, columns = x.shape[-2], x.shape[-1], y.shape[-1]
    if len(out.shape) == 3 and len(out) == 1:
        x, y, out, bias = x[0], y[0], out[0], None if bias is None else bias[0]
    if inner == 1:
        _step(b, np.multiply, x, y, out)
    elif rows * inner * columns <= LARGEST_PRODUCT:
        _step(b, np.dot if out.dim() == 2 and out.is_contiguous() else np.matmul, x, y, out)
    else:
        _step_by_torch(b, x, y, bias, out)
        return
    if bias is not None:
        _step(b, np.add, out, _narrowed(bias), out)


def _step(b: Builder, function: object, x: Tensor, y: Tensor, out: Tensor) -> None:
    b.emit(f"{b.global_name(function)}({{0}}, {{1}}, {{2}})", *map(b.array_at, (x, y, out)))


def _step_by_torch(b: Builder, x: Tensor, y: Tensor, bias: Tensor | None, out: Tensor) -> None:
    flat = out.dim() == 2
    if bias is None:
        name = b.global_name(torch.mm if flat else torch.bmm)
        b.emit(f"{name}({{0}}, {{1}}, out={{2}})", *map(b.tensor_at, (x, y, out)))
    else:
        name = b.global_name(torch.addmm if flat else torch.baddbmm)
        b.emit(f"{name}({{0}}, {{1}}, {{2}}, out={{3}})", *map(b.tensor_at, (_narrowed(bias), x, y, out)))


def _narrowed(tensor: Tensor) -> Tensor:
    """A tensor without the repetition along its axes."""
    for axis, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


PRODUCTS = {
    aten.mm.default: product,
    aten.bmm.default: product,
    aten.addmm.default: product_and_sum,
    aten.baddbmm.default: product_and_sum,
}
