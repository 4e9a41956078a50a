"""The structure of a function's inputs: which tensors they hold, and what tells whether others are like them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from offrl.errors import OffrlError
from offrl.tracing.graph import leaves

PLAIN = (bool, int, float, str, Enum, torch.dtype, torch.device)
"""Kinds of inputs that are compared by value, each value being traced by itself."""

LARGEST_COPY = 2**18
"""Elements of an input that a replay copies to a place of its own: however it lies, its views are known beforehand."""

Match = Callable[[tuple[Any, ...]], tuple[Tensor, ...] | None]


class UnknownInputError(OffrlError):
    """An input is of a kind that nobody can compare with the next call's."""


def tensors_of(inputs: Any) -> list[Tensor]:
    """Every tensor in dataclasses, named tuples, lists, tuples and dictionaries, from left to right.

    Raises:
        UnknownInputError: something in it is neither a tensor, nor a container, nor compared by value.
    """
    found: list[Tensor] = []
    for leaf in leaves(inputs):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif leaf is not None and not isinstance(leaf, PLAIN):
            raise UnknownInputError(f"an input is a {type(leaf).__qualname__}")
    return found


def stand_in(tensor: Tensor) -> Tensor:
    """A tensor for an input while it is recorded: it lies as it will in a replay, and is no other input's.

    What is recorded then doesn't depend on how the inputs lay at that time, nor on whether two of them were one.
    """
    if tensor.requires_grad or tensor.numel() > LARGEST_COPY:
        return tensor.view(tensor.shape)
    return tensor.clone(memory_format=torch.contiguous_format)


class Matcher:
    """Writes the source of a function that takes the tensors out of inputs like those given, or returns None.

    Trees of inputs that are walked anew at each call would cost a tenth of a small update.
    """

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.lines: list[str] = []
        self.tensors: list[str] = []

    def constant(self, value: Any) -> str:
        """A name for a value in the source."""
        name = f"k{len(self.names)}"
        self.names[name] = value
        return name

    def require(self, condition: str) -> None:
        """Nothing matches where a condition doesn't hold."""
        self.lines.append(f"if not ({condition}): return None")

    def take(self, place: str, example: Any) -> None:
        """Require that what an expression gives is like an example, and take its tensors."""
        if isinstance(example, Tensor):
            name = f"t{len(self.tensors)}"
            self.tensors.append(name)
            self.lines.append(f"{name} = {place}")
            shape, dtype = map(self.constant, (example.shape, example.dtype))
            self.require(f"{name}.shape == {shape} and {name}.dtype is {dtype}")
            if example.numel() > LARGEST_COPY:
                self.require(f"{name}.stride() == {self.constant(example.stride())}")
        elif example is None:
            self.require(f"{place} is None")
        elif isinstance(example, PLAIN):
            self.require(f"type({place}) is {self.constant(type(example))} and {place} == {self.constant(example)}")
        else:
            self._take_parts(place, example)

    def _take_parts(self, place: str, example: Any) -> None:
        name = f"c{len(self.lines)}"
        self.lines.append(f"{name} = {place}")
        kind = f"type({name}) is {self.constant(type(example))}"
        if isinstance(example, dict):
            self.require(f"{kind} and len({name}) == {len(example)}")
            parts = [(f"{name}[{self.constant(key)}]", part) for key, part in example.items()]
        elif isinstance(example, list | tuple):
            self.require(f"{kind} and len({name}) == {len(example)}")
            parts = [(f"{name}[{position}]", part) for position, part in enumerate(example)]
        else:
            self.require(kind)
            parts = [
                (f"{name}.{field.name}", getattr(example, field.name))
                for field in dataclasses.fields(example)
                if field.init
            ]
        for inside, part in parts:
            self.take(inside, part)

    def function(self) -> Match:
        """The function."""
        source = ["def match(inputs):", "    try:"]
        source += [f"        {line}" for line in self.lines]
        source += [f"        return ({''.join(f'{name}, ' for name in self.tensors)})"]
        source += ["    except (AttributeError, TypeError, LookupError):", "        return None"]
        exec("\n".join(source), self.names)
        match: Match = self.names["match"]
        return match


def matching(inputs: Sequence[Any], facts: Sequence[tuple[str, Any]], roots: dict[str, Any]) -> Match:
    """A function that takes the tensors out of inputs like these while some facts hold; else it returns None.

    Args:
        inputs: what the traced function was given.
        facts: expressions and what each must give: a value that compares equal, or the same object.
        roots: the objects that the expressions speak of, by name.
    """
    matcher = Matcher()
    matcher.names.update(roots)
    for expression, expected in facts:
        if isinstance(expected, PLAIN):
            matcher.require(f"{expression} == {matcher.constant(expected)}")
        else:
            matcher.require(f"{expression} is {matcher.constant(expected)}")
    for position, part in enumerate(inputs):
        matcher.take(f"inputs[{position}]", part)
    return matcher.function()
