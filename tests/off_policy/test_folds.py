"""Folds are parts of whole episodes, as equal as can be."""

from __future__ import annotations

import numpy as np
import pytest

from offrl.errors import RequestError
from offrl.off_policy.folds import fold_of_episodes


@pytest.mark.parametrize(("episodes", "folds", "sizes"), [(10, 2, [5, 5]), (11, 3, [4, 4, 3]), (2, 5, [1, 1])])
def test_sizes_differ_by_one_at_most(episodes: int, folds: int, sizes: list[int]) -> None:
    fold = fold_of_episodes(episodes, folds, 0, "values")
    assert np.bincount(fold).tolist() == sizes


def test_they_are_drawn_by_the_seed() -> None:
    one, again, other = (fold_of_episodes(50, 2, seed, "values") for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert (np.diff(one) == 0).any()


def test_a_single_episode_is_refused() -> None:
    with pytest.raises(RequestError, match=r"values can't be estimated from a single episode"):
        fold_of_episodes(1, 2, 0, "values")
