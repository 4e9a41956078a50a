"""What a store says of itself: spaces and columns, as JSON and back.

Nested spaces become flat columns: a `Dict` contributes one column for each leaf, named by its dotted path
(`observation.camera.left`), a `Tuple` uses positions as keys (`observation.0`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offrl.data.statistics import ColumnStatistics
from offrl.errors import CorruptStoreError, DataError, RequestError, SchemaVersionError, listed
from offrl.types import Spec

SCHEMA_VERSION = 1
FINGERPRINT_VERSION = 2
"""Of what a fingerprint is made. Stores that have one of version 1, without statistics, keep it."""
MOST_COMPONENTS = 2**25
"""Numbers that a declared space may have, all its parts together: four frames of 1080p video have 25 million."""

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

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ColumnSpec:
        return cls(value["name"], np.dtype(value["dtype"]), tuple(value["shape"]))


@dataclass(frozen=True)
class ShardRecord:
    """One committed shard: `shards/<name>.arrow` (rows) and `episodes/<name>.arrow` (the episode table)."""

    name: str
    rows: int
    episodes: int
    rows_bytes: int
    rows_sha256: str
    episodes_bytes: int
    episodes_sha256: str

    @property
    def rows_file(self) -> str:
        return f"shards/{self.name}.arrow"

    @property
    def episodes_file(self) -> str:
        return f"episodes/{self.name}.arrow"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ShardRecord:
        record = cls(**value)
        for key, item in vars(record).items():
            if key in ("name", "rows_sha256", "episodes_sha256"):
                if not isinstance(item, str):
                    raise ValueError(f"a shard's {key} is {item!r}, not text")
            elif type(item) is not int or item < 0:
                raise ValueError(f"a shard's {key} is {item!r}, not a whole number of at least 0")
        if not record.name.isdigit():
            raise ValueError(f"a shard's name is {record.name!r}, not a number")
        return record


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
        kinds = {"name": str | None, "environment": str | None, "provenance": dict, "reference_scores": dict}
        try:
            for key, kind in kinds.items():
                if not isinstance(value[key], kind):
                    raise ValueError(f"the {key} is {value[key]!r}")
            fingerprint_version = value.get("fingerprint_version", 1)
            if fingerprint_version not in range(1, FINGERPRINT_VERSION + 1):
                raise ValueError(f"the fingerprint's version is {fingerprint_version!r}")
            return cls(
                spec=Spec(space_from_json(value["observation_space"]), space_from_json(value["action_space"])),
                columns=tuple(ColumnSpec.from_json(column) for column in value["columns"]),
                shards=tuple(ShardRecord.from_json(shard) for shard in value["shards"]),
                statistics={name: ColumnStatistics.from_json(item) for name, item in value["statistics"].items()},
                fingerprint_version=fingerprint_version,
                **{key: value[key] for key in kinds},
            )
        # A Gymnasium space asserts what it is made of.
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            AssertionError,
            OverflowError,
            RecursionError,
        ) as error:
            raise CorruptStoreError(
                f"the store's metadata can't be understood ({type(error).__name__}: {error})",
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
        ValueError: it declares more than `MOST_COMPONENTS` numbers.
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
    declared = value["n"] if value.get("type") == "MultiBinary" else value.get("shape", ())
    return math.prod(map(abs, declared if isinstance(declared, list | tuple) else (declared,)))


def space_from_json(value: Mapping[str, Any]) -> gym.Space[Any]:
    """The inverse of `space_to_json`: equal to the space that was encoded.

    Raises:
        ValueError: it declares more than `MOST_COMPONENTS` numbers.
    """
    check_components(value)
    return _space_from_json(value)


def _space_from_json(value: Mapping[str, Any]) -> gym.Space[Any]:
    match value["type"]:
        case "Box":
            shape, dtype = tuple(value["shape"]), np.dtype(value["dtype"])
            low, high = (_bounds_from_json(value[key], shape, dtype) for key in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return spaces.Discrete(value["n"], start=value["start"])
        case "MultiDiscrete":
            return spaces.MultiDiscrete(value["nvec"], dtype=np.dtype(value["dtype"]).type, start=value["start"])
        case "MultiBinary":
            return spaces.MultiBinary(value["n"])
        case "Dict":
            return spaces.Dict([(key, _space_from_json(item)) for key, item in value["spaces"].items()])
        case "Tuple":
            return spaces.Tuple([_space_from_json(item) for item in value["spaces"]])
    raise ValueError(f"unknown space type {value['type']!r}")


def _bounds_to_json(bounds: NDArray[Any]) -> Any:
    """One number where all components agree (images), else a list; infinities as text, since JSON has none."""
    flat = bounds.reshape(-1)
    if flat.size and (flat == flat[0]).all():
        flat = flat[:1]
    encoded = [str(item) if isinstance(item, float) and not np.isfinite(item) else item for item in flat.tolist()]
    return encoded[0] if len(encoded) == 1 else encoded


def _bounds_from_json(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if not isinstance(value, list):
        return np.full(shape, float(value) if isinstance(value, str) else value, dtype=dtype)
    numbers = [float(item) if isinstance(item, str) else item for item in value]
    return np.array(numbers, dtype=dtype).reshape(shape)


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
