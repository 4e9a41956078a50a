"""Values of discrete actions: an encoder, and behind it one stream of layers or two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from offrl.nn.conv import Convolutions
from offrl.nn.encoder import Encoder
from offrl.nn.flat import FlatModule
from offrl.nn.mlp import MLP
from offrl.nn.noisy import NoisyMLP
from offrl.types import Observation


class QNetwork(FlatModule):
    """Q(s, ·): an encoder and one stream of layers to all values; or dueling, V(s) + A(s, ·) − mean A(s, ·).

    Args:
        space: the observation space.
        actions: A, how many there are.
        hidden: widths of each stream's hidden layers.
        generators: one per seed.
        convolutions: layers for each image in the observation, see `offrl.nn.encoder.Encoder`.
        activation, layer_norm, dropout: of the hidden layers, see `offrl.nn.MLP`.
        dueling: whether there are two streams, of the state's value and of the actions' advantages.
        noisy: whether weights have noise, see `offrl.nn.noisy.NoisyMLP`.
        quantiles: how many numbers an action's value consists of; None for a single one without that axis.

    Attributes:
        parts: the streams.
        noise_width: how many draws one sample of a noisy network takes; 0 where it isn't noisy.

    Raises:
        RecipeError: the convolutions don't fit the observations.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        actions: int,
        hidden: Sequence[int],
        generators: list[torch.Generator],
        *,
        convolutions: Convolutions = "auto",
        activation: str = "relu",
        layer_norm: bool = False,
        dropout: float = 0.0,
        dueling: bool = False,
        noisy: bool = False,
        quantiles: int | None = None,
    ) -> None:
        super().__init__()
        self.quantiles = quantiles
        self.encoder = Encoder(space, convolutions, activation, generators)
        kind = NoisyMLP if noisy else MLP
        options: dict[str, Any] = {"activation": activation, "layer_norm": layer_norm, "dropout": dropout}
        outputs = [count * (quantiles or 1) for count in ((1, actions) if dueling else (actions,))]
        self.parts = [kind(self.encoder.width, n, hidden, generators, **options) for n in outputs]
        self.streams = nn.ModuleList(self.parts)
        self.noise_widths = [stream.noise_width for stream in self.parts if isinstance(stream, NoisyMLP)]
        self.noise_width = sum(self.noise_widths)
        self.flatten()

    def forward(
        self, observation: Observation, *, noise: Tensor | None = None, dropout_noise: Tensor | None = None
    ) -> Tensor:
        """The values of all actions, [S, B, A], or [S, B, A, quantiles].

        Args:
            observation: [S, B, …].
            noise: draws [S, B, noise_width] for a noisy network, or [S, 1, noise_width] for one sample in all the
                batch; None takes the weights' means.
            dropout_noise: draws [S, B, streams · sum(hidden)]; None leaves dropout off.
        """
        features = self.encoder(observation)
        if len(self.parts) == 1:
            return self._by_action(_apply_stream(self.parts[0], features, noise, dropout_noise))
        noises = (None, None) if noise is None else noise.split(self.noise_widths, dim=-1)
        dropped = (None, None) if dropout_noise is None else dropout_noise.chunk(2, dim=-1)
        outputs = map(_apply_stream, self.parts, (features, features), noises, dropped)
        value, advantage = map(self._by_action, outputs)
        return value + advantage - advantage.mean(dim=2, keepdim=True)

    def _by_action(self, output: Tensor) -> Tensor:
        """A stream's output with an axis of its own for quantiles, where there are any."""
        return output if self.quantiles is None else output.unflatten(-1, (-1, self.quantiles))


def _apply_stream(
    stream: MLP | NoisyMLP, features: Tensor, noise: Tensor | None, dropout_noise: Tensor | None
) -> Tensor:
    values: Tensor = (
        stream(features, dropout_noise=dropout_noise)
        if isinstance(stream, MLP)
        else stream(features, noise=noise, dropout_noise=dropout_noise)
    )
    return values
