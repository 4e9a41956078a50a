"""Which spaces belong together."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from offrl.envs.make import make_environments
from offrl.envs.spaces import check_spaces, same_kind, single_precision, spaces_of
from offrl.errors import SpaceMismatchError
from offrl.types import Spec
from tests.envs.counting import ACTIONS, COUNTING, PARTS, PLACES


def box(*shape: int, low: float = -1.0, high: float = 1.0, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


SAME = [
    (box(3), box(3)),
    (box(3), box(3, low=-5.0, high=7.0)),
    (box(3), box(3, dtype=np.float64)),
    (box(3, low=0, high=5, dtype=np.int32), box(3, low=0, high=5, dtype=np.int64)),
    (spaces.Discrete(3), spaces.Discrete(3)),
    (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([2, 3])),
    (spaces.MultiBinary(3), spaces.MultiBinary(3)),
    (spaces.Dict(a=box(2), b=box(1)), spaces.Dict(b=box(1), a=box(2, dtype=np.float64))),
    (spaces.Tuple([box(2), spaces.Discrete(2)]), spaces.Tuple([box(2), spaces.Discrete(2)])),
]
DIFFERENT = [
    (box(3), box(4)),
    (box(3), box(3, 1)),
    (box(3), box(3, low=0, high=255, dtype=np.uint8)),
    (box(1), spaces.Discrete(2)),
    (spaces.Discrete(3), spaces.Discrete(4)),
    (spaces.Discrete(3), spaces.Discrete(3, start=1)),
    (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([3, 2])),
    (spaces.MultiBinary(3), spaces.MultiBinary(4)),
    (spaces.Dict(a=box(2)), spaces.Dict(a=box(3))),
    (spaces.Dict(a=box(2)), spaces.Dict(b=box(2))),
    (spaces.Dict(a=box(2)), spaces.Dict(a=box(2), b=box(2))),
    (spaces.Tuple([box(2), box(1)]), spaces.Tuple([box(1), box(2)])),
    (spaces.Tuple([box(2)]), spaces.Tuple([box(2), box(2)])),
    (spaces.Dict(a=spaces.Dict(b=box(2))), spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2)))),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=str)
def test_spaces_of_one_kind(one: gym.Space[Any], other: gym.Space[Any]) -> None:
    assert same_kind(one, other)
    assert same_kind(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=str)
def test_spaces_of_different_kinds(one: gym.Space[Any], other: gym.Space[Any]) -> None:
    assert not same_kind(one, other)
    assert not same_kind(other, one)


def test_a_mismatch_names_the_environment_and_both_spaces() -> None:
    with pytest.raises(SpaceMismatchError) as caught:
        check_spaces(Spec(PLACES, ACTIONS), Spec(PLACES, spaces.Discrete(5)), "Lander-v9")
    for word in ("action space", "Lander-v9", "Discrete(5)", str(ACTIONS), "--env"):
        assert word in str(caught.value)
    with pytest.raises(SpaceMismatchError, match="observation space"):
        check_spaces(Spec(PLACES, ACTIONS), Spec(PARTS, ACTIONS), "Lander-v9")
    check_spaces(Spec(PLACES, ACTIONS), Spec(PLACES, ACTIONS), "Lander-v9")


def test_spaces_are_those_of_a_single_copy() -> None:
    environments = make_environments(COUNTING, 3)
    assert spaces_of(environments) == Spec(PLACES, ACTIONS)
    environments.close()


def test_single_precision_changes_nothing_but_float64() -> None:
    nested = spaces.Dict(a=spaces.Tuple([box(2, dtype=np.float64), spaces.Discrete(2)]), b=box(1))
    single = single_precision(Spec(nested, box(3, low=-2.0, dtype=np.float64)))
    assert single.observation_space == spaces.Dict(a=spaces.Tuple([box(2), spaces.Discrete(2)]), b=box(1))
    assert single.action_space == box(3, low=-2.0)
