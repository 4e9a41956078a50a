"""Each call of a program by NumPy where the table has it, else by PyTorch, on memory that is known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from offrl.tracing.builder import Builder, Place, Seen
from offrl.tracing.elementwise import ELEMENTWISE
from offrl.tracing.graph import Call, Origin, Program, Value, replaced
from offrl.tracing.operations import arguments_of, spelled, with_output, without_output
from offrl.tracing.passes import COPIES
from offrl.tracing.products import PRODUCTS
from offrl.tracing.recording import place_of
from offrl.tracing.reductions import REDUCTIONS

aten = torch.ops.aten
Kernel = Callable[[Builder, Call, Place | None], bool]
LIKE = {"ones_like", "zeros_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"}
"""Those that look only at the shape of what they are given."""
TOLERANT = {"amin", "amax", "sum", "mean", "sigmoid", "where", "maximum", "minimum", "gather", "scatter_add", "argmax"}
TOLERANT |= {"masked_fill", "softplus", "logsumexp", "sort", "any", "all", "_fused_adamw_", "_to_copy", "lerp_"}
"""Those of PyTorch's that take tensors however they lie."""
KERNELS: dict[Any, Kernel] = {**ELEMENTWISE, **PRODUCTS, **REDUCTIONS}


def lowered(program: Program) -> Builder:
    """The steps of a program."""
    b = Builder(program)
    for index, call in enumerate(program.calls):
        b.begin(call, index)
        assign_parts(b, program, index)
    for index, call in enumerate(program.calls):
        b.begin(call, index)
        lower(b, call)
    b.begin(program.calls[-1], len(program.calls)) if program.calls else None
    return b


def lower(b: Builder, call: Call) -> None:
    """Add the steps of one call."""
    if call.is_view and not call.written:
        _view(b, call)
    elif not _at_once(b, call) and not _by_kernel(b, call) and not _joined(b, call):
        _by_torch(b, call)


def _view(b: Builder, call: Call) -> None:
    source = next(value for value in call.read())
    place = b.place(source)
    if place.tensor is None:
        _by_torch(b, call)
        return
    if call.function in COPIES:
        b.put(call.made[0], place)
        return
    try:
        views = _evaluated(call, b.memory)
    except RuntimeError:
        # Its memory lies otherwise than when it was recorded, and the view needs the elements side by side.
        copy = b.scratch(source.shape, source.dtype)
        b.copy(copy, place)
        views = call.function(*replaced(call.arguments, Value, lambda _: copy.tensor), **call.options)
    for value, view in _pairs(call.result, views):
        if value in call.made:
            b.put(value, Place(view, place.literal))


def _at_once(b: Builder, call: Call) -> bool:
    """Compute what is the same in all replays now."""
    name = call.function.overloadpacket.__name__
    if call.written or not (name in LIKE or all(b.place(value).literal for value in call.read())):
        return False
    pairs = _pairs(call.result, _evaluated(call, lambda value: _stand_in(value) if name in LIKE else b.memory(value)))
    for value, tensor in pairs:
        if value.storage.rigid:
            place = b.out(value)
            if not name.startswith(("empty", "new_empty")):
                b.copy(place, tensor)
        else:
            b.put(value, Place(tensor, literal=True))
    return True


def _evaluated(call: Call, memory: Callable[[Value], Tensor | None]) -> Any:
    arguments, options = (replaced(part, Value, memory) for part in (call.arguments, call.options))
    return call.function(*arguments, **options)


def _stand_in(value: Value) -> Tensor:
    """A tensor that lies as a value was recorded."""
    return torch.empty_strided(value.shape, value.stride, dtype=value.dtype)


def _by_kernel(b: Builder, call: Call) -> bool:
    function, out = call.function, None
    if call.written:
        if len(call.written) > 1 or call.made:
            return False
        function, out = without_output(function), b.place(call.written[0])
        if out.tensor is None:
            return False
        call = Call(function, tuple(arguments_of(call)), {}, call.result, [], call.written)
    kernel = KERNELS.get(function)
    if kernel is None:
        return False
    before = len(b.steps)
    if kernel(b, call, out):
        return True
    assert len(b.steps) == before, f"a kernel gave up half way: {call.function}"
    return False


def _joined(b: Builder, call: Call) -> bool:
    """Concatenate or stack: each part is copied to its place, unless it was computed there."""
    joins = call.function in (aten.cat.default, aten.stack.default)
    if not joins or call.written or any(not value.size for value in call.read()):
        return False
    parts, axis = call.arguments[0], (call.arguments[1:] or (0,))[0]
    (value,) = call.made
    out = b.out(value).tensor
    assert out is not None
    stacks = call.function is aten.stack.default
    places = out.unbind(axis) if stacks else out.split([part.shape[axis] for part in parts], axis)
    for part, target in zip(parts, places, strict=True):
        source = b.place(part)
        if source.tensor is None or _lies(source.tensor) != _lies(target):
            b.copy(target, source)
    return True


def assign_parts(b: Builder, program: Program, index: int) -> None:
    """Have the parts of a flat tensor, as gradients are for an optimizer, computed where they will lie in it."""
    call = program.calls[index]
    if call.function is not aten.cat.default or call.written:
        return
    (whole,) = call.made
    if len(whole.shape) != 1 or id(whole) in b.assigned:
        return
    makers = {id(value): maker for maker in program.calls[:index] for value in maker.made}
    memory = b.scratch(whole.shape, whole.dtype).tensor
    assert memory is not None
    b.assigned[id(whole)] = memory
    parts = call.arguments[0]
    for part, target in zip(parts, memory.split([part.size for part in parts]), strict=True):
        value, place = _origin(part, target, makers)
        known = id(value) in b.assigned or value.storage.origin is not Origin.MADE or value.storage.rigid
        # Where the whole is written to afterwards, nobody may read its parts any more.
        overwritten = whole.storage.rigid and b.last_use[id(value.storage)] > index
        if place is None or known or overwritten or id(value) not in makers:
            continue
        b.assigned[id(value)] = place
        last = max(b.last_use[id(value.storage)], b.last_use[id(whole.storage)])
        b.last_use[id(value.storage)] = b.last_use[id(whole.storage)] = last


def _origin(value: Value, target: Tensor, makers: dict[int, Call]) -> tuple[Value, Tensor | None]:
    """The value that a part is views of, and the place that makes those views lie in the target."""
    while (call := makers.get(id(value))) is not None and call.is_view:
        source = next(call.read())
        name = call.function.overloadpacket.__name__
        if source.size != value.size:
            return value, None
        if call.function in COPIES:
            pass
        elif name in ("view", "_unsafe_view", "unsqueeze", "squeeze"):
            if not target.is_contiguous():
                return value, None
            target = target.view(source.shape)
        elif name == "transpose":
            target = target.transpose(*call.arguments[1:])
        elif name == "t":
            target = target.t()
        else:
            return value, None
        value = source
    return value, target


def _by_torch(b: Builder, call: Call) -> None:
    """Call PyTorch's function, on memory that is given where it can take that."""
    variant = None if call.written or call.is_view else with_output(call.function)
    results = [value for value, _ in _pairs(call.result, call.result)]
    function, options = call.function, dict(call.options)
    if variant is not None and len(results) == len(variant[1]) and not any(value is None for value in results):
        function = variant[0]
        for name, value in zip(variant[1], results, strict=True):
            options[name] = value
            b.out_as_recorded(value)
        targets = ""
    else:
        targets = _targets(b, call.result)
    if not call.is_view and function.overloadpacket.__name__ not in TOLERANT:
        for value in call.read():
            b.lay_as_recorded(value)
    call_as = spelled(function, call.arguments, options)
    seen: list[Seen] = []

    def gap(part: Any) -> str:
        if isinstance(part, Value):
            seen.append(b.tensor_at(b.place(part)))
            return f"{{{len(seen) - 1}}}"
        if isinstance(part, list | tuple):
            return f"[{', '.join(map(gap, part))}]"
        if part is None or isinstance(part, bool | int) or (isinstance(part, float) and abs(part) < float("inf")):
            return repr(part)
        return b.global_name(part)

    texts = [gap(part) for part in call.arguments] + [f"{name}={gap(part)}" for name, part in options.items()]
    b.emit(f"{targets}{b.global_name(call_as)}({', '.join(texts)})", *seen)


def _targets(b: Builder, result: Any) -> str:
    """Names for what a call returns, and an assignment to them."""
    if result is None:
        return ""
    names = []
    for value, _ in _pairs(result, result):
        name = f"v{len(b.places)}"
        names.append(name)
        if value is not None and id(value) not in b.places:
            b.places[id(value)] = Place(name=name)
    return f"{', '.join(names)}{',' if isinstance(result, list | tuple) else ''} = "


def _pairs(values: Any, tensors: Any) -> list[tuple[Any, Any]]:
    if isinstance(values, list | tuple):
        return [pair for value, tensor in zip(values, tensors, strict=True) for pair in _pairs(value, tensor)]
    return [(values, tensors)]


def _lies(tensor: Tensor) -> tuple[Any, ...]:
    return place_of(tensor), tensor.storage_offset(), tensor.shape, tensor.stride()
