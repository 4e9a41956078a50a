"""What makes a recorded program shorter without changing what it computes; nothing here knows an algorithm."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from offrl.tracing.graph import Call, Origin, Program, Storage, Value, replaced, values_in
from offrl.tracing.recording import BY_ADDRESS

aten = torch.ops.aten
SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}
COPIES = {aten.clone.default, aten.lift_fresh_copy.default, aten._to_copy.default}


def tidied(program: Program) -> Program:
    """The program without aliases, copies, repetitions, and what nobody needs."""
    share_copies(program)
    return without_dead_calls(without_repetitions(program))


def share_copies(program: Program) -> None:
    """Have copies be views of what they copy, where nobody writes to either: they differ in how they lie at most."""
    values = [value for call in program.calls for value in call.made]
    for call in program.calls:
        source = call.arguments[0] if call.arguments else None
        if call.function not in COPIES or not isinstance(source, Value) or len(call.made) != 1:
            continue
        (copy,) = call.made
        if not (source.storage.rigid or copy.storage.rigid) and source.dtype == copy.dtype:
            call.is_view = True
            shared = copy.storage
            for value in values:
                if value.storage is shared:
                    value.storage = source.storage


def without_repetitions(program: Program) -> Program:
    """Each value computed once, and none that is another one over again.

    Memory that some call writes to is left alone: a copy of it may be meant to keep what was there.
    """
    same: dict[int, Value] = {}
    memory: dict[int, Storage] = {}
    seen: dict[Any, list[Value]] = {}
    writes: Counter[int] = Counter()

    def kept(value: Value) -> Value:
        return same.get(id(value), value)

    def memory_of(value: Value) -> Storage:
        storage = value.storage
        while id(storage) in memory:
            storage = memory[id(storage)]
        return storage

    def leave_out(value: Value, original: Value) -> None:
        same[id(value)] = original
        own, theirs = memory_of(value), memory_of(original)
        if own is not theirs:
            # Views of what is left out lie in the memory of what stands for it, which they keep from being used again.
            memory[id(own)] = theirs

    def key_of(structure: Any, is_view: bool) -> Any:
        if isinstance(structure, Value):
            # What was read of memory before a write to it isn't what is read behind it; a view is the same view.
            return id(structure), 0 if is_view else writes[id(structure.storage)]
        if isinstance(structure, dict):
            return tuple((name, key_of(part, is_view)) for name, part in sorted(structure.items()))
        if isinstance(structure, list | tuple):
            return tuple(key_of(part, is_view) for part in structure)
        return type(structure), structure

    calls = []
    for call in program.calls:
        call.arguments, call.options = replaced(call.arguments, Value, kept), replaced(call.options, Value, kept)
        call.written = [kept(value) for value in call.written]
        for value in call.written:
            writes[id(value.storage)] += 1
        if call.made and not call.written:
            if all(value.tensor is not None for value in call.made):
                continue  # A view of the state, which is the same tensor in every run.
            original = _repeated(call)
            if original is not None:
                leave_out(call.made[0], original)
                continue
            if call.is_view or not any(value.storage.rigid for value in call.made):
                key = call.function, key_of(call.arguments, call.is_view), key_of(call.options, call.is_view)
                if key in seen:
                    for value, first in zip(call.made, seen[key], strict=True):
                        leave_out(value, first)
                    continue
                seen[key] = call.made
        calls.append(call)
    for value in [value for call in calls for value in call.made]:
        value.storage = memory_of(value)
    return Program(program.inputs, calls, replaced(program.outputs, Value, kept))


def _repeated(call: Call) -> Value | None:
    """The argument that a call's result is over again, if there is one."""
    (made, *others), arguments = call.made, call.arguments
    source = arguments[0] if arguments else None
    if others or not isinstance(source, Value) or (source.shape, source.dtype) != (made.shape, made.dtype):
        return None
    if call.is_view:
        unmoved = call.function in SAME or call.function.overloadpacket.__name__ not in BY_ADDRESS
        return source if source.stride == made.stride and unmoved else None
    if source.storage.rigid or made.storage.rigid:
        return None
    return source if call.function is aten.pow.Tensor_Scalar and arguments[1] == 1 else None


def without_dead_calls(program: Program) -> Program:
    """Only the calls that the outputs or the state need."""
    needed = {id(value) for value in values_in(program.outputs)}
    storages = {id(value.storage) for value in values_in(program.outputs)}
    calls = []
    for call in reversed(program.calls):
        matters = any(value.storage.origin is Origin.STATE or id(value.storage) in storages for value in call.written)
        if matters or any(id(value) in needed for value in call.made):
            needed |= {id(value) for value in call.read()}
            storages |= {id(value.storage) for value in call.read()}
            calls.append(call)
    return Program(program.inputs, calls[::-1], program.outputs)
