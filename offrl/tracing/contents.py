"""What an agent's state is made of: tensors by path, and numbers that an update must leave alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offrl.tracing.recording import place_of

LEAVES = (bool, int, float, complex, str, bytes, type(None))
OPAQUE = (
    type,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    ModuleType,
    np.ndarray,
    torch.Generator,
    torch.dtype,
    torch.device,
)
OPAQUE_PACKAGES = ("gymnasium", "random", "threading", "logging", "weakref")


@dataclasses.dataclass
class Contents:
    """What was found in some objects.

    Attributes:
        tensors: by path; each tensor once.
        gradients: those that autograd keeps beside parameters.
        numbers: numbers, texts and None, by path.
    """

    tensors: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    gradients: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, **roots: Any) -> Contents:
        """All that these objects hold, at any depth."""
        contents, seen, ahead = cls(), set(), list(roots.items())
        while ahead:
            path, thing = ahead.pop()
            if isinstance(thing, LEAVES):
                contents.numbers[path] = thing
                continue
            if id(thing) in seen or isinstance(thing, OPAQUE) or _is_foreign(thing):
                continue
            seen.add(id(thing))
            if isinstance(thing, Tensor):
                contents.tensors[path] = thing
                if thing.is_leaf and thing.grad is not None:
                    contents.gradients[f"{path}.grad"] = thing.grad
            else:
                ahead += parts_of(path, thing)
        return contents

    def kept(self) -> dict[str, Tensor]:
        """Every tensor that a run finds from before."""
        return self.tensors | self.gradients

    def change_to(self, after: Contents) -> str:
        """What became different that no operation on tensors can have done, in words; empty where nothing did."""
        for path, number in self.numbers.items():
            if path not in after.numbers or _differ(number, after.numbers[path]):
                return f"it changes {path}, which is no tensor, or puts something else there"
        ours = {place_of(tensor) for tensor in self.kept().values()}
        for path, tensor in after.tensors.items():
            before = self.tensors.get(path)
            if place_of(tensor) not in ours:
                return f"it makes a new tensor for {path}: write in place"
            if before is not None and before is not tensor and _lies(before) != _lies(tensor):
                return f"it puts another tensor in the place of {path}: write in place"
        return ""


def parts_of(path: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """The parts of an object, each with an expression for it that starts with the object's."""
    if isinstance(thing, dict):
        yield from (
            (f"{path}[{key!r}]" if isinstance(key, str) else f"{path}[{n}]", thing[key]) for n, key in enumerate(thing)
        )
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from ((f"{path}[{n}]", part) for n, part in enumerate(thing))
    else:
        names = [field.name for field in dataclasses.fields(thing)] if dataclasses.is_dataclass(thing) else []
        own = getattr(thing, "__dict__", {})
        yield from ((f"{path}.{name}", getattr(thing, name)) for name in names if hasattr(thing, name))
        yield from ((f"{path}.{name}", part) for name, part in own.items() if name not in names)


def facts_of(root: str, state: Any) -> list[tuple[str, Any]]:
    """What a replay should make sure of at each call: the numbers and the parts that lie open in a state.

    Of networks it is which they are, and whether they train; of optimizers all options.
    """
    facts: list[tuple[str, Any]] = []
    ahead = list(parts_of(root, state))
    while ahead:
        path, part = ahead.pop()
        if isinstance(part, (*LEAVES, Tensor)):
            facts.append((path, part))
        elif isinstance(part, nn.Module):
            facts += [(path, part), (f"{path}.training", part.training)]
            if isinstance(vars(part).get("flat"), Tensor):
                facts.append((f"{path}.flat", vars(part)["flat"]))
        elif isinstance(part, torch.optim.Optimizer):
            for n, group in enumerate(part.param_groups):
                options = ((f"{path}.param_groups[{n}]['{name}']", value) for name, value in group.items())
                facts += [(where, value) for where, value in options if isinstance(value, (*LEAVES, Tensor))]
        elif hasattr(part, "__dict__") and not isinstance(part, OPAQUE) and not _is_foreign(part):
            facts.append((path, part))
            if dataclasses.is_dataclass(part) or not callable(part):
                ahead += parts_of(path, part)
    return facts


class Snapshot:
    """The contents of tensors' memory at one moment."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.held = {place_of(tensor): (path, tensor) for path, tensor in tensors.items()}
        self.copies = {place: _bytes(tensor).clone() for place, (_, tensor) in self.held.items()}

    def restore(self) -> None:
        """Put everything back."""
        for place, (_, tensor) in self.held.items():
            _bytes(tensor).copy_(self.copies[place])

    def changed(self) -> dict[Any, str]:
        """Where something is different now, and the path of a tensor there."""
        return {
            place: path
            for place, (path, tensor) in self.held.items()
            if not torch.equal(_bytes(tensor), self.copies[place])
        }


def _bytes(tensor: Tensor) -> Tensor:
    """All of a tensor's memory; writing to it is none of autograd's business."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _lies(tensor: Tensor) -> tuple[Any, ...]:
    return place_of(tensor), tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype


def _differ(one: Any, other: Any) -> bool:
    return type(one) is not type(other) or (one != other and one == one)


def _is_foreign(thing: Any) -> bool:
    return (type(thing).__module__ or "").split(".")[0] in OPAQUE_PACKAGES
