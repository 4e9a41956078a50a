"""Convolutions with a leading seed axis: from an image to a vector."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, pad

from offrl.errors import RecipeError
from offrl.nn.flat import uniform_per_seed
from offrl.nn.images import channels_and_sides, channels_first

Convolution = tuple[int, int, int]
"""A layer: output channels, side of the square kernel, stride."""
Convolutions = Literal["auto", "impala"] | Sequence[Convolution]
Activation = Callable[[Tensor], Tensor]

LARGE: tuple[Convolution, ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""The layers of Mnih et al., 2015, https://doi.org/10.1038/nature14236; they need 36 pixels a side."""
SMALL: tuple[Convolution, ...] = ((16, 3, 1), (32, 3, 2))
"""For smaller images; they need 5 pixels a side."""
LEAST_SIDE_OF_LARGE = 36
IMPALA = (16, 32, 32)
"""Channels of the stages of Espeholt et al., 2018, https://arxiv.org/abs/1802.01561; images may be of any size."""


class SeededConvolutions(nn.Module):
    """Convolutions of one image for S seeds; what a subclass adds in order, it applies in order.

    Each seed takes a call of its own: on a CPU, one grouped convolution for all is slower than that.

    Attributes:
        weights, biases: of each convolution, [S, outputs, inputs, kernel, kernel] and [S, outputs]; they start as those
            of `torch.nn.Conv2d` do.
        width: of the vector that comes out; a subclass says it.
    """

    width: int

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()

    def add(self, inputs: int, outputs: int, kernel: int, generators: list[torch.Generator]) -> None:
        """One more convolution, with weights of its own for each generator's seed."""
        bound = (inputs * kernel**2) ** -0.5
        self.weights.append(nn.Parameter(uniform_per_seed((outputs, inputs, kernel, kernel), bound, generators)))
        self.biases.append(nn.Parameter(uniform_per_seed((outputs,), bound, generators)))

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [S, B, *shape], over 255, to [S, B, width]."""
        x = channels_first(image).float() / 255.0
        layers = [zip(w.unbind(), b.unbind(), strict=True) for w, b in zip(self.weights, self.biases, strict=True)]
        by_seed = zip(x.unbind(), zip(*layers, strict=True), strict=True)
        return torch.stack([self.encode(part, list(parameters)).flatten(1) for part, parameters in by_seed])

    def encode(self, x: Tensor, parameters: list[tuple[Tensor, Tensor]]) -> Tensor:
        """One seed's images [B, channels, height, width] by its weights and biases, to [B, …]."""
        raise NotImplementedError


class PlainConvolutions(SeededConvolutions):
    """Convolutions with an activation behind each.

    Where a layer's strides would leave out the last rows or columns, zeros are put behind them: all of it is seen.

    Args:
        shape: of the image.
        convolutions: the layers; "auto" chooses by the image's size.
        activation: behind each layer.
        generators: one per seed.

    Raises:
        RecipeError: a kernel is larger than what the layers before it leave of the image.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        convolutions: Literal["auto"] | Sequence[Convolution],
        activation: Activation,
        generators: list[torch.Generator],
    ) -> None:
        super().__init__()
        self.activation = activation
        channels, *sides = channels_and_sides(shape)
        fitting = LARGE if min(sides) >= LEAST_SIDE_OF_LARGE else SMALL
        layers = fitting if convolutions == "auto" else convolutions
        self.strides = [stride for *_, stride in layers]
        self.padding: list[tuple[int, int]] = []
        for outputs, kernel, stride in layers:
            if kernel > min(sides):
                raise RecipeError(
                    f"the convolutions {[list(layer) for layer in layers]} don't fit an image of shape {shape}: one of "
                    f"{kernel} × {kernel} pixels comes upon {sides[0]} × {sides[1]}",
                    hint="set agent.convolutions to layers [channels, kernel, stride] with smaller kernels and strides",
                )
            self.add(channels, outputs, kernel, generators)
            bottom, right = (-(side - kernel) % stride for side in sides)
            self.padding.append((right, bottom))
            sides = [math.ceil((side - kernel) / stride) + 1 for side in sides]
            channels = outputs
        self.width = channels * math.prod(sides)

    def encode(self, x: Tensor, parameters: list[tuple[Tensor, Tensor]]) -> Tensor:
        for (weight, bias), stride, (right, bottom) in zip(parameters, self.strides, self.padding, strict=True):
            if right or bottom:
                x = pad(x, (0, right, 0, bottom))
            x = self.activation(conv2d(x, weight, bias, stride))
        return x


class ResidualConvolutions(SeededConvolutions):
    """The residual network of IMPALA (Espeholt et al., 2018), figure 3, with an activation behind it.

    A stage is a convolution, a maximum over 3 × 3 pixels that halves rows and columns, and two blocks
    x + conv(f(conv(f(x)))); all kernels are 3 × 3, and zeros around the image keep its size.

    Args:
        shape: of the image.
        channels: of each stage.
        activation: f.
        generators: one per seed.
    """

    def __init__(
        self, shape: tuple[int, ...], channels: Sequence[int], activation: Activation, generators: list[torch.Generator]
    ) -> None:
        super().__init__()
        self.activation = activation
        seen, *sides = channels_and_sides(shape)
        for inputs, outputs in itertools.pairwise((seen, *channels)):
            for width in (inputs, *[outputs] * 4):
                self.add(width, outputs, 3, generators)
            sides = [math.ceil(side / 2) for side in sides]
        self.width = channels[-1] * math.prod(sides)

    def encode(self, x: Tensor, parameters: list[tuple[Tensor, Tensor]]) -> Tensor:
        for start in range(0, len(parameters), 5):
            first, *blocks = parameters[start : start + 5]
            x = max_pool2d(conv2d(x, *first, padding=1), 3, stride=2, padding=1)
            for one, other in (blocks[:2], blocks[2:]):
                inner = conv2d(self.activation(x), *one, padding=1)
                x = x + conv2d(self.activation(inner), *other, padding=1)
        return self.activation(x)


def convolutions_of(
    shape: tuple[int, ...], convolutions: Convolutions, activation: Activation, generators: list[torch.Generator]
) -> SeededConvolutions:
    """The network for an image of this shape: the residual one for "impala", else a plain one."""
    if convolutions == "impala":
        return ResidualConvolutions(shape, IMPALA, activation, generators)
    return PlainConvolutions(shape, convolutions, activation, generators)
