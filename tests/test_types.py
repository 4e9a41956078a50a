"""Specs and batches: sizes, and views that share memory."""

from __future__ import annotations

from dataclasses import fields

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from offrl.types import Batch, Spec

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


@pytest.mark.parametrize(
    ("space", "size", "continuous"),
    [
        (BOX, 3, True),
        (spaces.Box(-1.0, 1.0, (2, 3), np.float32), 6, True),
        (spaces.Box(-1.0, 1.0, (), np.float32), 1, True),
        (spaces.Discrete(5, start=2), 5, False),
        (spaces.MultiDiscrete([2, 3]), 5, False),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), 14, False),
    ],
    ids=str,
)
def test_the_size_of_an_action(space: gym.Space[object], size: int, continuous: bool) -> None:
    spec = Spec(BOX, space)
    assert spec.action_dim == size
    assert type(spec.action_dim) is int
    assert spec.is_continuous is continuous


def test_other_action_spaces_have_no_size() -> None:
    with pytest.raises(TypeError, match="MultiBinary"):
        _ = Spec(BOX, spaces.MultiBinary(3)).action_dim


def full_batch(*shape: int) -> Batch:
    """Every field there, each number different."""
    numbers = torch.arange(float(np.prod(shape))).reshape(shape)
    values = {field.name: numbers + 1000 * i for i, field in enumerate(fields(Batch))}
    nested = {"a": values["observation"], "b.c": values["observation"].unsqueeze(-1) + 0.5}
    return Batch(**{**values, "observation": nested})


def test_unbinding_takes_every_field_apart_without_copying() -> None:
    batch = full_batch(3, 2, 4)
    parts = batch.unbind()
    assert len(parts) == 3
    for i, part in enumerate(parts):
        assert isinstance(part.observation, dict)
        assert isinstance(batch.observation, dict)
        for key, value in part.observation.items():
            assert torch.equal(value, batch.observation[key][i])
        for field in fields(Batch):
            if field.name != "observation":
                whole, one = getattr(batch, field.name), getattr(part, field.name)
                assert torch.equal(one, whole[i])
                assert one.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def test_absent_fields_stay_absent() -> None:
    zeros = torch.zeros(2, 1, 3)
    batch = Batch(zeros, zeros, zeros, zeros, zeros, zeros)
    for changed in (*batch.unbind(), batch.to("cpu"), batch.unbind()[0].repeat_seeds(2)):
        assert [getattr(changed, name) for name in ("action_mask", "weight", "index", "mask")] == [None] * 4


def test_repeating_seeds_shows_one_batch_to_all() -> None:
    batch = full_batch(1, 4)
    repeated = batch.repeat_seeds(3)
    assert isinstance(repeated.observation, dict)
    assert repeated.observation["b.c"].shape == (3, 4, 1)
    for seed in range(3):
        assert torch.equal(repeated.reward[seed], batch.reward[0])
    assert repeated.reward.untyped_storage().data_ptr() == batch.reward.untyped_storage().data_ptr()


def test_moving_moves_every_field() -> None:
    moved = full_batch(2, 4).to(torch.device("meta"))
    assert isinstance(moved.observation, dict)
    tensors = [getattr(moved, field.name) for field in fields(Batch) if field.name != "observation"]
    assert {tensor.device.type for tensor in (*tensors, *moved.observation.values())} == {"meta"}
