"""Shifts against padding and cropping each image by itself."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from offrl.errors import RecipeError
from offrl.nn.random_shift import RandomShift, shifted
from offrl.types import Batch
from tests.nn.test_conv import image_space, images

VECTOR = gym.spaces.Box(-1.0, 1.0, (2,))


def draws_of(offsets: Tensor, pixels: int) -> Tensor:
    """Draws that shift by these whole numbers of pixels."""
    share = (offsets + pixels + 0.5) / (2 * pixels + 1)
    return torch.tensor([NormalDist().inv_cdf(float(part)) for part in share.flatten()]).view(share.shape)


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 3), (3, 7, 6), (4, 7, 6, 3), (4, 3, 7, 6), (12, 7, 9)])
def test_an_image_is_padded_by_its_border_and_cropped(shape: tuple[int, ...]) -> None:
    pixels, x = 2, images(2, 25, *shape)
    one = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    offsets = torch.stack([one, one.flip(0)])
    moved = shifted(x, draws_of(offsets, pixels), pixels)
    assert moved.dtype == torch.uint8
    rows = {(7, 6): 0, (7, 6, 3): 0, (3, 7, 6): 1, (4, 7, 6, 3): 1, (4, 3, 7, 6): 2, (12, 7, 9): 0}[shape]
    height, width = shape[rows], shape[rows + 1]
    for seed in range(2):
        for place, (down, right) in enumerate(offsets[seed].tolist()):
            around = [(pixels, pixels) if axis in (rows, rows + 1) else (0, 0) for axis in range(len(shape))]
            padded = np.pad(x[seed, place].numpy(), around, mode="edge")
            cut: list[Any] = [slice(None)] * len(shape)
            cut[rows] = slice(pixels - down, pixels - down + height)
            cut[rows + 1] = slice(pixels - right, pixels - right + width)
            np.testing.assert_array_equal(moved[seed, place].numpy(), padded[tuple(cut)])


def test_every_shift_is_as_likely_as_another() -> None:
    ramp = torch.arange(11, dtype=torch.uint8).expand(1, 50_000, 11, 11)
    draws = torch.randn(1, 50_000, 2, generator=torch.Generator().manual_seed(0))
    centers = shifted(ramp, draws, 3)[0, :, 5, 5]
    counts = torch.bincount(centers)[2:9]
    assert counts.sum() == 50_000
    assert (counts / 50_000 - 1 / 7).abs().max() < 0.006


def test_extreme_draws_stay_within_the_largest_shift() -> None:
    ramp = torch.arange(11, dtype=torch.uint8).expand(1, 2, 11, 11)
    centers = shifted(ramp, torch.tensor([[[40.0, 40.0], [-40.0, -40.0]]]), 3)[0, :, 5, 5]
    assert centers.tolist() == [2, 8]


def test_images_of_batches_are_shifted_and_nothing_else() -> None:
    space = gym.spaces.Dict({"eye": image_space(7, 6, 3), "joint": VECTOR, "other": image_space(5, 5)})
    shift, numbers = RandomShift(1, space), torch.randn(2, 4, 2)
    assert shift.noise_shapes(2, 4) == {"shift": (2, 2, 2, 4, 2)}
    noise = {"shift": torch.randn(2, 2, 2, 2, 4, 2)}

    def observation() -> dict[str, Tensor]:
        return {"eye": images(2, 4, 7, 6, 3), "joint": numbers, "other": images(2, 4, 5, 5)}

    batch = Batch(
        observation=observation(),
        action=numbers,
        reward=numbers[..., 0],
        discount=numbers[..., 0],
        next_observation=observation(),
        terminated=numbers[..., 0],
    )
    moved = shift([batch, batch], noise)
    for number, each in enumerate(moved):
        assert each.action is numbers
        for when, seen in enumerate((each.observation, each.next_observation)):
            assert isinstance(seen, dict)
            assert seen["joint"] is numbers
            for place, key in enumerate(("eye", "other")):
                torch.testing.assert_close(
                    seen[key], shifted(observation()[key], noise["shift"][:, number, when, place], 1)
                )


def test_without_shifts_batches_are_what_they_were() -> None:
    batches: Any = [object()]
    still = RandomShift(0, VECTOR)
    assert still.noise_shapes(1, 4) == {}
    assert still(batches, {}) is batches
    with pytest.raises(RecipeError, match=r"agent\.random_shift=4 moves images, but there is none"):
        RandomShift(4, VECTOR)
