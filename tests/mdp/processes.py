"""Tiny processes to test with, and all that can happen in them, path by path."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from offrl.mdp import TabularMDP


def random_mdp(
    seed: int, states: int = 4, actions: int = 2, *, discount: float = 0.9, horizon: int | None = 3, sure: bool = False
) -> TabularMDP:
    """Random dynamics with zeros in them, the last state terminal; `sure` ones are deterministic."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states), (states, actions)) * (rng.random((states, actions, states)) < 0.7)
    transition[..., 0] += 0.1
    if sure:
        transition = np.eye(states)[rng.integers(0, states, (states, actions))]
    return TabularMDP.from_arrays(
        transition / transition.sum(-1, keepdims=True),
        rng.dirichlet(np.ones(states)),
        terminal=np.arange(states) == states - 1,
        reward=rng.standard_normal((states, actions, states)),
        discount=discount,
        horizon=horizon,
    )


class Path(NamedTuple):
    """One way that an episode can go.

    Attributes:
        first: its first state.
        entries: the transitions that it takes, by position in the process.
        luck: the product of their probabilities.
    """

    first: int
    entries: tuple[int, ...]
    luck: float


def paths(mdp: TabularMDP, first: int) -> Iterator[Path]:
    """All paths of up to `mdp.horizon` steps from a state."""
    assert mdp.horizon is not None
    yield from _extended(mdp, Path(first, (), 1.0), first, mdp.horizon)


def _extended(mdp: TabularMDP, path: Path, state: int, left: int) -> Iterator[Path]:
    if left == 0:
        yield path
        return
    for entry in range(len(mdp.origin)):
        if int(mdp.origin[entry]) // mdp.actions != state:
            continue
        longer = Path(path.first, (*path.entries, entry), path.luck * float(mdp.probability[entry]))
        yield from [longer] if mdp.ends[entry] else _extended(mdp, longer, int(mdp.target[entry]), left - 1)


def log_sum(values: list[float]) -> float:
    return math.log(sum(math.exp(value) for value in values))
