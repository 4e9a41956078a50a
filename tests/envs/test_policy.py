"""What lies between environments and agents: observations with a seed axis, actions within the true bounds."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.envs.policy import Actor
from offrl.replay.normalization import ObservationNormalizer
from offrl.types import Observation
from tests.envs.counting import ACTIONS, PARTS, constant_policy

TWO = [[0.0, 0.0], [1.0, -1.0]]


def tensor(observation: Observation) -> torch.Tensor:
    assert isinstance(observation, torch.Tensor)
    return observation


def parts(observation: Observation) -> dict[str, torch.Tensor]:
    assert isinstance(observation, dict)
    return observation


def test_copies_are_dealt_to_seeds_in_blocks() -> None:
    observed = tensor(constant_policy(TWO).observe(np.arange(18.0).reshape(6, 3)))
    assert observed.shape == (2, 3, 3)
    assert observed.dtype == torch.float32
    assert observed[1, 0].tolist() == [9.0, 10.0, 11.0]


def test_nested_observations_become_a_flat_mapping() -> None:
    observation = {
        "observation": np.arange(8.0).reshape(4, 2),
        "pixels": np.arange(8, dtype=np.uint8).reshape(4, 1, 2),
        "step": np.arange(4),
    }
    observed = parts(constant_policy(TWO, space=PARTS).observe(observation))
    assert list(observed) == ["observation", "pixels", "step"]
    assert observed["observation"].dtype == torch.float32
    assert observed["observation"][1].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert observed["pixels"].dtype == torch.uint8
    assert observed["pixels"].shape == (2, 2, 1, 2)
    assert observed["step"].tolist() == [[0, 1], [2, 3]]


def test_deeper_nesting_has_dotted_keys() -> None:
    box = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    space = gym.spaces.Dict(arm=gym.spaces.Dict(angle=box), goals=gym.spaces.Tuple([box, box]))
    one = np.ones((2, 1), np.float32)
    observed = parts(constant_policy(TWO, space=space).observe({"arm": {"angle": one}, "goals": (2 * one, 3 * one)}))
    assert {key: value.flatten().tolist() for key, value in observed.items()} == {
        "arm.angle": [1, 1],
        "goals.0": [2, 2],
        "goals.1": [3, 3],
    }


def test_vectors_are_normalized() -> None:
    normalizer = ObservationNormalizer(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 4.0]), eps=0.0)
    observed = tensor(constant_policy(TWO, normalizer=normalizer).observe(np.array([[1.0, 4.0, 7.0]] * 2)))
    assert observed.tolist() == [[[0.0, 1.0, 1.0]]] * 2


def test_times_are_told_apart_beside_their_offset() -> None:
    space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    normalizer = ObservationNormalizer(np.array([1.7e9]), np.array([2.0]), eps=0.0)
    policy = constant_policy(TWO, space=space, normalizer=normalizer)
    observed = tensor(policy.observe(np.array([[1.7e9 + 1], [1.7e9 - 3]])))
    assert observed.dtype == torch.float32
    assert observed.tolist() == [[[0.5]], [[-1.5]]]


def test_the_only_part_of_a_nested_observation_is_normalized_by_its_key() -> None:
    space = gym.spaces.Dict(observation=gym.spaces.Box(-9.0, 9.0, (1,), np.float32))
    normalizer = ObservationNormalizer({"observation": np.array([5.0])}, {"observation": np.array([2.0])}, eps=0.0)
    policy = constant_policy(TWO, space=space, normalizer=normalizer)
    observed = parts(policy.observe({"observation": np.array([[5.0], [9.0]])}))
    assert observed["observation"].tolist() == [[[0.0]], [[2.0]]]


def test_actions_are_mapped_to_the_bounds_of_each_component_and_clipped() -> None:
    policy = constant_policy(TWO)
    action = torch.tensor([[[-1.0, -1.0], [0.0, 0.0]], [[1.0, 1.0], [3.0, -3.0]]])
    raw = policy.to_environment(action)
    assert raw.tolist() == [[-2.0, 0.0], [0.0, 5.0], [2.0, 10.0], [2.0, 0.0]]
    assert all(ACTIONS.contains(row) for row in raw)


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (gym.spaces.Discrete(4), [[2], [3]], [2, 3]),
        (gym.spaces.MultiDiscrete([3, 3]), [[[0, 1]], [[1, 2]]], [[0, 1], [1, 2]]),
        (
            gym.spaces.MultiDiscrete([[3, 3], [3, 3]]),
            [[[0, 1, 2, 0]], [[1, 2, 0, 1]]],
            [[[0, 1], [2, 0]], [[1, 2], [0, 1]]],
        ),
    ],
    ids=["discrete", "multi-discrete", "multi-discrete matrix"],
)
def test_integer_actions_have_the_shape_of_their_space(
    space: gym.Space[np.ndarray], action: list[object], expected: list[object]
) -> None:
    policy = constant_policy([0, 0], action_space=space)
    raw = policy.to_environment(torch.tensor(action))
    assert raw.tolist() == expected
    assert all(space.contains(row) for row in raw)


def test_box_actions_have_the_shape_of_their_space() -> None:
    space = gym.spaces.Box(0.0, 4.0, (2, 2), np.float32)
    raw = constant_policy([[0.0] * 4], action_space=space).to_environment(torch.tensor([[[-1.0, 0.0, 0.5, 1.0]]]))
    assert raw.tolist() == [[[0.0, 2.0], [3.0, 4.0]]]


def test_acting_is_per_seed_and_in_the_units_of_the_environment() -> None:
    raw = Actor(constant_policy(TWO), 2).greedy(np.zeros((4, 3), np.float32))
    assert raw.tolist() == [[0.0, 5.0], [0.0, 5.0], [2.0, 0.0], [2.0, 0.0]]
