"""The arrays that make up one Minari episode, whichever way they are stored."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offrl.converters.report import Log
from offrl.converters.source import ColumnInfo
from offrl.data import schema
from offrl.errors import DataError
from offrl.types import Spec

_SMALLEST_IMAGE = 32


@dataclass(frozen=True)
class Part:
    """An array that every episode has.

    Attributes:
        column: the store's column that it becomes.
        keys: where it lies in the episode: the group, then the keys of nested ones.
        space: the space of one row; None for rewards and flags.
        jpeg: its rows are compressed images.
    """

    column: str
    keys: tuple[str, ...]
    space: gym.Space[Any] | None = None
    jpeg: bool = False


@dataclass(frozen=True)
class Leaf:
    """An array of an episode whose dtype is known.

    Attributes:
        column: the store's column that it becomes.
        keys: where it lies in the episode.
        info: what one row becomes.
        jpeg: its rows are compressed images.
        optional: an info, which episodes may lack.
    """

    column: str
    keys: tuple[str, ...]
    info: ColumnInfo
    jpeg: bool = False
    optional: bool = False

    @cached_property
    def name(self) -> str:
        """Its name in messages."""
        return "/".join(self.keys)


@dataclass(frozen=True)
class Layout:
    """What the episodes of a dataset hold, and their numbers in ascending order.

    Attributes:
        max_expansion: how many times larger than its file an episode may be; see `offrl.converters.expansion`.
    """

    leaves: list[Leaf]
    numbers: list[int]
    max_expansion: int

    @property
    def columns(self) -> dict[str, ColumnInfo]:
        return {leaf.column: leaf.info for leaf in self.leaves}

    @property
    def keys(self) -> dict[str, str]:
        """Column to its name in the file."""
        return {leaf.column: leaf.name for leaf in self.leaves}


def parts_of(spec: Spec, tuple_key: Callable[[int], str], *, jpeg: bool) -> list[Part]:
    """The parts that every episode of these spaces has.

    Args:
        spec: the spaces.
        tuple_key: the key that a position in a Tuple space is stored under.
        jpeg: images are compressed.
    """
    return [
        *_leaves(spec.observation_space, schema.OBSERVATION, ("observations",), tuple_key, jpeg),
        *_leaves(spec.action_space, schema.ACTION, ("actions",), tuple_key, jpeg),
        Part(schema.REWARD, ("rewards",)),
        Part(schema.TERMINATED, ("terminations",)),
        Part(schema.TRUNCATED, ("truncations",)),
    ]


def _leaves(
    space: gym.Space[Any], column: str, keys: tuple[str, ...], tuple_key: Callable[[int], str], jpeg: bool
) -> Iterator[Part]:
    children: Iterable[tuple[str, str, gym.Space[Any]]]
    if isinstance(space, spaces.Dict):
        children = [(key, key, child) for key, child in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        children = [(str(index), tuple_key(index), child) for index, child in enumerate(space.spaces)]
    else:
        yield Part(column, keys, space, jpeg and is_image(space))
        return
    for name, key, child in children:
        yield from _leaves(child, f"{column}.{name}", (*keys, key), tuple_key, jpeg)


def is_image(space: gym.Space[Any]) -> bool:
    """Whether Minari takes a space for one of images, which it may compress."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) in (2, 3)
        and min(space.shape[:2]) >= _SMALLEST_IMAGE
        and space.dtype == np.uint8
        and bool((space.low == 0).all() and (space.high == 255).all())
    )


def leaf_of(part: Part, stored: np.dtype[Any]) -> Leaf:
    """A part whose dtype in the first episode is known.

    Floating-point numbers keep the stored precision. Whole rewards become floating-point ones: another episode may
    have fractions. Flags stay what they are until they are checked.
    """
    stored = stored.newbyteorder("=")
    if part.column in (schema.TERMINATED, schema.TRUNCATED):
        return Leaf(part.column, part.keys, ColumnInfo(stored if stored.kind in "biuf" else np.dtype(np.bool_), ()))
    if part.space is None:
        dtype = stored if stored.kind == "f" else np.dtype(np.float64)
        return Leaf(part.column, part.keys, ColumnInfo(dtype, ()))
    dtype = np.dtype(part.space.dtype)
    if dtype.kind == "f":
        dtype = stored if stored.kind == "f" else np.dtype(np.float64)
    return Leaf(part.column, part.keys, ColumnInfo(dtype, part.space.shape or ()), part.jpeg)


def info_leaf(
    keys: tuple[str, ...],
    stored: np.dtype[Any],
    shape: tuple[int, ...],
    steps: int,
    mapping: Mapping[str, str],
    log: Log,
) -> Leaf | None:
    """An array of `infos` in the first episode as a leaf; None where it is left out, which the log is told.

    Args:
        keys: where it lies, "infos" first.
        stored: its dtype.
        shape: its shape, rows first.
        steps: transitions of the first episode.
        mapping: the user's answers; `info.<key>=` leaves one out.
        log: is told.
    """
    name = ".".join(keys[1:])
    own = name in (schema.BEHAVIOR_LOG_PROB, schema.ACTION_MASK)
    column = name if own else f"{schema.INFO}.{name}"
    if "" in (mapping.get(column), mapping.get(schema.INFO)):
        log.leave_out("/".join(keys), "not wanted (--map)")
    elif stored.kind not in "biuf":
        log.leave_out("/".join(keys), "not numbers")
    elif 0 in shape[1:]:
        log.leave_out("/".join(keys), "no components")
    elif not shape or shape[0] != steps + 1:
        log.leave_out("/".join(keys), f"its first episode has the shape {shape}, not {steps + 1} rows")
    else:
        return Leaf(column, keys, ColumnInfo(stored.newbyteorder("="), shape[1:]), optional=True)
    return None


def can_hold(wanted: np.dtype[Any], found: np.dtype[Any]) -> bool:
    """Whether numbers of the dtype `found` keep their value as `wanted`; the spaces vouch for whole ones."""
    if wanted.kind in "iu" and found.kind in "iub":
        return True
    return np.can_cast(found, wanted, casting="safe")


def fill_missing(column: str, rows: NDArray[Any]) -> None:
    """What an info holds in an episode that lacks it: NaN, or zero where there is none; a mask allows everything."""
    if column == schema.ACTION_MASK:
        rows[...] = 1
    else:
        rows[...] = np.nan if rows.dtype.kind == "f" else 0


def decode_image(data: bytes, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """The pixels of one JPEG image, whose size is compared before it is unpacked.

    Raises:
        DataError: it is no image, or one of another size.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.size != (shape[1], shape[0]):
                raise ValueError(f"it has {image.size[0]} × {image.size[1]} pixels, not {shape[1]} × {shape[0]}")
            return np.asarray(image, dtype=np.uint8).reshape(shape)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"a compressed image can't be read ({error})",
            where=where,
            hint="write the dataset again with minari, or leave such episodes out",
        ) from error
