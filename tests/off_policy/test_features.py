"""What is fitted to a log: observations on a common scale."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from offrl.errors import DataError
from offrl.off_policy.features import flat_features


def test_observations_have_mean_zero_and_deviation_one_beside_any_offset() -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(500, 2))
    space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    row = np.arange(0, 500, 2)
    expected = (plain - plain[row].mean(axis=0)) / (plain[row].std(axis=0) + 1e-3)
    for offset in (0.0, 1.7e9):
        found = flat_features(space, plain + np.array([offset, 0.0]), row)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    observation = np.zeros((4, 1))
    observation[2] = value
    with pytest.raises(DataError, match="NaN or infinity"):
        flat_features(gym.spaces.Box(-np.inf, np.inf, (1,), np.float64), observation, np.arange(3))
