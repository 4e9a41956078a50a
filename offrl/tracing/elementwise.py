"""Operations element by element in NumPy, which dispatches each in a fraction of PyTorch's time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from offrl.tracing.builder import ARRAYS, Builder, Place, Seen
from offrl.tracing.graph import Call, Value
from offrl.tracing.operations import arguments_of

aten = torch.ops.aten
LARGEST = 2**17
"""Elements of a result: beyond, PyTorch may share the work among threads."""
LARGEST_MASKED = 2**11
"""Elements from which on PyTorch's kernels for maxima and masks are faster."""
_umath: Any = getattr(np, "_core", None) or np.core  # The function behind `np.clip`, which spends its time on options.

FORMULAS = {
    aten.abs.default: "absolute({0}, {o})",
    aten.neg.default: "negative({0}, {o})",
    aten.exp.default: "exp({0}, {o})",
    aten.expm1.default: "expm1({0}, {o})",
    aten.log.default: "log({0}, {o})",
    aten.log1p.default: "log1p({0}, {o})",
    aten.sqrt.default: "sqrt({0}, {o})",
    aten.rsqrt.default: "sqrt({0}, {o}); reciprocal({o}, {o})",
    aten.reciprocal.default: "reciprocal({0}, {o})",
    aten.tanh.default: "tanh({0}, {o})",
    aten.sin.default: "sin({0}, {o})",
    aten.cos.default: "cos({0}, {o})",
    aten.sign.default: "sign({0}, {o})",
    aten.sgn.default: "sign({0}, {o})",
    aten.floor.default: "floor({0}, {o})",
    aten.ceil.default: "ceil({0}, {o})",
    aten.isnan.default: "isnan({0}, {o})",
    aten.logical_not.default: "logical_not({0}, {o})",
    aten.add.Tensor: "add({0}, {1}, {o})",
    aten.add.Scalar: "add({0}, {1}, {o})",
    aten.sub.Tensor: "subtract({0}, {1}, {o})",
    aten.sub.Scalar: "subtract({0}, {1}, {o})",
    aten.rsub.Scalar: "subtract({1}, {0}, {o})",
    aten.mul.Tensor: "multiply({0}, {1}, {o})",
    aten.mul.Scalar: "multiply({0}, {1}, {o})",
    aten.div.Tensor: "divide({0}, {1}, {o})",
    aten.div.Scalar: "divide({0}, {1}, {o})",
    aten.addcmul.default: "multiply({1}, {2}, {s}); add({0}, {s}, {o})",
    aten.addcdiv.default: "divide({1}, {2}, {s}); add({0}, {s}, {o})",
    aten.lerp.Scalar: "subtract({1}, {0}, {s}); multiply({s}, {2}, {s}); add({0}, {s}, {o})",
    aten.eq.Tensor: "equal({0}, {1}, {o})",
    aten.eq.Scalar: "equal({0}, {1}, {o})",
    aten.ne.Tensor: "not_equal({0}, {1}, {o})",
    aten.ne.Scalar: "not_equal({0}, {1}, {o})",
    aten.lt.Tensor: "less({0}, {1}, {o})",
    aten.lt.Scalar: "less({0}, {1}, {o})",
    aten.le.Tensor: "less_equal({0}, {1}, {o})",
    aten.le.Scalar: "less_equal({0}, {1}, {o})",
    aten.gt.Tensor: "greater({0}, {1}, {o})",
    aten.gt.Scalar: "greater({0}, {1}, {o})",
    aten.ge.Tensor: "greater_equal({0}, {1}, {o})",
    aten.ge.Scalar: "greater_equal({0}, {1}, {o})",
    aten.logical_and.default: "logical_and({0}, {1}, {o})",
    aten.logical_or.default: "logical_or({0}, {1}, {o})",
    aten.bitwise_and.Tensor: "bitwise_and({0}, {1}, {o})",
    aten.bitwise_or.Tensor: "bitwise_or({0}, {1}, {o})",
    aten.bitwise_not.default: "invert({0}, {o})",
    aten.pow.Tensor_Scalar: "power({0}, {1}, {o})",
    aten.tanh_backward.default: "multiply({1}, {1}, {s}); subtract({one}, {s}, {s}); multiply({0}, {s}, {o})",
    aten.sigmoid_backward.default: "subtract({one}, {1}, {s}); multiply({s}, {1}, {s}); multiply({0}, {s}, {o})",
}
POWERS = {
    2: "square({0}, {o})",
    0.5: "sqrt({0}, {o})",
    -1: "reciprocal({0}, {o})",
    3: "square({0}, {s}); multiply({0}, {s}, {o})",
}
SCALED = {aten.add.Tensor, aten.sub.Tensor, aten.add.Scalar, aten.sub.Scalar, aten.rsub.Scalar} | {
    aten.addcmul.default,
    aten.addcdiv.default,
}
"""Those whose last argument is a factor."""
COMPARISONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}


def elementwise(b: Builder, call: Call, out: Place | None) -> bool:
    """Those with a formula in the table."""
    arguments, function = arguments_of(call), call.function
    formula = FORMULAS[function]
    if function in SCALED:
        if arguments.pop() != 1:
            return False
    elif function is aten.pow.Tensor_Scalar:
        formula = POWERS.get(arguments[1], formula)
    return apply(b, call, formula, arguments, out)


def apply(b: Builder, call: Call, formula: str, arguments: list[Any], out: Place | None) -> bool:
    """Add the steps of a formula; False where NumPy can't compute it, or is slower.

    Its gaps are the arguments by number, the output {o}, the number {one}, and {s} for a step's result.
    """
    operands = [part for part in arguments if isinstance(part, Value)]
    result = call.made[0] if out is None else call.written[0]
    dtypes = {part.dtype for part in [*operands, result]}
    if result.size > LARGEST or not dtypes <= ARRAYS or not result.size:
        return False
    logical = ("logical", "bitwise", "invert", "isnan", *COMPARISONS)
    if result.dtype != torch.float32 and not formula.startswith(logical) and dtypes != {torch.int64}:
        return False
    if out is None:
        out = b.out(result, *operands)
    dtype = torch.result_type(*_examples(arguments)) if formula.split("(")[0] in COMPARISONS else result.dtype
    gaps = {str(n): b.array(part, dtype) for n, part in enumerate(arguments) if isinstance(part, Value | float | int)}
    gaps |= {"o": b.array_at(out), "one": b.array(1.0)}
    if "{s}" in formula:
        gaps["s"] = b.array_at(b.scratch(result.shape))
    for part in formula.split("; "):
        emit(b, part, gaps)
    return True


def _examples(arguments: list[Any]) -> list[Any]:
    """Empty tensors like two arguments, and numbers as they are."""
    return [
        torch.empty((0,) if part.shape else (), dtype=part.dtype) if isinstance(part, Value) else part
        for part in arguments[:2]
    ]


def emit(b: Builder, formula: str, gaps: dict[str, Seen]) -> None:
    """Add one step, the call of a function of NumPy's."""
    name, inside = formula.split("(", 1)
    order: list[Seen] = []

    def numbered(gap: re.Match[str]) -> str:
        order.append(gaps[gap[1]])
        return f"{{{len(order) - 1}}}"

    b.emit(f"{b.global_name(getattr(np, name))}({re.sub(r'{(.+?)}', numbered, inside)}", *order)


def rectified(b: Builder, call: Call, out: Place | None) -> bool:
    """max(x, 0), for which PyTorch is faster, and fastest in place."""
    (x,) = call.arguments
    if out is None:
        out = b.out(call.made[0], x)
    source = b.place(x)
    if source.tensor is None or out.tensor is None:
        return False
    if source.tensor.data_ptr() != out.tensor.data_ptr():
        b.emit(f"{b.global_name(torch.clamp_min)}({{0}}, 0.0, out={{1}})", b.tensor_at(source), b.tensor_at(out))
    else:
        b.emit(f"{b.global_name(torch.relu_)}({{0}})", b.tensor_at(out))
    return True


def threshold_backward(b: Builder, call: Call, out: Place | None) -> bool:
    """The gradient where x is above the threshold."""
    gradient, x, threshold = arguments_of(call)[:3]
    result = call.made[0] if out is None else call.written[0]
    if result.dtype != torch.float32:
        return False
    if out is None:
        out = b.out(result, gradient)
    if result.size <= LARGEST_MASKED:
        mask = b.array_at(b.scratch(result.shape, torch.bool))
        gaps = {
            "0": b.array(gradient),
            "1": b.array(x),
            "2": b.array(float(threshold)),
            "m": mask,
            "o": b.array_at(out),
        }
        emit(b, "greater({1}, {2}, {m})", gaps)
        emit(b, "multiply({0}, {m}, {o})", gaps)
        return True
    name = b.global_name(aten.threshold_backward.grad_input._op)
    seen = [b.tensor_at(place) for place in (b.place(gradient), b.place(x), out)]
    b.emit(f"{name}({{0}}, {{1}}, {float(threshold)!r}, grad_input={{2}})", *seen)
    return True


def clamped(b: Builder, call: Call, out: Place | None) -> bool:
    """Values within two bounds."""
    x, *given = arguments_of(call)
    low, high = BOUNDS[call.function](*given)
    result = call.made[0] if out is None else call.written[0]
    bounds = (low, high)
    if result.dtype != torch.float32 or result.size > LARGEST or any(isinstance(bound, Value) for bound in bounds):
        return False
    if out is None:
        out = b.out(result, x)
    limits = [float("-inf") if low is None else low, float("inf") if high is None else high]
    name = b.global_name(_umath.umath.clip)
    b.emit(f"{name}({{0}}, {{1}}, {{2}}, {{3}})", b.array(x), *map(b.array, limits), b.array_at(out))
    return True


BOUNDS: dict[Any, Callable[..., tuple[Any, Any]]] = {
    aten.clamp.default: lambda low, high: (low, high),
    aten.clamp_min.default: lambda low: (low, None),
    aten.clamp_max.default: lambda high: (None, high),
}
ELEMENTWISE = dict.fromkeys(FORMULAS, elementwise) | {
    aten.relu.default: rectified,
    aten.threshold_backward.default: threshold_backward,
    **dict.fromkeys(BOUNDS, clamped),
}
