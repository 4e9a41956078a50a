"""Gymnasium spaces as JSON values, and back: the way from JSON checks what a file says, and believes no size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
from annotated_types import Ge, Lt, MaxLen
from gymnasium import spaces
from numpy.typing import NDArray

from offrl.documents import checked, shortened
from offrl.errors import RequestError

MOST_AXES = 16
"""Axes that a row may have."""
MOST_COMPONENTS = 2**25
"""Numbers that a declared space may have, all its parts together: four frames of 1080p video have 25 million."""

Whole = Annotated[int, Ge(0), Lt(2**63)]
Axes = Annotated[tuple[Whole, ...], MaxLen(MOST_AXES)]
Bound = int | float | Literal["inf", "-inf", "nan"]


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """A Gymnasium space as plain JSON values.

    Raises:
        RequestError: the space, or one inside it, is of a kind that has no fixed shape (Text, Graph, Sequence).
    """
    match space:
        case spaces.Box():
            low, high = _bounds_to_json(space.low), _bounds_to_json(space.high)
            return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), "low": low, "high": high}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            nvec, start = space.nvec.tolist(), space.start.tolist()
            return {"type": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": np.asarray(space.n).tolist()}
        case spaces.Dict():
            return {"type": "Dict", "spaces": {key: space_to_json(item) for key, item in space.spaces.items()}}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(item) for item in space.spaces]}
    raise RequestError(
        f"a {type(space).__name__} space can't be stored",
        hint="describe the data with Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these",
    )


def check_components(value: Any) -> None:
    """Refuse a declaration of a few bytes that would take gigabytes as a space.

    Args:
        value: a space as JSON has it, here and in Minari's metadata: parts lie below `spaces` or `subspaces`.

    Raises:
        ValueError: it declares more than `MOST_COMPONENTS` numbers. Whatever else is wrong with it is let pass.
    """
    count = _components(value)
    if count > MOST_COMPONENTS:
        raise ValueError(f"a space of {count:,} numbers is declared, and at most {MOST_COMPONENTS:,} are read")


def _components(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_components, value))
    if not isinstance(value, Mapping):
        return 0
    inner = value.get("spaces", value.get("subspaces"))
    if inner is not None:
        return sum(map(_components, inner.values())) if isinstance(inner, Mapping) else _components(inner)
    declared = value.get("n" if value.get("type") == "MultiBinary" else "shape")
    return math.prod(
        abs(axis) for axis in (declared if isinstance(declared, list) else [declared]) if type(axis) is int
    )


def space_from_json(value: Mapping[str, Any]) -> gym.Space[Any]:
    """The inverse of `space_to_json`: equal to the space that was encoded.

    Raises:
        ValueError: it is no such encoding, or declares more than `MOST_COMPONENTS` numbers.
    """
    check_components(value)
    return _space(value, "the space")


def _space(value: Any, name: str) -> gym.Space[Any]:
    """The space that has this name in messages."""
    try:
        kind = checked(_Kind, value).type
        if kind == "Dict":
            parts = checked(_Dict, value).spaces
            return spaces.Dict([(key, _space(item, f"{name}'s part {shortened(key)}")) for key, item in parts.items()])
        if kind == "Tuple":
            items = checked(_Tuple, value).spaces
            return spaces.Tuple([_space(item, f"{name}'s part {index}") for index, item in enumerate(items)])
        leaf: gym.Space[Any] = checked(_LEAVES[kind], value).space()
    # A Gymnasium space asserts what it is made of, and some fail before they do.
    except (ValueError, AssertionError, TypeError, OverflowError) as error:
        raise ValueError(str(error) if str(error).startswith("the space") else f"{name}: {error}") from error
    return leaf


@dataclass(frozen=True)
class _Kind:
    type: Literal["Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple"]


@dataclass(frozen=True)
class _Dict:
    spaces: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Tuple:
    spaces: list[dict[str, Any]]


@dataclass(frozen=True)
class _Box:
    shape: Axes
    dtype: str
    low: Bound | list[Bound]
    high: Bound | list[Bound]

    def space(self) -> gym.Space[Any]:
        require_components(self.shape)
        dtype = number_type(self.dtype)
        low, high = (_bounds(bound, self.shape, dtype) for bound in (self.low, self.high))
        return spaces.Box(low, high, self.shape, dtype.type)


@dataclass(frozen=True)
class _Discrete:
    n: Annotated[int, Ge(1), Lt(2**63)]
    start: Annotated[int, Ge(-(2**62)), Lt(2**62)]

    def space(self) -> gym.Space[Any]:
        return spaces.Discrete(self.n, start=self.start)


Nested = list[int] | list[list[int]]


@dataclass(frozen=True)
class _MultiDiscrete:
    nvec: Nested
    start: Nested
    dtype: str

    def space(self) -> gym.Space[Any]:
        return spaces.MultiDiscrete(self.nvec, dtype=number_type(self.dtype).type, start=self.start)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _MultiBinary:
    n: Whole | list[Whole]

    def space(self) -> gym.Space[Any]:
        require_components(tuple(self.n) if isinstance(self.n, list) else (self.n,))
        return spaces.MultiBinary(self.n)


_LEAVES = {"Box": _Box, "Discrete": _Discrete, "MultiDiscrete": _MultiDiscrete, "MultiBinary": _MultiBinary}


def number_type(name: str) -> np.dtype[Any]:
    """The dtype of numbers or flags that has this name; raises `ValueError` where none does."""
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{shortened(name)} is no dtype") from error
    if dtype.kind not in "biuf" or dtype.name != name:
        raise ValueError(f"{shortened(name)} is no dtype of numbers")
    return dtype


def require_components(shape: tuple[int, ...]) -> int:
    """The numbers in an array of this shape; raises `ValueError` where they are more than anything has."""
    components = math.prod(shape)
    if components > MOST_COMPONENTS:
        raise ValueError(f"the shape {shape} has more than {MOST_COMPONENTS:,} components")
    return components


def _bounds_to_json(bounds: NDArray[Any]) -> Any:
    """One number where all components agree (images), else a list; infinities as text, since JSON has none."""
    flat = bounds.reshape(-1)
    if flat.size and (flat == flat[0]).all():
        flat = flat[:1]
    encoded = [str(item) if isinstance(item, float) and not np.isfinite(item) else item for item in flat.tolist()]
    return encoded[0] if len(encoded) == 1 else encoded


def _bounds(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if isinstance(value, list):
        return np.array([_bound(item, dtype) for item in value], dtype=dtype).reshape(shape)
    return np.full(shape, _bound(value, dtype), dtype=dtype)


def _bound(value: Any, dtype: np.dtype[Any]) -> Any:
    return value if dtype.kind in "biu" else float(value)
