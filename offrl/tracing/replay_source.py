"""The source of a replay: one line for each step, its operands bound to names beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offrl.tracing.builder import ARRAYS, Builder, Seen
from offrl.tracing.graph import Origin, Program, Value
from offrl.tracing.memory import Span, arranged, block_of
from offrl.tracing.recording import place_of

Replay = Callable[..., Any]


def written(b: Builder, program: Program, made: list[bool]) -> tuple[Replay, str]:
    """The function that replays a program, of its inputs' tensors, and its source.

    Args:
        b: holds the steps.
        made: of each output whether it lies in memory that the function made: it is copied, for a replay uses it again.
    """
    returned = _Returned(b, made)
    b.emit(f"return {returned.source(program.outputs)}", *returned.seen)
    binder = _Binder(b)
    lines = [step.template.format(*map(binder.name, step.operands)) for step in b.steps]
    names = binder.names | b.names
    source = "\n    ".join([f"def replay({', '.join(f'i{n}' for n in range(len(program.inputs)))}):", *lines])
    exec(source, names)
    return names["replay"], source


class _Returned:
    """Writes the expression for what the function returns."""

    def __init__(self, b: Builder, made: list[bool]) -> None:
        self.b, self.made = b, iter(made)
        self.seen: list[Seen] = []

    def source(self, part: Any) -> str:
        b = self.b
        if isinstance(part, Value):
            return self._tensor(part)
        if isinstance(part, dict) and type(part) is dict:
            items = (f"{b.global_name(key)}: {self.source(value)}" for key, value in part.items())
            return f"{{{{{', '.join(items)}}}}}"
        if isinstance(part, list):
            return f"[{', '.join(map(self.source, part))}]"
        if isinstance(part, tuple):
            kind = b.global_name(type(part)) if hasattr(part, "_fields") else ""
            return f"{kind}({''.join(f'{self.source(value)}, ' for value in part)})"
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            fields = (f"{f.name}={self.source(getattr(part, f.name))}" for f in dataclasses.fields(part) if f.init)
            return f"{b.global_name(type(part))}({', '.join(fields)})"
        return b.global_name(part)

    def _tensor(self, value: Value) -> str:
        b, gap, made = self.b, f"{{{len(self.seen)}}}", next(self.made)
        if made:
            b.lay_as_recorded(value)
        place = b.place(value)
        # What is known only as a variable may also be the caller's input.
        if not made or (place.tensor is None and value.storage.origin is Origin.MADE):
            self.seen.append(b.tensor_at(place))
            return gap
        if value.dtype in ARRAYS:
            self.seen.append(b.array_at(place))
            return f"{b.global_name(torch.from_numpy)}({b.global_name(np.array)}({gap}))"
        self.seen.append(b.tensor_at(place))
        return f"{gap}.clone()"


class _Binder:
    """Gives names to operands, and buffers their places in one block of memory."""

    def __init__(self, b: Builder) -> None:
        self.names: dict[str, Any] = {}
        self._known: dict[Any, str] = {}
        spans: dict[Any, Span] = {}
        for index, step in enumerate(b.steps):
            for seen in step.operands:
                place = None if seen.place.tensor is None else place_of(seen.place.tensor)
                if place in spans:
                    spans[place].last = index
                elif place in b.buffers:
                    spans[place] = Span(b.buffers[place].untyped_storage().nbytes(), index, index)
        offsets, size = arranged(list(spans.values()))
        self._block = block_of(size)
        self._offsets = dict(zip(spans, offsets, strict=True))

    def name(self, seen: Seen) -> str:
        """The name of an operand in the source."""
        tensor = seen.place.tensor
        if tensor is None:
            return seen.place.name
        key = place_of(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, seen.as_array
        if key not in self._known:
            name = f"{'n' if seen.as_array else 't'}{len(self._known)}"
            moved = self._moved(tensor)
            self.names[name] = moved.numpy() if seen.as_array else moved
            self._known[key] = name
        return self._known[key]

    def _moved(self, tensor: Tensor) -> Tensor:
        """A buffer's view as it lies in the block."""
        offset = self._offsets.get(place_of(tensor))
        if offset is None:
            return tensor
        start = offset + self._block.storage_offset()
        first = start // tensor.element_size() + tensor.storage_offset()
        empty = torch.empty(0, dtype=tensor.dtype)
        return empty.set_(self._block.untyped_storage(), first, tensor.shape, tensor.stride())
