"""Counts of uniform draws, many at a time: Poisson counts, filled up to the number of draws.

Independent Poisson counts of one mean are multinomial once their sum is given, and uniform draws added to them leave
them so. A mean of a little less than 1 keeps the sum below the number of draws nearly always; rows in which it is above
are drawn again, which takes nothing from the others, as it depends on the sum alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from offrl.off_policy.episode_log import Array

DEVIATIONS = 3.0
"""How many standard deviations the mean sum of a row is below the number of draws."""
AT_ONCE = 1 << 17
"""Counts for which all that it takes stays in a core's cache."""
_COMMON = 6
"""Smaller counts are told by comparisons; the others are too rare for that."""
_LARGEST = 60


def draw_counts(counts: NDArray[np.uint8], seed: tuple[int, ...]) -> None:
    """Fill each row with how often each of N things comes up in N uniform draws.

    No count is above 255: the chance of one is below 10⁻⁴⁹⁹ in a row of 10⁵.

    Args:
        counts: uint8 [B, N], contiguous; written to.
        seed: of SFC64.
    """
    rows, things = counts.shape
    generator = np.random.Generator(np.random.SFC64(seed))
    poisson = _poisson(1.0 - DEVIATIONS / math.sqrt(things + DEVIATIONS**2))
    missing = _fill(counts, poisson, generator)
    for row in np.flatnonzero(missing < 0):
        while missing[row] < 0:
            missing[row : row + 1] = _fill(counts[row : row + 1], poisson, generator)
    picks = generator.integers(things, size=int(missing.sum()))
    picks += np.repeat(np.arange(rows) * things, missing)
    np.add.at(counts.reshape(-1), picks, np.uint8(1))


def _fill(counts: NDArray[np.uint8], poisson: _Poisson, generator: np.random.Generator) -> NDArray[np.int64]:
    """Independent counts [B, N]; returns how many draws each row lacks, int64 [B]."""
    poisson.fill(counts.reshape(-1), generator)
    return np.asarray(counts.shape[1] - counts.sum(axis=1, dtype=np.uint32).astype(np.int64))


@dataclass(frozen=True, eq=False)
class _Poisson:
    """A Poisson distribution, split so that a draw takes 16 random bits, and a few of 10,000 draws more.

    With p_k the chances, a 16-bit number below `thresholds[-1]` tells k by how many thresholds it reaches: the k-th is
    reached by the sum of ⌊2¹⁶ p_j⌋ over j < k. Any other number stands for the chances that this rounding and the
    counts above leave, and k is drawn from those by itself.

    Attributes:
        thresholds: uint16 [K].
        rest: float64 [60]; the cumulative distribution of what is left.
    """

    thresholds: NDArray[np.uint16]
    rest: Array

    def fill(self, counts: NDArray[np.uint8], generator: np.random.Generator) -> None:
        """Draw independent counts, [n]."""
        reaches = np.empty(AT_ONCE, np.bool_)
        for first in range(0, len(counts), AT_ONCE):
            part = counts[first : first + AT_ONCE]
            reached = reaches[: len(part)]
            number = generator.bit_generator.random_raw(-(-len(part) // 4)).view(np.uint16)[: len(part)]
            np.greater_equal(number, self.thresholds[0], out=part.view(np.bool_))
            for threshold in self.thresholds[1:]:
                np.greater_equal(number, threshold, out=reached)
                np.add(part, reached.view(np.uint8), out=part)
            last = np.flatnonzero(number >= self.thresholds[-1])
            part[last] = np.searchsorted(self.rest, generator.random(len(last)), side="right")


@cache
def _poisson(mean: float) -> _Poisson:
    chances = np.array([math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(_LARGEST)])
    exact = chances * 2.0**16
    whole = np.floor(exact[:_COMMON])
    whole = whole[whole > 0.0]
    exact[: len(whole)] -= whole
    return _Poisson(np.cumsum(whole).astype(np.uint16), np.cumsum(exact)[:-1] / exact.sum())
