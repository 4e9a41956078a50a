"""Observations of every space become one float vector, in the order of the space's parts."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from offrl.errors import SpaceMismatchError
from offrl.nn import FlatAction, FlatObservation


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def test_a_vector_is_handed_through() -> None:
    flat = FlatObservation(box(3))
    observation = torch.randn(2, 4, 3)
    assert flat.width == 3
    assert flat(observation) is observation


def test_a_matrix_is_flattened_row_by_row() -> None:
    flat = FlatObservation(box(2, 3))
    observation = torch.arange(12.0).reshape(1, 2, 2, 3)
    assert flat.width == 6
    assert flat(observation).tolist() == [[[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]]


def test_a_number_gets_an_axis() -> None:
    flat = FlatObservation(box())
    assert flat.width == 1
    assert flat(torch.tensor([[5.0, 6.0]])).tolist() == [[[5.0], [6.0]]]


def test_a_discrete_observation_is_one_hot_from_its_start() -> None:
    flat = FlatObservation(spaces.Discrete(3, start=5))
    assert flat.width == 3
    assert flat(torch.tensor([[5, 7]])).tolist() == [[[1, 0, 0], [0, 0, 1]]]
    # Packed rows hold floats.
    assert flat(torch.tensor([[6.0]])).tolist() == [[[0, 1, 0]]]


def test_bytes_are_scaled_to_one() -> None:
    flat = FlatObservation(spaces.Box(0, 255, (1, 2), np.uint8))
    output = flat(torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8))
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, torch.tensor([[[0.0, 1.0], [0.2, 0.4]]]))


def test_a_vector_of_bytes_is_scaled_too() -> None:
    output = FlatObservation(spaces.Box(0, 255, (2,), np.uint8))(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    assert output.tolist() == [[[0.0, 1.0]]]


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Box(-5, 5, (2,), np.int64), torch.tensor([[[3, -2]]])),
        (spaces.MultiBinary(2), torch.tensor([[[1, 0]]], dtype=torch.int8)),
        (spaces.MultiDiscrete([4, 3]), torch.tensor([[[3, 2]]])),
        (box(2), torch.tensor([[[0.5, 2.0]]], dtype=torch.float64)),
    ],
    ids=["integers", "bits", "choices", "float64"],
)
def test_numbers_of_every_type_become_float32(space: gym.Space[object], value: torch.Tensor) -> None:
    output = FlatObservation(space)(value)
    assert output.dtype == torch.float32
    assert output.tolist() == value.double().tolist()


def test_nested_parts_are_joined_in_the_order_of_the_space() -> None:
    space = spaces.Dict(
        {
            "arm": spaces.Dict({"angle": box(2), "gripper": spaces.Discrete(2)}),
            "camera": spaces.Box(0, 255, (1, 2), np.uint8),
            "goal": spaces.Tuple((box(1), spaces.Discrete(3, start=1))),
        }
    )
    flat = FlatObservation(space)
    assert flat.width == 2 + 2 + 2 + 1 + 3
    assert list(flat.parts) == ["arm.angle", "arm.gripper", "camera", "goal.0", "goal.1"]
    observation = {
        "goal.1": torch.tensor([[3]]),
        "goal.0": torch.tensor([[[9.0]]]),
        "camera": torch.tensor([[[[255, 0]]]], dtype=torch.uint8),
        "arm.gripper": torch.tensor([[1]]),
        "arm.angle": torch.tensor([[[0.5, -0.5]]]),
    }
    output = flat(observation)
    assert output.dtype == torch.float32
    assert output.tolist() == [[[0.5, -0.5, 0.0, 1.0, 1.0, 0.0, 9.0, 0.0, 0.0, 1.0]]]


def test_a_dictionary_with_one_part_is_taken_by_its_key() -> None:
    flat = FlatObservation(spaces.Dict({"state": box(2)}))
    assert flat({"state": torch.ones(1, 3, 2)}).shape == (1, 3, 2)


def test_a_space_without_a_shape_is_refused() -> None:
    with pytest.raises(SpaceMismatchError, match="Text"):
        FlatObservation(spaces.Dict({"name": spaces.Text(5)}))


def test_actions_become_vectors() -> None:
    vector = torch.randn(1, 2, 3)
    assert FlatAction(box(3))(vector) is vector
    assert FlatAction(spaces.Discrete(3, start=5))(torch.tensor([[5, 7]])).tolist() == [[[1, 0, 0], [0, 0, 1]]]
    several = spaces.MultiDiscrete(np.array([[2, 3]]), start=np.array([[0, 4]]))
    assert FlatAction(several)(torch.tensor([[[1, 5]]])).tolist() == [[[0, 1, 0, 1, 0]]]
