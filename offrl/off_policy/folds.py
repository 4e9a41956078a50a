"""Parts of a log's episodes, so that what is fitted is used on episodes that it hasn't seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offrl.errors import RequestError


def fold_of_episodes(episodes: int, folds: int, seed: int, what: str) -> NDArray[np.int64]:
    """The part that each episode belongs to, drawn at random, int64 [N]; sizes differ by one at most.

    Args:
        episodes: N.
        folds: how many parts; as many as there are episodes where these are fewer.
        seed: of the drawing.
        what: is to be fitted, for the message: "the values".

    Raises:
        RequestError: there is a single episode: what is fitted to it can't be used on another one.
    """
    if episodes < 2:
        raise RequestError(
            f"{what} can't be estimated from a single episode: none is left that hasn't been seen",
            hint="name a log of more episodes",
        )
    fold = np.empty(episodes, np.int64)
    fold[np.random.default_rng(seed).permutation(episodes)] = np.arange(episodes) % min(folds, episodes)
    return fold
