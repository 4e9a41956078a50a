"""Tensors in tuples, lists, mappings and dataclasses, however nested: what acting remembers, what an update takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The tree with `function` of each tensor in its place, together with those at the same place in the others.

    Numbers, text and None are left as they are.

    Example:
        >>> tree_map(torch.add, {"a": torch.ones(2)}, {"a": torch.ones(2)})
        {'a': tensor([2., 2.])}
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)
    if isinstance(tree, Mapping):
        return {key: tree_map(function, part, *(other[key] for other in others)) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [tree_map(function, *each) for each in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if _is_named(tree) else type(tree)(parts)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        named = {
            field.name: tree_map(function, *(vars(each)[field.name] for each in (tree, *others)))
            for field in dataclasses.fields(tree)
        }
        return dataclasses.replace(tree, **named)
    return tree


def tree_leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its dotted place in the tree, in an order that depends on its structure alone."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, part in tree.items():
            yield from tree_leaves(part, _below(name, str(key)))
    elif isinstance(tree, tuple | list):
        names = tree._fields if _is_named(tree) else map(str, range(len(tree)))  # type: ignore[union-attr]
        for key, part in zip(names, tree, strict=True):
            yield from tree_leaves(part, _below(name, key))
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from tree_leaves(vars(tree)[field.name], _below(name, field.name))


def reset_rows(carry: Any, initial: Any, ended: Tensor) -> Any:
    """What acting remembers, with the rows whose episode ended as they are where an episode begins.

    Args:
        carry: tensors [S, N, …].
        initial: the same of an episode's beginning.
        ended: bool [S, N].
    """

    def anew(remembered: Tensor, fresh: Tensor) -> Tensor:
        return torch.where(ended.view(*ended.shape, *(1,) * (remembered.dim() - 2)), fresh, remembered)

    return tree_map(anew, carry, initial)


def _below(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _is_named(tree: Any) -> bool:
    """Whether it is a NamedTuple."""
    return isinstance(tree, tuple) and "_fields" in vars(type(tree))
