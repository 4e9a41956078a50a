"""Prioritized experience replay (Schaul et al., 2016), https://arxiv.org/abs/1511.05952.

Every transition of a source has a *place*, a number that it keeps while it can be drawn. Whole batches are drawn, and
whole batches of priorities changed, in a few array operations; seeds have priorities of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.replay.source_protocols import TransitionSource

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FAN = 128
"""Children of a sum's node: wide nodes make few levels, and NumPy's cost is in the number of operations."""
LEAST_ERROR = 1e-6
"""Added to |TD error|, so that no transition is out of reach."""
NOWHERE = np.iinfo(np.int64).max
"""The sort key of a place that holds no transition."""
_PLACE_BITS = 32


class Prioritization(Protocol):
    """How transitions are prioritized.

    Attributes:
        kind: "proportional": P(i) ∝ (|δ_i| + ε)^α; "rank": P(i) ∝ rank(i)^−α, the greatest |δ| being of rank 1; "none":
            all alike.
        exponent: α.
        importance_exponent: β of the first batch, in the weights (N P(i))^−β.
        importance_steps: batches over which β grows to 1, linearly.
    """

    @property
    def kind(self) -> Literal["none", "proportional", "rank"]: ...

    @property
    def exponent(self) -> float: ...

    @property
    def importance_exponent(self) -> float: ...

    @property
    def importance_steps(self) -> int: ...


class Priorities:
    """The priorities of one source's transitions; those that it has taken up since are given the greatest |δ| so far.

    Args:
        source: what holds the transitions.
        kind: how |δ| becomes a probability; see `Prioritization`.
        exponent: α.
    """

    def __init__(self, source: TransitionSource, kind: Literal["proportional", "rank"], exponent: float) -> None:
        seeds = len(source.counts())
        self.source = source
        table = ProportionalTable if kind == "proportional" else RankTable
        self.table: Table = table(seeds, source.num_places(), exponent)
        self.greatest = np.ones(seeds)
        self.seen = np.zeros_like(source.written())

    def draw(self, quantiles: Floats) -> tuple[Ints, Floats]:
        """Places, and N P(i) of the transitions there, for quantiles in [0, 1] of the distribution; all [K, S, B]."""
        self._follow_source()
        batches, seeds, size = quantiles.shape
        per_seed = quantiles.transpose(1, 0, 2).reshape(seeds, -1)
        place, probability = self.table.draw(per_seed)
        relative = probability * self.source.counts()[:, None]
        shape = (seeds, batches, size)
        return place.reshape(shape).swapaxes(0, 1).copy(), relative.reshape(shape).swapaxes(0, 1)

    def learn(self, place: Ints, error: Floats) -> None:
        """Take over |δ|, [C, S, B], of the transitions drawn last; later batches count where one was drawn twice.

        An error that isn't finite changes nothing: it is the training loop that reports a diverging loss.
        """
        seed = np.broadcast_to(np.arange(place.shape[1])[:, None], place.shape)
        known = np.isfinite(error) & self.table.holds(seed, place)
        seed, place, error = seed[known], place[known], error[known]
        np.maximum.at(self.greatest, seed, error)
        self.table.write(seed, place, error)

    def named_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        self._follow_source()
        arrays = {"table": self.table.values(), "greatest": self.greatest}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue where `named_tensors` was taken, with the source as it was then."""
        self.table.restore(tensors["table"].cpu().numpy())
        self.greatest[:] = tensors["greatest"].cpu().numpy()
        self.seen[:] = self.source.written()

    def _follow_source(self) -> None:
        seed, place, holds = self.source.renewed(self.seen)
        self.seen[:] = self.source.written()
        self.table.remove(seed[~holds], place[~holds])
        self.table.write(seed[holds], place[holds], self.greatest[seed[holds]])


class Table(Protocol):
    """|δ| at the places of S seeds, and draws by it."""

    def write(self, seed: Ints, place: Ints, error: Floats) -> None:
        """Set |δ| at places [n] of seeds [n]; the last one counts where a place is named twice."""

    def remove(self, seed: Ints, place: Ints) -> None:
        """Forget the transitions at places [n]."""

    def holds(self, seed: Ints, place: Ints) -> NDArray[np.bool_]:
        """Whether there are transitions at places [...]."""

    def draw(self, quantiles: Floats) -> tuple[Ints, Floats]:
        """Places and their probabilities for quantiles in [0, 1], each [S, n]."""

    def values(self) -> NDArray[np.generic]:
        """All that the draws depend on, [S, places]."""

    def restore(self, values: NDArray[np.generic]) -> None:
        """Go back to `values`."""


class ProportionalTable:
    """P(i) ∝ (|δ_i| + ε)^α.

    Args:
        seeds: S.
        places: places per seed.
        exponent: α.
    """

    def __init__(self, seeds: int, places: int, exponent: float) -> None:
        self.exponent, self.tree, self._places = exponent, SumTree(seeds, places), places

    def write(self, seed: Ints, place: Ints, error: Floats) -> None:
        self.tree.write(seed, place, (error + LEAST_ERROR) ** self.exponent)

    def remove(self, seed: Ints, place: Ints) -> None:
        self.tree.write(seed, place, np.zeros(len(place)))

    def holds(self, seed: Ints, place: Ints) -> NDArray[np.bool_]:
        return self.tree.leaves[seed, place] > 0.0

    def draw(self, quantiles: Floats) -> tuple[Ints, Floats]:
        total = self.tree.totals()[:, None]
        place = self.tree.find(quantiles * total)
        return place, np.take_along_axis(self.tree.leaves, place, axis=1) / total

    def values(self) -> Floats:
        return self.tree.leaves[:, : self._places]

    def restore(self, values: NDArray[np.generic]) -> None:
        self.tree.restore(values.astype(np.float64))


class SumTree:
    """Sums of S rows of non-negative leaves, over blocks, blocks of blocks, and so on.

    Args:
        rows: S.
        leaves: leaves in a row.
    """

    def __init__(self, rows: int, leaves: int) -> None:
        self.levels = [np.zeros((rows, _rounded_up(leaves)))]
        while self.levels[-1].shape[1] > FAN:
            self.levels.append(np.zeros((rows, _rounded_up(self.levels[-1].shape[1] // FAN))))

    @property
    def leaves(self) -> Floats:
        """[S, leaves, rounded up to whole blocks]."""
        return self.levels[0]

    def totals(self) -> Floats:
        """The sum of each row, [S]."""
        return np.asarray(self.levels[-1].sum(axis=1))

    def write(self, row: Ints, leaf: Ints, value: Floats) -> None:
        """Set leaves [n] of rows [n]; the last value counts where a leaf is named twice."""
        self.leaves[row, leaf] = value
        node = leaf
        for below, above in itertools.pairwise(self.levels):
            blocks = _blocks(below)
            row, node = np.divmod(np.unique(row * blocks.shape[1] + node // FAN), blocks.shape[1])
            above[row, node] = blocks[row, node].sum(axis=-1)

    def find(self, target: Floats) -> Ints:
        """The leaves in which the running sums of each row pass these numbers, [S, n]; a leaf of 0 is never one."""
        shape, target = target.shape, target.reshape(-1)
        row = np.repeat(np.arange(shape[0]), shape[1])
        drawn, node = np.arange(len(target)), np.zeros(len(target), np.int64)
        running = np.zeros((len(target), FAN + 1))
        for level in reversed(self.levels):
            np.cumsum(_blocks(level)[row, node], axis=1, out=running[:, 1:])
            # A node's sum and the running sum of its children are rounded differently: stay below the latter.
            target = np.minimum(target, np.nextafter(running[:, -1], 0.0))
            child = (running[:, 1:] <= target[:, None]).sum(axis=1)
            target = target - running[drawn, child]
            node = node * FAN + child
        return node.reshape(shape)

    def restore(self, leaves: Floats) -> None:
        """Set all leaves."""
        self.leaves[:, : leaves.shape[1]] = leaves
        for below, above in itertools.pairwise(self.levels):
            sums = _blocks(below).sum(axis=-1)
            above[:, : sums.shape[1]] = sums


def _rounded_up(size: int) -> int:
    return math.ceil(size / FAN) * FAN


def _blocks(level: Floats) -> Floats:
    return level.reshape(len(level), -1, FAN)


class RankTable:
    """P(i) ∝ rank(i)^−α; the greatest |δ| (in single precision) is of rank 1, and of equals the lowest place.

    Args:
        seeds: S.
        places: places per seed.
        exponent: α.
    """

    def __init__(self, seeds: int, places: int, exponent: float) -> None:
        # A place's key sorts by falling |δ|, then by place: the ranks depend on the keys alone, not on their history.
        self.keys = np.full((seeds, places), NOWHERE)
        self._orders = [_Order(keys) for keys in self.keys]
        self._power = np.arange(1, places + 1, dtype=np.float64) ** -exponent
        self._mass = self._power.cumsum()

    def write(self, seed: Ints, place: Ints, error: Floats) -> None:
        # Non-negative floats sort as their bits do.
        bits = error.astype(np.float32).view(np.int32).astype(np.int64)
        self._set(seed, place, (np.int64(2**31 - 1) - bits) << _PLACE_BITS | place)

    def remove(self, seed: Ints, place: Ints) -> None:
        self._set(seed, place, np.full(len(place), NOWHERE))

    def holds(self, seed: Ints, place: Ints) -> NDArray[np.bool_]:
        return np.asarray(self.keys[seed, place] != NOWHERE)

    def draw(self, quantiles: Floats) -> tuple[Ints, Floats]:
        drawn = [self._draw(order, row) for order, row in zip(self._orders, quantiles, strict=True)]
        return np.stack([place for place, _ in drawn]), np.stack([probability for _, probability in drawn])

    def values(self) -> Ints:
        return self.keys

    def restore(self, values: NDArray[np.generic]) -> None:
        self.keys[:] = values
        self._orders = [_Order(keys) for keys in self.keys]

    def _set(self, seed: Ints, place: Ints, key: Ints) -> None:
        self.keys[seed, place] = key
        for number, order in enumerate(self._orders):
            order.changes.append(place[seed == number])

    def _draw(self, order: _Order, quantiles: Floats) -> tuple[Ints, Floats]:
        count = order.update()
        mass = self._mass[count - 1]
        rank = np.minimum(self._mass[:count].searchsorted(quantiles * mass, side="right"), count - 1)
        return order.places(rank), self._power[rank] / mass


class _Order:
    """One seed's keys in order: a sorted array, and beside it the few keys that have changed since.

    Args:
        keys: [places], changed from outside; `changes` says where.
    """

    def __init__(self, keys: Ints) -> None:
        self.keys, self.changes = keys, [np.arange(len(keys))]
        self.sorted, self.sorted_keys = np.empty(0, np.int64), np.full(len(keys), NOWHERE)

    def update(self) -> int:
        """Take in the changes; returns how many keys are in order."""
        changed = np.unique(np.concatenate(self.changes))
        before, now = self.sorted_keys[changed], self.keys[changed]
        gone = self.sorted.searchsorted(np.sort(before[before != NOWHERE]))
        recent = np.sort(now[now != NOWHERE])
        in_front = self.sorted.searchsorted(recent)
        in_front -= gone.searchsorted(in_front)
        if len(changed) > math.isqrt(len(self.sorted)):
            # Looking up k changes at each draw and, after each k of them, copying n keys costs least around k = √n.
            self.sorted = np.insert(np.delete(self.sorted, gone), in_front, recent)
            self.sorted_keys[changed] = now
            changed, gone, recent, in_front = changed[:0], gone[:0], recent[:0], in_front[:0]
        self.changes, self.gone, self.recent = [changed], gone, recent
        self.recent_ranks = in_front + np.arange(len(recent))
        return len(self.sorted) - len(gone) + len(recent)

    def places(self, rank: Ints) -> Ints:
        """The places of the keys of these ranks, from 0, [n]."""
        passed = self.recent_ranks.searchsorted(rank, side="right")
        position = rank - passed
        position += (self.gone - np.arange(len(self.gone))).searchsorted(position, side="right")
        key = self.sorted[np.minimum(position, len(self.sorted) - 1)]
        if len(self.recent):
            is_recent = (passed > 0) & (self.recent_ranks[passed - 1] == rank)
            key = np.where(is_recent, self.recent[passed - 1], key)
        return np.asarray(key & (2**_PLACE_BITS - 1))
