"""From observations with images in them to vectors: convolutions with a leading seed axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from offrl.errors import RecipeError
from offrl.nn.flat import HooklessModule, uniform_per_seed
from offrl.nn.flatten import FlatObservation
from offrl.nn.mlp import ACTIVATIONS
from offrl.types import Observation

Convolution = tuple[int, int, int]
"""A layer: output channels, side of the square kernel, stride."""
Convolutions = Literal["auto"] | Sequence[Convolution]

LARGE: tuple[Convolution, ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""The layers of Mnih et al., 2015, https://doi.org/10.1038/nature14236; they need 36 pixels a side."""
SMALL: tuple[Convolution, ...] = ((16, 3, 1), (32, 3, 2))
"""For smaller images; they need 5 pixels a side."""
LEAST_SIDE_OF_LARGE, LEAST_SIDE = 36, 5


class Encoder(HooklessModule):
    """Images through convolutions, all else as `FlatObservation` has it, joined to one vector.

    An image is a uint8 Box of two to four axes, with at least 5 pixels a side: rows and columns; channels behind or in
    front of them, whichever is fewer; and frames stacked in front, which count as channels.

    Args:
        space: the observation space, nested or not.
        convolutions: the layers for each image; "auto" takes `LARGE` or `SMALL`, by its size; with none at all images
            are flattened as everything else.
        activation: behind each layer, a name in `offrl.nn.mlp.ACTIVATIONS`.
        generators: one per seed.

    Raises:
        SpaceMismatchError: a part has no fixed shape.
        RecipeError: layers are given, and there is no image, or one that they don't fit.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        convolutions: Convolutions,
        activation: str,
        generators: list[torch.Generator],
    ) -> None:
        super().__init__()
        parts = FlatObservation(space).parts
        images = images_of(space) if convolutions else {}
        if convolutions not in ("auto", ()) and not images:
            raise RecipeError(
                f"agent.convolutions are given, but there is no image in {space}",
                hint="leave them out; an image is a Box of uint8 with at least two axes",
            )
        rest = {key: part for key, part in parts.items() if key not in images}
        self.image_keys = list(images)
        networks = [ImageNetwork(part.shape or (), convolutions, activation, generators) for part in images.values()]
        self.images = nn.ModuleList(networks)
        self.flat = FlatObservation(gym.spaces.Dict(rest) if images else space) if rest else None
        self.width = sum(network.width for network in networks) + (self.flat.width if self.flat else 0)

    def forward(self, observation: Observation) -> Tensor:
        """[S, B, …] to float32 [S, B, width]; without images as `FlatObservation` has it."""
        if self.flat and not self.image_keys:
            flat: Tensor = self.flat(observation)
            return flat
        parts = {"": observation} if isinstance(observation, Tensor) else observation
        encoded = [network(parts[key]) for key, network in zip(self.image_keys, self.images, strict=True)]
        if self.flat:
            encoded.append(self.flat(observation))
        return torch.cat(encoded, dim=-1)


class ImageNetwork(nn.Module):
    """Convolutions of one image, each with an activation behind it; weights start as `torch.nn.Conv2d`'s do.

    Where a layer's strides would leave out the last rows or columns, zeros are put behind them: all of it is seen.

    Args:
        shape: of the image.
        convolutions: the layers; "auto" chooses by the image's size.
        activation: a name in `offrl.nn.mlp.ACTIVATIONS`.
        generators: one per seed.

    Raises:
        RecipeError: a kernel is larger than what the layers before it leave of the image.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        convolutions: Convolutions,
        activation: str,
        generators: list[torch.Generator],
    ) -> None:
        super().__init__()
        self.shape, self.activation = shape, ACTIVATIONS[activation]
        channels, *sides = channels_and_sides(shape)
        fitting = LARGE if min(sides) >= LEAST_SIDE_OF_LARGE else SMALL
        layers = fitting if convolutions == "auto" else convolutions
        self.strides = [stride for *_, stride in layers]
        self.padding: list[tuple[int, int]] = []
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for outputs, kernel, stride in layers:
            if kernel > min(sides):
                raise RecipeError(
                    f"the convolutions {[list(layer) for layer in layers]} don't fit an image of shape {shape}: one of "
                    f"{kernel} × {kernel} pixels comes upon {sides[0]} × {sides[1]}",
                    hint="set agent.convolutions to layers [channels, kernel, stride] with smaller kernels and strides",
                )
            bound = (channels * kernel**2) ** -0.5
            weight = uniform_per_seed((outputs, channels, kernel, kernel), bound, generators)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(uniform_per_seed((outputs,), bound, generators)))
            bottom, right = (-(side - kernel) % stride for side in sides)
            self.padding.append((right, bottom))
            sides = [math.ceil((side - kernel) / stride) + 1 for side in sides]
            channels = outputs
        self.width = channels * int(np.prod(sides))

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [S, B, *shape], over 255, to [S, B, width].

        Each seed takes a call of its own: on a CPU, one grouped convolution for all is slower than that.
        """
        x = channels_first(image).float() / 255.0
        parameters = [(w.unbind(), b.unbind()) for w, b in zip(self.weights, self.biases, strict=True)]
        encoded = []
        for seed, part in enumerate(x.unbind()):
            for (weights, biases), stride, (right, bottom) in zip(parameters, self.strides, self.padding, strict=True):
                if right or bottom:
                    part = nn.functional.pad(part, (0, right, 0, bottom))
                part = self.activation(nn.functional.conv2d(part, weights[seed], biases[seed], stride))
            encoded.append(part.flatten(1))
        return torch.stack(encoded)


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
