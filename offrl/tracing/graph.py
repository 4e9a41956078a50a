"""A recorded update: calls of ATen operations on values, with the memory that each value lies in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor


class Origin(Enum):
    """Where memory comes from."""

    STATE = "state"
    INPUT = "input"
    MADE = "made"


@dataclass(eq=False)
class Storage:
    """Memory that values share.

    Attributes:
        origin: what it belongs to.
        rigid: whether some call writes to it behind the one that made it, or reads it by addresses: its values then lie
            as they were recorded, and none is computed elsewhere.
    """

    origin: Origin
    rigid: bool = False


@dataclass(eq=False)
class Value:
    """A tensor in a recorded update.

    Attributes:
        tensor: the tensor itself, where it is the state's or a number in the source code.
        position: among the inputs.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    storage: Storage
    tensor: Tensor | None = None
    position: int | None = None

    @classmethod
    def of(cls, tensor: Tensor, storage: Storage, *, kept: bool = False, position: int | None = None) -> Value:
        """The value that a tensor stands for."""
        shape, stride = tuple(tensor.shape), tuple(tensor.stride())
        return cls(shape, stride, tensor.dtype, storage, tensor if kept else None, position)

    @property
    def size(self) -> int:
        """How many elements it has."""
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclass(eq=False)
class Call:
    """One operation.

    Attributes:
        arguments, options: as recorded, with values in place of tensors.
        result: values for the tensors that it returned, in the same lists and tuples; None for others.
        made: the values that it made: those of `result` that weren't there before.
        written: the values that it changes in place.
        is_view: whether all that it makes is memory of its arguments.
    """

    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    result: Any
    made: list[Value]
    written: list[Value] = field(default_factory=list)
    is_view: bool = False

    def read(self) -> Iterator[Value]:
        """Every value among the arguments, those that it only writes to included."""
        yield from values_in(self.arguments)
        yield from values_in(self.options)


@dataclass(eq=False)
class Program:
    """An update from its inputs to its outputs.

    Attributes:
        outputs: what the function returned, with values in place of tensors.
    """

    inputs: list[Value]
    calls: list[Call]
    outputs: Any


def leaves(structure: Any) -> Iterator[Any]:
    """What is in nested lists, tuples, dictionaries and dataclasses."""
    if isinstance(structure, Value):
        yield structure
    elif isinstance(structure, list | tuple):
        for part in structure:
            yield from leaves(part)
    elif isinstance(structure, dict):
        for part in structure.values():
            yield from leaves(part)
    elif is_dataclass(structure) and not isinstance(structure, type):
        for name in _fields(structure):
            yield from leaves(getattr(structure, name))
    else:
        yield structure


def values_in(structure: Any) -> Iterator[Value]:
    """The values among the leaves."""
    return (leaf for leaf in leaves(structure) if isinstance(leaf, Value))


def _fields(thing: Any) -> list[str]:
    return [part.name for part in fields(thing) if part.init]


def replaced(structure: Any, kind: type, by: Callable[[Any], Any]) -> Any:
    """The same structure with all leaves of a kind replaced."""
    if isinstance(structure, kind):
        return by(structure)
    if isinstance(structure, dict):
        return {key: replaced(part, kind, by) for key, part in structure.items()}
    if isinstance(structure, list | tuple):
        parts = [replaced(part, kind, by) for part in structure]
        if isinstance(structure, list):
            return parts
        return type(structure)(*parts) if hasattr(structure, "_fields") else tuple(parts)
    if is_dataclass(structure) and not isinstance(structure, type | Value):
        return replace(structure, **{name: replaced(getattr(structure, name), kind, by) for name in _fields(structure)})
    return structure
