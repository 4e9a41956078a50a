"""What counts as an image in an observation, and where its channels are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from offrl.nn.flatten import FlatObservation

LEAST_SIDE = 5
"""Pixels: what has fewer in a row or column is a vector of bytes."""


def is_image(space: gym.Space[Any]) -> bool:
    """Whether convolutions can see anything in it."""
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or not 2 <= len(space.shape) <= 4:
        return False
    return min(channels_and_sides(space.shape)[1:]) >= LEAST_SIDE


def images_of(space: gym.Space[Any]) -> dict[str, gym.Space[Any]]:
    """The images among the parts of an observation, by their dotted keys; the key of one without parts is empty."""
    return {key: part for key, part in FlatObservation(space).parts.items() if is_image(part)}


def channels_and_sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of an image of this shape."""
    *_, channels, height, width = channels_first(torch.empty(1, 1, *shape, device="meta")).shape
    return channels, height, width


def height_axis(shape: Sequence[int]) -> int:
    """Which axis of an image of this shape counts rows; columns are the next one."""
    channels_last = len(shape) > 2 and shape[-3] >= shape[-1]
    return len(shape) - (3 if channels_last else 2)


def channels_first(image: Tensor) -> Tensor:
    """[S, B, *shape] to [S, B, channels, height, width], without a copy unless frames are stacked."""
    if image.dim() == 4:
        return image.unsqueeze(2)
    if height_axis(image.shape[2:]) == image.dim() - 5:
        image = image.movedim(-1, -3)
    return image if image.dim() == 5 else image.flatten(2, 3)
