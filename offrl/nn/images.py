"""What counts as an image in an observation, and where its channels are."""

from __future__ import annotations

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


def channels_first(image: Tensor) -> Tensor:
    """[S, B, *shape] to [S, B, channels, height, width], without a copy unless frames are stacked."""
    if image.dim() == 4:
        return image.unsqueeze(2)
    if image.shape[-3] >= image.shape[-1]:
        image = image.movedim(-1, -3)
    return image if image.dim() == 5 else image.flatten(2, 3)
