"""The record that one run of an update leaves: every ATen call below autograd, with the real tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from offrl.tracing.graph import Call, Origin, Program, Storage, Value, leaves, replaced
from offrl.tracing.operations import without_output
from offrl.tracing.structure import PLAIN

MOST_CALLS = 20_000
"""Longer updates run as they are: they would take long to tidy, and have parts that are better marked as repeated."""
UNTRACEABLE = (
    (torch.Tag.nondeterministic_seeded, "it draws random numbers with {name}: draws must come from outside, as noise"),
    (torch.Tag.data_dependent_output, "it asks for a tensor's value with {name}"),
    (torch.Tag.dynamic_output_shape, "the shape of what {name} gives depends on values"),
)
READS_BEHIND = {torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__, torch.Tensor.__dlpack__}
"""Ways out of PyTorch, where nobody sees what is done with the values."""
BY_ADDRESS = {"as_strided", "_reshape_alias", "view_as_real", "view_as_complex", "unfold"}
RESIZING = {"resize_", "resize_as_", "set_", "_resize_output_"}
MASKS = {torch.bool, torch.uint8}
aten = torch.ops.aten


class Recorder(TorchDispatchMode):
    """Records what is computed while it is entered; where that can't be replayed, `reason` says why.

    Computations go on all the same, so that a run which turns out untraceable is still a run.

    Args:
        inputs: tensors that later runs have others in place of.
        kept: tensors that live on between runs and are the same ones in all of them, by a name for messages.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch's compiler, which never sees this, would be imported to keep out of it: a second for each process."""
        return False

    def __init__(self, inputs: Sequence[Tensor], kept: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reason = ""
        self.calls: list[Call] = []
        self._noted: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._understood = 0
        self._values: dict[int, Value] = {}
        self._storages: dict[Any, Storage] = {}
        self._held: list[Tensor] = []  # Keeps every address, and so every identity, from being used again.
        self._exits = _Exits(self)
        for tensor in kept.values():
            self._storages.setdefault(place_of(tensor), Storage(Origin.STATE))
            self._remember(tensor)
        self.inputs = [self._input(tensor, position) for position, tensor in enumerate(inputs)]

    def _input(self, tensor: Tensor, position: int) -> Value:
        if not _is_plain(tensor):
            self.refuse(f"input {position} is no plain tensor on the CPU")
        if tensor.requires_grad:
            self.refuse(f"autograd may go on to what input {position} comes from")
        known = self._storages.setdefault(place_of(tensor), Storage(Origin.INPUT))
        if known.origin is Origin.STATE:
            self.refuse(f"input {position} is a part of the state")
        value = Value.of(tensor, known, position=position)
        self._values.setdefault(id(tensor), value)
        self._held.append(tensor)
        return value

    def refuse(self, reason: str) -> None:
        """Note why this run can't be replayed; the first reason stays."""
        self.reason = self.reason or reason
        self.calls.clear()

    def places_written(self) -> set[Any]:
        """Where operations wrote to memory."""
        return {place for place, storage in self._storages.items() if storage.rigid}

    def program(self, outputs: Any) -> Program | None:
        """What was recorded, or None where it can't be replayed.

        Args:
            outputs: what the function returned.
        """
        self._understand_noted()
        returned = replaced(outputs, Tensor, self._value)
        for leaf in leaves(returned):
            if not isinstance(leaf, Value | None) and not isinstance(leaf, PLAIN):
                self.refuse(f"it returns a {type(leaf).__qualname__}")
        return None if self.reason else Program(self.inputs, self.calls, returned)

    def __enter__(self) -> Self:
        self._exits.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._exits.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note the call, and make it; what it means is found out when the run is over."""
        if torch.Tag.inplace_view in func.tags:
            return self._turn(func, args, kwargs or {})
        if func is aten.lift_fresh.default:
            # A number becomes a tensor, which may be written to later.
            self._understand_noted()
            self._literal(args[0])
        result = func(*args, **(kwargs or {}))
        if len(self._noted) < MOST_CALLS:
            self._noted.append((func, args, kwargs or {}, result))
        else:
            self.refuse(f"it has more than {MOST_CALLS} operations: mark a part that is repeated")
        return result

    def _understand_noted(self) -> None:
        """Add all calls that were noted since the last time to the record."""
        for function, args, kwargs, result in self._noted[self._understood :]:
            if not self.reason and function.namespace != "profiler":
                self._understand(function, args, kwargs, result)
        self._understood = len(self._noted)

    def _understand(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Add a call that was noted to the record."""
        self._check(function, args)
        find = self._literal if function is aten.lift_fresh.default else self._value
        arguments, options = replaced(args, Tensor, find), replaced(kwargs, Tensor, find)
        if not self.reason:
            self._note(function, arguments, options, result)

    def _check(self, function: Any, arguments: Any) -> None:
        masked = any(isinstance(leaf, Tensor) and leaf.dtype in MASKS for leaf in leaves(arguments[1:]))
        if _drops_nothing(function, arguments):
            return
        for tag, reason in UNTRACEABLE:
            # Only masks make the shape of what is taken by index depend on values.
            if tag in function.tags and (masked or function is not aten.index.Tensor):
                self.refuse(reason.format(name=function))
        if function.overloadpacket.__name__ in RESIZING:
            self.refuse(f"{function} gives a tensor other memory")

    def _value(self, tensor: Tensor) -> Value:
        """The value of a tensor among the arguments or outputs."""
        value = self._values.get(id(tensor))
        if value is None:
            storage = self._storages.get(place_of(tensor))
            if storage is not None and storage.origin is Origin.STATE:
                return self._remember(tensor)
            # Some of PyTorch's insides make a second object for the same tensor.
            value = next((self._values[id(held)] for held in self._held if _same(held, tensor)), None)
        if value is None:
            self.refuse(f"nobody knows where a tensor {list(tensor.shape)} comes from")
            value = Value.of(tensor, Storage(Origin.MADE))
        return value

    def _literal(self, tensor: Tensor) -> Value:
        """The same of what `torch.tensor(number)` made."""
        if id(tensor) not in self._values and place_of(tensor) not in self._storages:
            self._storages[place_of(tensor)] = Storage(Origin.MADE)
            # A copy, for the function may go on to write to it.
            self._remember(tensor).tensor = tensor.clone()
        return self._value(tensor)

    def _remember(self, tensor: Tensor) -> Value:
        """Keep a tensor that is the same in each run."""
        value = self._values[id(tensor)] = Value.of(tensor, self._storages[place_of(tensor)], kept=True)
        self._held.append(tensor)
        return value

    def _turn(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call that turns a tensor into a view of itself, which is another value from then on."""
        # What came before has seen it as it was.
        self._understand_noted()
        arguments, options = replaced(args, Tensor, self._value), replaced(kwargs, Tensor, self._value)
        if self._value(args[0]).storage.origin is not Origin.MADE:
            self.refuse(f"{function} changes the shape of an input or a part of the state")
        result = function(*args, **kwargs)
        del self._values[id(args[0])]
        if not self.reason:
            self._note(without_output(function), arguments, options, result)
        return result

    def _note(self, function: Any, arguments: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        made: list[Value] = []
        taken = {id(value.storage) for value in [*_values(arguments), *_values(options)]}
        shared: list[bool] = []

        def returned(tensor: Tensor) -> Value:
            known = self._values.get(id(tensor))
            if known is not None:
                return known
            place = place_of(tensor)
            if not _is_plain(tensor):
                self.refuse(f"{function} makes something else than a plain tensor on the CPU")
            storage = self._storages.setdefault(place, Storage(Origin.MADE))
            value = Value.of(tensor, storage, kept=storage.origin is Origin.STATE)
            self._values[id(tensor)] = value
            self._held.append(tensor)
            made.append(value)
            shared.append(id(storage) in taken)
            return value

        results = replaced(result, Tensor, returned)
        if any(not isinstance(part, Value | None) for part in leaves(results)):
            self.refuse(f"{function} gives a number")
        written = _written(function, arguments, options)
        for value in written:
            value.storage.rigid = True
            if value.storage.origin is Origin.INPUT:
                self.refuse(f"{function} changes an input")
        is_view = bool(made) and all(shared)
        if is_view and (function.overloadpacket.__name__ in BY_ADDRESS or _changes_type(made, arguments)):
            for value in made:
                value.storage.rigid = True
                if value.storage.origin is Origin.INPUT:
                    self.refuse(f"{function} reads an input by its address")
        self.calls.append(Call(function, arguments, options, results, made, written, is_view))


class _Exits(TorchFunctionMode):
    """Notices when values leave PyTorch."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS_BEHIND:
            self.recorder.refuse(f"it reads a tensor's values with {func.__name__}()")
        return func(*args, **(kwargs or {}))


def place_of(tensor: Tensor) -> Any:
    """What tells a tensor's memory from that of others, as long as it lives."""
    if tensor._is_zerotensor():
        return "nowhere", id(tensor)
    storage = tensor.untyped_storage()
    return storage.data_ptr() or ("empty", storage._cdata)


def _drops_nothing(function: Any, arguments: Any) -> bool:
    """Whether a function draws at random only for a dropout that is off, as attention has it."""
    names = [argument.name for argument in function._schema.arguments]
    if "dropout_p" not in names:
        return False
    position = names.index("dropout_p")
    return position >= len(arguments) or arguments[position] == 0


def _is_plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor._is_zerotensor()


def _same(one: Tensor, other: Tensor) -> bool:
    return (
        place_of(one) == place_of(other)
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.storage_offset() == other.storage_offset()
        and one.dtype == other.dtype
    )


def _changes_type(made: list[Value], arguments: tuple[Any, ...]) -> bool:
    return {value.dtype for value in made} != {value.dtype for value in _values(arguments)}


def _written(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> list[Value]:
    """The values among the arguments that an operation's schema says it writes to."""
    found: list[Value] = []
    # The fused optimizers scale the gradients that they are given, if they are told to.
    unscaled = function.overloadpacket.__name__.startswith("_fused_") and options.get("grad_scale") is None
    for position, argument in enumerate(function._schema.arguments):
        if unscaled and argument.name == "grads":
            continue
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = arguments[position] if position < len(arguments) else options.get(argument.name)
            found += _values(given)
    return found


def _values(structure: Any) -> list[Value]:
    return [leaf for leaf in leaves(structure) if isinstance(leaf, Value)]
