"""From a program's calls to steps on memory that is known beforehand: no step allocates, and views cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offrl.tracing.graph import Call, Origin, Program, Value, values_in
from offrl.tracing.recording import place_of
from offrl.tracing.structure import LARGEST_COPY

ARRAYS = {torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool}
"""Types that NumPy computes with."""


@dataclass(eq=False)
class Place:
    """Where a value is.

    Attributes:
        tensor: the memory, where that is known before a replay: the state's, a literal's or a buffer's.
        literal: whether its contents are the same in all replays.
        name: of the local variable that holds the tensor otherwise.
    """

    tensor: Tensor | None = None
    literal: bool = False
    name: str = ""


@dataclass(eq=False)
class Seen:
    """A place as a step sees it: as an array, or as a tensor."""

    place: Place
    as_array: bool


@dataclass(eq=False)
class Step:
    """A line of a replay.

    Attributes:
        template: its source, with a numbered gap for each operand.
    """

    template: str
    operands: tuple[Seen, ...]


class Builder:
    """The steps of a program, and the places of its values.

    Args:
        program: its inputs get places at once.
    """

    def __init__(self, program: Program) -> None:
        self.steps: list[Step] = []
        self.places: dict[int, Place] = {}
        self.assigned: dict[int, Tensor] = {}
        self.buffers: dict[Any, Tensor] = {}
        self.names: dict[str, Any] = {}
        self.now = 0
        self.last_use = _last_uses(program)
        self._held: list[Tensor] = []
        self._arrays: dict[int, Place] = {}
        self._scalars: dict[tuple[str, torch.dtype], Place] = {}
        self._place_inputs(program)

    def _place_inputs(self, program: Program) -> None:
        """Small inputs that are read are copied, all of them in one call."""
        read = {id(value) for call in program.calls for value in call.read()}
        copied = [value for value in program.inputs if id(value) in read and value.size <= LARGEST_COPY]
        for value in program.inputs:
            self.places[id(value)] = Place(name=f"i{value.position}")
        if copied:
            places = [self._buffer(value.shape, None, value.dtype) for value in copied]
            gaps = ", ".join(f"{{{n}}}" for n in range(len(places)))
            given = ", ".join(self.places[id(value)].name for value in copied)
            copy = self.global_name(torch._foreach_copy_)
            self.emit(f"{copy}([{gaps}], [{given}])", *map(self.tensor_at, places))
            self.places |= {id(value): place for value, place in zip(copied, places, strict=True)}

    def emit(self, template: str, *operands: Seen) -> None:
        """Add a step."""
        self.steps.append(Step(template, operands))

    def global_name(self, thing: Any) -> str:
        """A name for something in the source."""
        for name, known in self.names.items():
            if known is thing:
                return name
        name = f"g{len(self.names)}"
        self.names[name] = thing
        return name

    def place(self, value: Value) -> Place:
        """Where a value is."""
        if id(value) not in self.places:
            assert value.tensor is not None, "a value is used before it is made"
            literal = value.storage.origin is Origin.MADE
            self.places[id(value)] = Place(_plain(value.tensor), literal)
            if literal and value.storage.rigid:
                # It is written to: each replay starts from what it was.
                place = self._buffer(value.shape, value.stride, value.dtype)
                self.copy(place, self.places[id(value)])
                self.places[id(value)] = place
        return self.places[id(value)]

    def memory(self, value: Value) -> Tensor | None:
        """A value's memory, where it is known beforehand."""
        return self.place(value).tensor

    def tensor_at(self, place: Place | Tensor) -> Seen:
        """A place as a tensor."""
        return Seen(place if isinstance(place, Place) else Place(place), as_array=False)

    def array_at(self, place: Place | Tensor) -> Seen:
        """A place as an array."""
        place = place if isinstance(place, Place) else Place(place)
        if place.tensor is None:
            if id(place) not in self._arrays:
                name = f"a{len(self._arrays)}_{place.name}"
                self.emit(f"{name} = {place.name}.numpy()")
                self._arrays[id(place)] = Place(name=name)
            place = self._arrays[id(place)]
        return Seen(place, as_array=True)

    def array(self, value: Value | Any, dtype: torch.dtype = torch.float32) -> Seen:
        """A value, or a number, as an array."""
        if isinstance(value, Value):
            return self.array_at(self.place(value))
        return self.array_at(self.literal(torch.tensor(value, dtype=dtype)))

    def literal(self, tensor: Tensor) -> Place:
        """A place for what is the same in all replays."""
        key = repr(tensor.tolist()) if tensor.numel() == 1 else "", tensor.dtype, tuple(tensor.shape)
        if not key[0]:
            return Place(tensor, literal=True)
        return self._scalars.setdefault(key, Place(tensor, literal=True))  # type: ignore[arg-type]

    def out(self, value: Value, *reusable: Value) -> Place:
        """A place for a value that is about to be made.

        Args:
            value: what it is for.
            reusable: values that may be overwritten with it, element by element, where nobody needs them afterwards.
        """
        if id(value) in self.assigned:
            place = Place(self.assigned[id(value)])
        elif value.storage.rigid:
            place = self._buffer(value.shape, value.stride, value.dtype)
        else:
            place = self._reused(value, reusable) or self._like(value, reusable)
        self.places[id(value)] = place
        return place

    def out_as_recorded(self, value: Value) -> None:
        """`out` for a function that others may expect a certain layout of."""
        self.places[id(value)] = (
            Place(self.assigned[id(value)]) if id(value) in self.assigned else self.buffer_as_recorded(value)
        )

    def buffer_as_recorded(self, value: Value) -> Place:
        """A buffer in which a value lies as it was recorded, or side by side where that had holes or repetitions."""
        dense = _is_dense(torch.empty_strided(value.shape, value.stride, device="meta"))
        return self._buffer(value.shape, value.stride if dense else None, value.dtype)

    def lay_as_recorded(self, value: Value) -> None:
        """Copy a value that lies otherwise than when it was recorded: not every function checks what it is given."""
        memory = self.memory(value)
        if memory is not None and _strides(memory.shape, memory.stride()) != _strides(value.shape, value.stride):
            copy = self.buffer_as_recorded(value)
            self.copy(copy, memory)
            self.places[id(value)] = copy

    def scratch(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Place:
        """A place for a step's own use."""
        return self._buffer(tuple(shape), None, dtype)

    def put(self, value: Value, place: Place) -> None:
        """Note where a value is; where its place was given, copy it there."""
        if id(value) not in self.assigned:
            self.places[id(value)] = place
            return
        self.copy(self.out(value), place)

    def copy(self, to: Place | Tensor, source: Place | Tensor) -> None:
        """Add a step that copies elements."""
        memory = to.tensor if isinstance(to, Place) else to
        assert memory is not None
        if memory.dtype in ARRAYS:
            known = source.tensor if isinstance(source, Place) else source
            casting = "" if known is not None and known.dtype == memory.dtype else ", 'unsafe'"
            copy = self.global_name(np.copyto)
            self.emit(f"{copy}({{0}}, {{1}}{casting})", self.array_at(to), self.array_at(source))
        else:
            self.emit("{0}.copy_({1})", self.tensor_at(to), self.tensor_at(source))

    def _reused(self, value: Value, reusable: Sequence[Value]) -> Place | None:
        for operand in reusable:
            place = self.places.get(id(operand))
            if (
                place is not None
                and place.tensor is not None
                and place_of(place.tensor) in self.buffers
                and (operand.shape, operand.dtype) == (value.shape, value.dtype)
                and self.last_use[id(operand.storage)] == self.now
                and _is_dense(place.tensor)
                and not any(
                    other is not operand and self._share_memory(other, place.tensor) for other in self._call.read()
                )
            ):
                return Place(place.tensor)
        return None

    def _share_memory(self, value: Value, tensor: Tensor) -> bool:
        memory = self.memory(value)
        return memory is not None and place_of(memory) == place_of(tensor)

    def _like(self, value: Value, reusable: Sequence[Value]) -> Place:
        """A buffer that lies as one of the operands does."""
        for operand in reusable:
            memory = self.memory(operand)
            if memory is not None and tuple(memory.shape) == value.shape and _is_dense(memory):
                return self._buffer(value.shape, memory.stride(), value.dtype)
        return self._buffer(value.shape, None, value.dtype)

    def _buffer(self, shape: Sequence[int], stride: Sequence[int] | None, dtype: torch.dtype) -> Place:
        """Memory that nothing is written to yet: the pages aren't even there."""
        if stride is None:
            tensor = torch.empty(tuple(shape), dtype=dtype)
        else:
            tensor = torch.empty_strided(tuple(shape), tuple(stride), dtype=dtype)
        self.buffers[place_of(tensor)] = tensor
        return Place(tensor)

    def transposed_buffer(self, value: Value) -> Place:
        """A place for a value that lies as its transpose would."""
        place = self._buffer((*value.shape[:-2], value.shape[-1], value.shape[-2]), None, value.dtype)
        assert place.tensor is not None
        self.places[id(value)] = Place(place.tensor.mT)
        return self.places[id(value)]

    def begin(self, call: Call, index: int) -> None:
        """The steps that follow are this call's."""
        self._call, self.now = call, index


def _plain(tensor: Tensor) -> Tensor:
    """The same memory in a tensor that autograd, and inference mode, know nothing of."""
    empty = torch.empty(0, dtype=tensor.dtype)
    return empty.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _strides(shape: Sequence[int], stride: Sequence[int]) -> list[int]:
    """The strides that matter."""
    return [step for step, length in zip(stride, shape, strict=True) if length != 1]


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements lie side by side, in whatever order of axes."""
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length > 1:
            if stride != expected:
                return False
            expected *= length
    return True


def _last_uses(program: Program) -> dict[int, int]:
    """The index of the last call that touches each storage; outputs are needed behind all of them."""
    uses: dict[int, int] = {}
    for index, call in enumerate(program.calls):
        for value in [*call.read(), *call.made]:
            uses[id(value.storage)] = index
    return uses | {id(value.storage): len(program.calls) for value in values_in(program.outputs)}
