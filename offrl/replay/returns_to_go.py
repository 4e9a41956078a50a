"""What episodes earned from each of their steps on."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.data import schema
from offrl.data.trajectories import Trajectories
from offrl.replay.row_layout import Transforms

_READ_ROWS = 65_536


def returns_to_go(reward: NDArray[Any], discount: float) -> NDArray[np.float32]:
    """R_t = r_t + γ R_{t+1} of one episode, summed in double precision.

    Args:
        reward: [T].
        discount: γ.

    Returns:
        float32 [T].
    """
    backwards = itertools.accumulate(reward[::-1].tolist(), lambda behind, earned: earned + discount * behind)
    return np.fromiter(backwards, np.float32, len(reward))[::-1]


def returns_of(store: Trajectories, transforms: Transforms, discount: float) -> NDArray[np.float32]:
    """Those of all rows of a store, by the rewards that agents see: float32 [rows]; 0 for final observations."""
    returns = np.zeros(store.num_rows, np.float32)
    for start in range(0, store.num_rows, _READ_ROWS):
        rows = np.arange(start, min(start + _READ_ROWS, store.num_rows))
        returns[rows] = transforms.apply(schema.REWARD, store.gather(schema.REWARD, rows))[:, 0]
    table = store.episodes
    for first, length in zip(table.first_row.tolist(), table.length.tolist(), strict=True):
        returns[first : first + length] = returns_to_go(returns[first : first + length], discount)
        returns[first + length] = 0.0
    return returns
