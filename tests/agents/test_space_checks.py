"""What agents ask of action spaces, on spaces that they can and can't act in."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from offrl.agents import AGENTS
from offrl.errors import SpaceMismatchError
from offrl.types import Spec

BOX = spaces.Box(-2.0, 2.0, (3,))
UNBOUNDED = spaces.Box(-np.inf, np.inf, (3,))
WHOLE = spaces.Box(0, 9, (3,), np.int64)
CHOICE, CHOICES, BITS = spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)
ABLE = {
    "bc": [BOX, UNBOUNDED, CHOICE, CHOICES],
    "dqn": [CHOICE],
    "ppo": [BOX, UNBOUNDED, CHOICE, CHOICES],
    "sac": [BOX, CHOICE],
    "td3": [BOX],
}


@pytest.mark.parametrize("algo", ABLE)
@pytest.mark.parametrize("space", [BOX, UNBOUNDED, WHOLE, CHOICE, CHOICES, BITS], ids=str)
def test_an_agent_takes_the_spaces_that_it_can_act_in_and_refuses_others(algo: str, space: gym.Space[Any]) -> None:
    spec = Spec(spaces.Box(-1.0, 1.0, (2,)), space)
    entry = AGENTS[algo]
    if space in ABLE[algo]:
        entry.build(entry.config(), spec)
        return
    with pytest.raises(SpaceMismatchError) as raised:
        entry.build(entry.config(), spec)
    assert raised.value.hint


@pytest.mark.parametrize("algo", ["bc", "ppo", "sac", "td3"])
def test_vectors_of_whole_numbers_are_refused_by_name(algo: str) -> None:
    entry = AGENTS[algo]
    with pytest.raises(SpaceMismatchError, match="whole numbers"):
        entry.build(entry.config(), Spec(spaces.Box(-1.0, 1.0, (2,)), WHOLE))


@pytest.mark.parametrize("algo", ["bc", "ppo"])
def test_a_squashed_policy_needs_bounds(algo: str) -> None:
    entry = AGENTS[algo]
    with pytest.raises(SpaceMismatchError, match="finite action bounds"):
        entry.build(entry.config(policy="squashed_gaussian"), Spec(BOX, UNBOUNDED))
