"""Random shifts of the images in batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from offrl.errors import RecipeError
from offrl.nn.images import height_axis, images_of
from offrl.types import Batch, Noise, Observation


class RandomShift:
    """DrQ's augmentation (Kostrikov, Yarats & Fergus, 2021), https://arxiv.org/abs/2004.13649.

    Each image moves by whole numbers of pixels, drawn evenly up to a largest one in both directions, those of s and of
    s' by draws of their own; what comes into sight repeats the border. Channels and stacked frames move together.

    Args:
        pixels: the largest shift (4 in the paper, of 84); 0 leaves images, and batches without any, as they are.
        space: the observation space.

    Raises:
        RecipeError: shifts are asked for, and there is no image.
    """

    def __init__(self, pixels: int, space: gym.Space[Any]) -> None:
        self.pixels, self.keys = pixels, list(images_of(space)) if pixels else []
        if pixels and not self.keys:
            raise RecipeError(
                f"agent.random_shift={pixels} moves images, but there is none in {space}",
                hint="set agent.random_shift=0; an image is a Box of uint8 with at least two axes",
            )

    def noise_shapes(self, batches: int, batch_size: int) -> dict[str, tuple[int, ...]]:
        """Draws of one update: for each batch, of s and s', for each image, down and to the right."""
        return {"shift": (batches, 2, len(self.keys), batch_size, 2)} if self.keys else {}

    def __call__(self, batches: Sequence[Batch], noise: Noise) -> Sequence[Batch]:
        """The batches with their images shifted by the draws `shift`."""
        if not self.keys:
            return batches
        pairs = [part.unbind(1) for part in noise["shift"].unbind(1)]
        return [
            replace(
                batch,
                observation=self._shifted(batch.observation, here),
                next_observation=self._shifted(batch.next_observation, there),
            )
            for batch, (here, there) in zip(batches, pairs, strict=True)
        ]

    def _shifted(self, observation: Observation, draws: Tensor) -> Observation:
        """With draws [S, images, B, 2]."""
        if isinstance(observation, Tensor):
            return shifted(observation, draws[:, 0], self.pixels)
        moved = {
            key: shifted(observation[key], part, self.pixels)
            for key, part in zip(self.keys, draws.unbind(1), strict=True)
        }
        return {**observation, **moved}


def shifted(image: Tensor, draws: Tensor, pixels: int) -> Tensor:
    """Images [S, B, …] moved by at most so many pixels, for standard normal draws [S, B, 2]: down, and to the right."""
    axis = height_axis(image.shape[2:]) + 2
    in_front, height, width, behind = image.shape[2:axis], *image.shape[axis : axis + 2], image.shape[axis + 2 :]
    count, planes, depth = len(draws.flatten(0, 1)), math.prod(in_front), math.prod(behind)
    # Φ of a standard normal draw is even on [0, 1].
    offset = (torch.special.ndtr(draws.flatten(0, 1)) * (2 * pixels + 1)).floor().clamp(max=2 * pixels).long() - pixels
    down, right = offset.unsqueeze(-1).unbind(1)
    rows, columns = (
        (torch.arange(size, device=image.device) - by).clamp(0, size - 1)
        for size, by in ((height, down), (width, right))
    )
    # Rows of pixels are copied whole, and then the numbers in them picked: that is several times faster than by pixel.
    line = torch.arange(count * planes, device=image.device).view(count, planes, 1) * height + rows.unsqueeze(1)
    lines = image.reshape(-1, width * depth).index_select(0, line.flatten()).view(count, -1, width * depth)
    place = columns.unsqueeze(-1) * depth + torch.arange(depth, device=image.device)
    return lines.gather(2, place.view(count, 1, -1).expand_as(lines)).view(image.shape)
