"""Actions clipped as an environment's bounds clip them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.nn.clipping import Clipping
from offrl.replay.normalization import ActionMap

INF = np.inf


def box(low: list[float], high: list[float]) -> gym.spaces.Box:
    return gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)


SPACES = {
    "bounded": box([-2.0, 0.0], [2.0, 5.0]),
    "above one number": box([0.5, 0.0], [INF, INF]),
    "below another": box([-INF, -1.0], [3.0, INF]),
    "some of each": box([-2.0, -INF, 0.0], [2.0, INF, INF]),
    "unbounded": box([-INF, -INF], [INF, INF]),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_what_is_clipped_is_what_the_environment_received(space: gym.spaces.Box) -> None:
    action = 4.0 * torch.randn(3, 50, *space.shape, generator=torch.Generator().manual_seed(0))
    action_map, clipped = ActionMap.from_space(space), Clipping(space)
    taken = action_map.from_unit(action)
    torch.testing.assert_close(clipped(action), action_map.to_unit(taken))
    assert clipped.changes == (not torch.equal(clipped(action), action))


def test_a_component_with_one_value_lies_in_the_middle() -> None:
    space = box([2.0, -1.0], [2.0, 1.0])
    assert Clipping(space)(torch.tensor([[5.0, 5.0]])).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("space", [gym.spaces.Discrete(7), gym.spaces.MultiDiscrete([5, 9])])
def test_numbers_of_choices_stay(space: gym.Space[Any]) -> None:
    action = torch.tensor([[4, 6]])
    assert Clipping(space)(action) is action
    assert not Clipping(space).changes
