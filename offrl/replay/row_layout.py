"""Which float of a packed row is what, and how a packed pair of rows becomes a batch.

A packed row is observation | action | action_mask? | behavior_log_prob? | return_to_go? | reward | terminated |
truncated, all float32 (integers are exact up to 2^24). uint8 observations (images) don't go into rows; they are
gathered apart. A *pair* is a row and what the row behind it says of the state that followed: the observation, and the
actions allowed there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from offrl.data import schema
from offrl.data.schema import ColumnSpec, flatten_space
from offrl.errors import RequestError
from offrl.replay.normalization import ActionMap, ObservationNormalizer, RewardScaler, observation_key
from offrl.types import RETURN_TO_GO, Observation, Spec

OPTIONAL = (schema.ACTION_MASK, schema.BEHAVIOR_LOG_PROB)
"""Those that stores may have."""
RETURNS = ColumnSpec(RETURN_TO_GO, np.dtype(np.float32), ())
"""That of returns to go, which are made of the rewards."""
Rows = TypeVar("Rows", Tensor, NDArray[np.float32])
_ACTION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


@dataclass
class RowLayout:
    """The columns of a packed row, in order, with the shape of each; and the columns that are images.

    Attributes:
        columns: (name, shape of one row's value) of the columns in the row; observations come first.
        images: (name, shape) of the uint8 observation columns.
        integer_actions: whether actions are handed out as int64.
        slices: column name to its place in the row.
        width: floats in a row.
        observation_width: floats of the observation in a row.
        action_shape: of one row's action.
        pair_width: floats of a row and, of the row behind it, all up to the observation, or to the mask where there is
            one.
        row_bytes: bytes of a packed row, images among them.
    """

    columns: tuple[tuple[str, tuple[int, ...]], ...]
    images: tuple[tuple[str, tuple[int, ...]], ...] = ()
    integer_actions: bool = False
    slices: dict[str, slice] = field(init=False, repr=False, compare=False)
    width: int = field(init=False, repr=False, compare=False)
    observation_width: int = field(init=False, repr=False, compare=False)
    action_shape: tuple[int, ...] = field(init=False, repr=False, compare=False)
    pair_width: int = field(init=False, repr=False, compare=False)
    row_bytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.slices, self.width = {}, 0
        for name, shape in self.columns:
            start, self.width = self.width, self.width + math.prod(shape)
            self.slices[name] = slice(start, self.width)
        self.observation_width = self.slices[schema.ACTION].start
        told = schema.ACTION_MASK in self.slices
        self.pair_width = self.width + (self.slices[schema.ACTION_MASK].stop if told else self.observation_width)
        self.row_bytes = 4 * self.width + sum(math.prod(shape) for _, shape in self.images)
        self._shapes = dict(self.columns)
        self.action_shape = self._shapes[schema.ACTION]
        observed = [name for name in self.slices if name.split(".")[0] == schema.OBSERVATION]
        self._observation_keys = {name: observation_key(name) for name in observed}

    @classmethod
    def of(cls, spec: Spec, optional: Sequence[ColumnSpec] = ()) -> RowLayout:
        """The layout for these spaces, with the optional columns that are given.

        Raises:
            RequestError: no agent acts in such an action space.
        """
        if not isinstance(spec.action_space, _ACTION_SPACES):
            raise RequestError(f"batches can't be drawn for the action space {spec.action_space}")
        leaves = flatten_space(spec.observation_space, schema.OBSERVATION)
        images = {name: leaf for name, leaf in leaves.items() if leaf.dtype == np.uint8}
        extras = {column.name: column.shape for column in optional}
        # Flat vectors, also of a Box that holds a single number; nothing for a Discrete action.
        shape, continuous = spec.action_space.shape or (), isinstance(spec.action_space, spaces.Box)
        action_shape = (math.prod(shape),) if shape or continuous else ()
        return cls(
            columns=(
                *((name, tuple(leaf.shape or ())) for name, leaf in leaves.items() if name not in images),
                (schema.ACTION, action_shape),
                *((name, extras[name]) for name in (*OPTIONAL, RETURN_TO_GO) if name in extras),
                (schema.REWARD, ()),
                (schema.TERMINATED, ()),
                (schema.TRUNCATED, ()),
            ),
            images=tuple((name, tuple(leaf.shape or ())) for name, leaf in images.items()),
            integer_actions=not continuous,
        )

    def value(self, name: str, rows: Rows) -> Rows:
        """One column of packed rows (or pairs), a tensor or an array [..., >= width]: a view [..., *shape]."""
        place, shape = self.slices[name], self._shapes[name]
        if not shape:
            return rows[..., place.start]
        values = rows[..., place]
        return values if len(shape) == 1 else values.reshape(*values.shape[:-1], *shape)

    def action(self, rows: Tensor) -> Tensor:
        """The actions of packed rows: float32 [..., A], or int64 [...] or [..., K]."""
        return self._as_action(self.value(schema.ACTION, rows))

    def action_alone(self, floats: Tensor, lead: tuple[int, ...]) -> Tensor:
        """The same from rows of nothing but the action, float32 [N, floats of it], with the leading axes `lead`."""
        return self._as_action(floats.view(*lead, *self.action_shape))

    def _as_action(self, values: Tensor) -> Tensor:
        return values.long() if self.integer_actions else values

    def observation(self, floats: Tensor, images: Mapping[str, Tensor]) -> Observation:
        """The observation, from floats that start with its part of a row, and from the images by column name."""
        parts = {key: self.value(name, floats) for name, key in self._observation_keys.items()}
        parts |= {observation_key(name): image for name, image in images.items()}
        return parts.get("", parts)


def known_masks(mask: Any) -> Any:
    """Masks, a tensor or an array [..., A], all True where none was logged, as behind the end of an episode."""
    return mask | ~mask.any(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Transforms:
    """What is done to raw columns on their way into packed rows; None leaves them as they are."""

    observation_normalizer: ObservationNormalizer | None = None
    reward_scaler: RewardScaler | None = None
    action_map: ActionMap | None = None

    def apply(self, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
        """One raw column [rows, ...] as float32 [rows, components]."""
        if name.split(".")[0] == schema.OBSERVATION and self.observation_normalizer is not None:
            values = self.observation_normalizer.normalize_part(observation_key(name), values)
        values = values.reshape(len(values), -1)
        if self.action_map is not None and name == schema.ACTION:
            values = self.action_map.to_unit(values)
        elif self.action_map is not None and name == schema.BEHAVIOR_LOG_PROB:
            values = values + self.action_map.log_volume
        elif self.reward_scaler is not None and name == schema.REWARD:
            values = self.reward_scaler(values)
        return values.astype(np.float32, copy=False)
