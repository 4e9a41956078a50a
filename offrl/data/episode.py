"""One episode in memory, nested as its spaces are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.data import schema


@dataclass(frozen=True)
class Episode:
    """One episode of T transitions, nested as the spaces are; arrays are views of the store's, where they can be.

    Attributes:
        observation: [T + 1, ...], or a nested mapping or tuple of such arrays.
        action: [T, ...], likewise.
        reward: [T].
        terminated: bool [T].
        truncated: bool [T].
        extras: the other columns: T + 1 rows for `info.*` and `action_mask`, T for the rest.
        seed: the seed it was started with; -1 where it is not known.
        source: where it came from; None where it is not known.
        return_: undiscounted sum of its rewards.

    Example:
        >>> store[-1]
        Episode(length=310, return=1050.21, observation=float32 [311, 11], action=float32 [310, 3], terminated)
        >>> store[-1].reward.shape, store[-1].source
        ((310,), 'policy of seed 0')
    """

    observation: Any
    action: Any
    reward: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)
    seed: int = -1
    source: str | None = None
    return_: float = 0.0

    @property
    def length(self) -> int:
        """Transitions: T."""
        return len(self.reward)

    def __len__(self) -> int:
        return self.length

    @property
    def info(self) -> dict[str, NDArray[Any]]:
        """What the environment told beside its observations, by key: [T + 1, ...] each."""
        prefix = f"{schema.INFO}."
        return {name.removeprefix(prefix): array for name, array in self.extras.items() if name.startswith(prefix)}

    def __repr__(self) -> str:
        nested = {schema.OBSERVATION: self.observation, schema.ACTION: self.action}
        parts = [f"length={self.length}", f"return={self.return_:g}"]
        parts += [f"{name}={_described(value)}" for name, value in nested.items()]
        parts.append(schema.TERMINATED if self.terminated[-1:].any() else schema.TRUNCATED)
        parts += [f"info: {', '.join(self.info)}"] if self.info else []
        return f"Episode({', '.join(parts)})"


def _described(value: Any) -> str:
    """The types and shapes of arrays, nested as they are."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_described(item)}' for key, item in value.items())}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_described, value))})"
    return f"{value.dtype} {list(value.shape)}"
