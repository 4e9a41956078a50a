"""From observations with images in them to vectors, and networks behind that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from offrl.errors import RecipeError
from offrl.nn.conv import Convolutions, convolutions_of
from offrl.nn.flat import HooklessModule, seed_generators
from offrl.nn.flatten import FlatObservation
from offrl.nn.images import images_of
from offrl.nn.mlp import ACTIVATIONS, MLP
from offrl.types import Observation


class Encoder(HooklessModule):
    """Images through convolutions, all else as `FlatObservation` has it, joined to one vector.

    An image is a uint8 Box of two to four axes, with at least 5 pixels a side: rows and columns; channels behind or in
    front of them, whichever is fewer; and frames stacked in front, which count as channels.

    Args:
        space: the observation space, nested or not.
        convolutions: the layers for each image; "auto" takes `offrl.nn.conv.LARGE` or `SMALL`, by its size; "impala" a
            deeper, residual network; with none at all images are flattened as everything else.
        activation: behind each layer, a name in `offrl.nn.mlp.ACTIVATIONS`.
        generators: one per seed.

    Attributes:
        width: of the vector; without images there is nothing to learn on the way to it.

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
        images = images_of(space) if convolutions else {}
        if convolutions not in ("auto", ()) and not images:
            raise RecipeError(
                f"agent.convolutions are given, but there is no image in {space}",
                hint="leave them out; an image is a Box of uint8 with at least two axes",
            )
        rest = {key: part for key, part in FlatObservation(space).parts.items() if key not in images}
        self.image_keys = list(images)
        behind = ACTIVATIONS[activation]
        networks = [convolutions_of(part.shape or (), convolutions, behind, generators) for part in images.values()]
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


def encoder_maker(
    space: gym.Space[Any], convolutions: Convolutions, activation: str
) -> Callable[[list[torch.Generator]], Encoder]:
    """What makes encoders of this kind, given a generator per seed; what they can't be is refused at once.

    Raises:
        SpaceMismatchError, RecipeError: as `Encoder` does.
    """
    make = partial(Encoder, space, convolutions, activation)
    make(seed_generators((0,)))
    return make


class EncodedMLP(MLP):
    """An `MLP` that owns the encoder of what it reads: both are one set of parameters, trained and copied together.

    `forward` takes features, so that other networks can read the same ones: `network(network.encoder(observation))`.

    Args:
        encoder: gives the features.
        outputs, hidden, generators: as `MLP` has them.
        beside: width of what is joined to the features, as an action is.
        options: `MLP`'s others.

    Example:
        >>> critic = EncodedMLP(encoder, 1, (256, 256), generators, beside=2, ensemble=2)
        >>> critic(torch.cat([critic.encoder(observation), action], dim=-1)).shape
        torch.Size([1, 2, 256, 1])
    """

    def __init__(
        self,
        encoder: Encoder,
        outputs: int,
        hidden: Sequence[int],
        generators: list[torch.Generator],
        *,
        beside: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(encoder.width + beside, outputs, hidden, generators, **options)
        self.encoder = encoder
        self.flatten()

    def features_of(self, observation: Observation) -> Tensor:
        """The encoder's, [S, B, encoder.width], for networks that read and don't train it: its gradient ends here.

        An actor that pulled at its critic's encoder would spoil what the critic reads (Yarats et al., 2021,
        https://arxiv.org/abs/1910.01741).
        """
        features: Tensor = self.encoder(observation)
        return features.detach()

    @contextmanager
    def encoder_kept(self) -> Iterator[None]:
        """Leave the encoder as it was, whatever is trained within: a policy that reads it is to stand still."""
        size = sum(parameter.numel() for parameter in self.encoder.parameters())
        if not size:
            yield
            return
        learned = self.flat[-size:]
        before = learned.clone()
        yield
        learned.copy_(before)
