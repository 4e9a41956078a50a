"""Uniform actions from normal draws."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.envs.exploration import uniform_actions
from offrl.types import Spec

PLACE = gym.spaces.Box(-1, 1, (1,))
DRAWS = 20_000


def drawn(space: gym.Space[object], width: int) -> torch.Tensor:
    draws = torch.randn(2, DRAWS, width, generator=torch.Generator().manual_seed(0))
    return uniform_actions(Spec(PLACE, space), draws)


def test_continuous_actions_span_the_unit_box() -> None:
    actions = drawn(gym.spaces.Box(-3, 5, (2,)), 2)
    assert actions.shape == (2, DRAWS, 2)
    quantiles = torch.quantile(actions.flatten(), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(quantiles, torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]), rtol=0.0, atol=0.02)


@pytest.mark.parametrize("start", [0, -2])
def test_each_discrete_action_is_as_likely(start: int) -> None:
    actions = drawn(gym.spaces.Discrete(3, start=start), 3)
    counts = torch.bincount(actions.flatten() - start, minlength=3) / actions.numel()
    torch.testing.assert_close(counts, torch.full((3,), 1 / 3), rtol=0.0, atol=0.01)


def test_each_choice_has_its_own_number_of_actions() -> None:
    actions = drawn(gym.spaces.MultiDiscrete([2, 4], start=[0, 7]), 6)
    assert np.unique(actions[..., 0]).tolist() == [0, 1]
    assert np.unique(actions[..., 1]).tolist() == [7, 8, 9, 10]
