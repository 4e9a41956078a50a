"""What a store says of itself: spaces and columns, as JSON and back.

Nested spaces become flat columns: a `Dict` contributes one column for each leaf, named by its dotted path
(`observation.camera.left`), a `Tuple` uses positions as keys (`observation.0`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from annotated_types import Ge, Le, Predicate
from gymnasium import spaces
from numpy.typing import NDArray

from offrl.data.space_encoding import (
    Axes,
    Bound,
    Whole,
    number_type,
    require_components,
    space_from_json,
    space_to_json,
)
from offrl.data.statistics import ColumnStatistics
from offrl.documents import checked
from offrl.errors import CorruptStoreError, DataError, RequestError, SchemaVersionError, listed
from offrl.types import Spec

SCHEMA_VERSION = 1
FINGERPRINT_VERSION = 2
"""Of what a fingerprint is made. Stores that have one of version 1, without statistics, keep it."""

OBSERVATION, ACTION, REWARD = "observation", "action", "reward"
TERMINATED, TRUNCATED = "terminated", "truncated"
BEHAVIOR_LOG_PROB, ACTION_MASK, INFO = "behavior_log_prob", "action_mask", "info"


@dataclass(frozen=True)
class ColumnSpec:
    """One column on disk: its name, the dtype of its numbers, and the shape of one row."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return int(self.dtype.itemsize * np.prod(self.shape, dtype=np.int64))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype.name, "shape": list(self.shape)}


@dataclass(frozen=True)
class ShardRecord:
    """One committed shard: `shards/<name>.arrow` (rows) and `episodes/<name>.arrow` (the episode table)."""

    name: Annotated[str, Predicate(str.isdecimal)]
    rows: Whole
    episodes: Whole
    rows_bytes: Whole
    rows_sha256: str
    episodes_bytes: Whole
    episodes_sha256: str

    @property
    def rows_file(self) -> str:
        return f"shards/{self.name}.arrow"

    @property
    def episodes_file(self) -> str:
        return f"episodes/{self.name}.arrow"


@dataclass(frozen=True)
class ReferenceScores:
    """What `reference_scores` hold, as far as offrl reads them."""

    random: float | None = None
    expert: float | None = None


@dataclass(frozen=True)
class _Column:
    """A `ColumnSpec` as JSON has it."""

    name: str
    dtype: str
    shape: Axes

    def __post_init__(self) -> None:
        if not require_components(self.shape):
            raise ValueError(f"rows of '{self.name}' have the shape {tuple(self.shape)}, without components")

    def spec(self) -> ColumnSpec:
        return ColumnSpec(self.name, number_type(self.dtype), self.shape)


@dataclass(frozen=True)
class _Statistics:
    """`ColumnStatistics` as JSON has them."""

    count: Whole
    shape: Axes
    mean: list[Bound]
    squares: list[Bound]
    min: list[Bound]
    max: list[Bound]

    def __post_init__(self) -> None:
        components = require_components(self.shape)
        if any(len(figures) != components for figures in (self.mean, self.squares, self.min, self.max)):
            raise ValueError(f"should have {components} figures of each kind, as its shape says")


@dataclass(frozen=True)
class _Metadata:
    """`metadata.json`, but for the version, which says how to read it, and the fingerprint of what was read."""

    name: str | None
    environment: str | None
    observation_space: dict[str, Any]
    action_space: dict[str, Any]
    columns: tuple[_Column, ...]
    shards: tuple[ShardRecord, ...]
    statistics: dict[str, _Statistics]
    provenance: dict[str, Any]
    reference_scores: ReferenceScores
    fingerprint_version: Annotated[int, Ge(1), Le(FINGERPRINT_VERSION)] = 1


@dataclass(frozen=True)
class StoreMetadata:
    """Everything in a store's `metadata.json`.

    Attributes:
        spec: the observation and action spaces.
        columns: the columns in the order they have on disk; empty until the first block fixes the dtypes.
        shards: the committed shards, in order.
        statistics: by column, over the transition rows (the final observation of an episode doesn't count, so that
            they describe what a sampler draws as `observation`); `return` and `length` over the episodes.
        name: what people call the dataset.
        environment: the environment's id, if there is one.
        provenance: how the data came to be: source file, command, versions, seeds.
        reference_scores: returns of a `random` and an `expert` policy, and where they were measured.
        fingerprint_version: what its fingerprint is made of.
    """

    spec: Spec
    columns: tuple[ColumnSpec, ...] = ()
    shards: tuple[ShardRecord, ...] = ()
    statistics: dict[str, ColumnStatistics] = field(default_factory=dict)
    name: str | None = None
    environment: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    reference_scores: dict[str, Any] = field(default_factory=dict)
    fingerprint_version: int = FINGERPRINT_VERSION

    @cached_property
    def fingerprint(self) -> str:
        """Names the data: the same wherever the store lies.

        SHA-256 of the schema, of the checksums of the shards and of their episode tables, in order, and of the
        statistics.
        """
        content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "observation_space": space_to_json(self.spec.observation_space),
            "action_space": space_to_json(self.spec.action_space),
            "columns": [column.to_json() for column in self.columns],
            "shards": [[shard.rows_sha256, shard.episodes_sha256] for shard in self.shards],
        }
        if self.fingerprint_version > 1:
            content["fingerprint_version"] = self.fingerprint_version
            content["statistics"] = {name: value.to_json() for name, value in self.statistics.items()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "environment": self.environment,
            "observation_space": space_to_json(self.spec.observation_space),
            "action_space": space_to_json(self.spec.action_space),
            "columns": [column.to_json() for column in self.columns],
            "shards": [vars(shard) for shard in self.shards],
            "statistics": {name: value.to_json() for name, value in self.statistics.items()},
            "provenance": self.provenance,
            "reference_scores": self.reference_scores,
            "fingerprint_version": self.fingerprint_version,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> StoreMetadata:
        """The inverse of `to_json`.

        Raises:
            SchemaVersionError: another version of offrl wrote it, or it doesn't say which.
            CorruptStoreError: a key is missing or holds something else than it should.
        """
        if isinstance(value, dict) and not (
            type(version := value.get("schema_version")) is int and version == SCHEMA_VERSION
        ):
            raise _of_another_version(version, where)
        try:
            found: _Metadata = checked(_Metadata, value)
            return cls(
                spec=Spec(space_from_json(found.observation_space), space_from_json(found.action_space)),
                columns=tuple(column.spec() for column in found.columns),
                shards=found.shards,
                statistics={name: ColumnStatistics.from_json(item) for name, item in value["statistics"].items()},
                fingerprint_version=found.fingerprint_version,
                name=found.name,
                environment=found.environment,
                provenance=found.provenance,
                reference_scores=value["reference_scores"],
            )
        except ValueError as error:
            raise CorruptStoreError(
                f"the store's metadata can't be understood: {error}",
                where=where,
                hint="restore the file from a copy, or convert the source again",
            ) from error


def _of_another_version(version: Any, where: str) -> SchemaVersionError:
    found = "no schema version" if version is None else f"schema version {version!r}"
    newer = isinstance(version, int) and version > SCHEMA_VERSION
    return SchemaVersionError(
        f"the store has {found}, this offrl reads version {SCHEMA_VERSION}",
        where=where,
        hint="install a newer offrl" if newer else "convert the source again with this offrl",
    )


def flatten_space(space: gym.Space[Any], prefix: str) -> dict[str, gym.Space[Any]]:
    """Column name to leaf space, for a space that may be nested.

    Raises:
        RequestError: two leaves would share a name (a key with a dot in it beside a nested one).
    """
    children = _children(space)
    if children is None:
        return {prefix: space}
    leaves: dict[str, gym.Space[Any]] = {}
    for key, child in children.items():
        for name, leaf in flatten_space(child, f"{prefix}.{key}").items():
            if name in leaves:
                raise RequestError(
                    f"two parts of the space share the column name '{name}'", hint="rename the key that has a dot in it"
                )
            leaves[name] = leaf
    return leaves


def _children(space: gym.Space[Any]) -> dict[str, gym.Space[Any]] | None:
    if isinstance(space, spaces.Dict):
        return dict(space.spaces)
    if isinstance(space, spaces.Tuple):
        return {str(index): child for index, child in enumerate(space.spaces)}
    return None


def flatten_value(space: gym.Space[Any], value: Any, prefix: str) -> dict[str, NDArray[Any]]:
    """Column name to array, for a value nested as the space is (leaves may have any leading axes).

    Raises:
        DataError: the value isn't nested as the space is.
    """
    children = _children(space)
    if children is None:
        return {prefix: np.asarray(value)}
    parts = value if isinstance(value, Mapping) else {str(i): item for i, item in enumerate(value)}
    if set(parts) != set(children):
        raise DataError(
            f"'{prefix}' has the parts {listed(sorted(parts))}, its space has {listed(sorted(children))}",
            hint="give the space that describes the data",
        )
    return {
        name: array
        for key, child in children.items()
        for name, array in flatten_value(child, parts[key], f"{prefix}.{key}").items()
    }


def unflatten_value(space: gym.Space[Any], columns: Mapping[str, Any], prefix: str) -> Any:
    """The inverse of `flatten_value`: dictionaries, tuples and arrays nested as the space is."""
    children = _children(space)
    if children is None:
        return columns[prefix]
    parts = {key: unflatten_value(child, columns, f"{prefix}.{key}") for key, child in children.items()}
    return tuple(parts.values()) if isinstance(space, spaces.Tuple) else parts


def has_final_row(column: str) -> bool:
    """Whether a column says something of an episode's final observation too, in the last of its T + 1 rows."""
    return column.split(".")[0] in (OBSERVATION, ACTION_MASK, INFO)


def required_columns(spec: Spec) -> dict[str, gym.Space[Any] | None]:
    """The columns that every store of these spaces has, in order, with the leaf space where one describes them."""
    return {
        **flatten_space(spec.observation_space, OBSERVATION),
        **flatten_space(spec.action_space, ACTION),
        REWARD: None,
        TERMINATED: None,
        TRUNCATED: None,
    }
