"""What PyTorch's schemas tell about an operation: its arguments, and its forms in place and with a given output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import torch
from torch import Tensor

from offrl.tracing.graph import Call, Value, replaced


def arguments_of(call: Call) -> list[Any]:
    """All arguments in the order of the schema, defaults included; without those for outputs."""
    found = []
    for position, argument in enumerate(call.function._schema.arguments):
        if argument.is_out:
            continue
        if position < len(call.arguments):
            found.append(call.arguments[position])
        else:
            found.append(call.options.get(argument.name, argument.default_value))
    return found


@lru_cache(maxsize=1024)
def with_output(function: Any) -> tuple[Any, list[str]] | None:
    """The form of a function that writes to given tensors, and the names of the arguments for them."""
    for other in _overloads(function):
        outputs = [argument.name for argument in other._schema.arguments if argument.is_out]
        if outputs and len(outputs) == len(function._schema.returns) and _alike(function, other):
            return other, outputs
    return None


@lru_cache(maxsize=1024)
def without_output(function: Any) -> Any:
    """The form of a function that makes what it computes, for one that writes in place or to a given tensor."""
    name = function.overloadpacket.__name__
    arguments = function._schema.arguments
    if name.endswith("_") and not name.endswith("__") and arguments and arguments[0].alias_info is not None:
        packet = getattr(torch.ops.aten, name[:-1], None)
        others = [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]
        return next((other for other in others if _alike(function, other)), None)
    for other in _overloads(function):
        found = with_output(other)
        if found is not None and found[0] is function:
            return other
    return None


def _overloads(function: Any) -> list[Any]:
    packet = function.overloadpacket
    return [getattr(packet, name) for name in packet.overloads()]


def _alike(function: Any, other: Any) -> bool:
    """Whether two overloads take the same, but for what they write to."""
    ours, theirs = (
        [(argument.name, str(argument.type)) for argument in overload._schema.arguments if not argument.is_out]
        for overload in (function, other)
    )
    return ours == theirs


def spelled(function: Any, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    """What calls a function fastest: PyTorch's own binding takes half as long as an `OpOverload`.

    Args:
        function: an overload.
        arguments, options: of the call, with values in place of tensors.
    """
    if function.namespace != "aten":
        return function
    name = function.overloadpacket.__name__
    binding = getattr(torch, name, None)
    if not isinstance(binding, BuiltinFunctionType):
        binding = getattr(Tensor, name, None)
    if not isinstance(binding, BuiltinFunctionType | MethodDescriptorType):
        return function._op
    try:
        # On tensors without memory: not every overload has a binding.
        binding(*replaced(arguments, Value, _without_memory), **replaced(options, Value, _without_memory))
    except TypeError:
        return function._op
    except (RuntimeError, NotImplementedError):
        return binding
    return binding


def _without_memory(value: Value) -> Tensor:
    return torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device="meta")
