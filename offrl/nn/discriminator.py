"""Networks that tell an expert's transitions from others, and what they look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from offrl.nn.clipping import Clipping
from offrl.nn.flat import FlatModule, uniform_per_seed
from offrl.nn.flatten import FlatAction, FlatObservation
from offrl.nn.mlp import MLP
from offrl.ops.running_moments import normalize
from offrl.types import Batch, Spec

Inputs = Literal["state_action", "state", "transition"]
"""What of a transition is looked at: (s, a), s, or (s, s')."""


class TransitionFeatures:
    """Transitions as vectors: flat observations, then the action (one-hot where it is discrete).

    A sampled action is judged as the environment received it, within its bounds: an expert's are never beyond.

    Args:
        spec: the spaces.
        inputs: what of a transition to take.
        absorbing: append the indicator of the absorbing state that follows a terminal one, for each state taken.
        indicator: what the indicator is there; it is 0 elsewhere.
    """

    def __init__(self, spec: Spec, inputs: Inputs, *, absorbing: bool = False, indicator: float = 1.0) -> None:
        self.spec, self.inputs, self.absorbing, self.indicator = spec, inputs, absorbing, indicator
        self.flat_observation = FlatObservation(spec.observation_space)
        self.clipped, self.flat_action = Clipping(spec.action_space), FlatAction(spec.action_space)
        self.states = 2 if inputs == "transition" else 1
        actions = spec.action_dim if inputs == "state_action" else 0
        self.observations = self.states * self.flat_observation.width
        self.width = self.observations + actions + (self.states if absorbing else 0)

    def __call__(self, batch: Batch, moments: Tensor | None = None) -> Tensor:
        """[S, B, …] to [S, B, width]; observations normalized by running moments [S, 3, D], if any are given."""
        return torch.cat([*self.seen(batch, moments), *self._rest(batch)], dim=-1)

    def seen(self, batch: Batch, moments: Tensor | None = None) -> list[Tensor]:
        """The flat observations, [S, B, D] each."""
        states = [batch.observation, batch.next_observation][: self.states]
        flat = [self.flat_observation(state) for state in states]
        return flat if moments is None else [normalize(part, moments) for part in flat]

    def absorbed(self, batch: Batch) -> Tensor:
        """The features [S, 1, width] of the step from the absorbing state to itself."""
        features = batch.reward.new_zeros(len(batch.reward), 1, self.width)
        features[..., self.width - self.states :] = self.indicator
        return features

    def _rest(self, batch: Batch) -> list[Tensor]:
        parts = [self.flat_action(self.clipped(batch.action))] if self.inputs == "state_action" else []
        if self.absorbing:
            parts.append(torch.zeros_like(batch.reward).unsqueeze(-1))
            if self.states == 2:
                # The state behind a terminal one is the absorbing one.
                parts.append(self.indicator * batch.terminated.unsqueeze(-1))
        return parts


class Layer(NamedTuple):
    """An affine layer's W [S, outputs, inputs] and b [S, 1, outputs]."""

    weight: Tensor
    bias: Tensor


class Discriminator(FlatModule):
    """S networks, each of a vector to one number, whose slope by the input can be differentiated as well.

    Args:
        inputs: width of the input.
        hidden: widths of the hidden layers.
        generators: one per seed, for the initial weights.
        activation: "relu" or "tanh".
        spectral_norm: divide each layer's weights by an estimate of their largest singular value (Miyato et al., 2018,
            https://arxiv.org/abs/1802.05957), which one power iteration per `iterate` improves.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        generators: list[torch.Generator],
        *,
        activation: Literal["relu", "tanh"] = "relu",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.network = MLP(inputs, 1, hidden, generators, activation=activation)
        self.activation, self.spectral_norm = activation, spectral_norm
        if spectral_norm:
            for depth, width in enumerate((*hidden, 1)):
                self.register_buffer(f"direction_{depth}", uniform_per_seed((width,), 1.0, generators))
        self.flatten()

    @torch.no_grad()
    def iterate(self) -> None:
        """Turn each layer's estimated first left singular vector by a power iteration."""
        if not self.spectral_norm:
            return
        for depth, (weight, _) in enumerate(self._plain_layers()):
            direction = self.get_buffer(f"direction_{depth}")
            direction.copy_(unit_length(torch.bmm(weight, _right(weight, direction)).squeeze(-1), dim=-1))

    def layers(self) -> list[Layer]:
        """The layers as they are applied, differentiable by the parameters."""
        layers = self._plain_layers()
        if not self.spectral_norm:
            return layers
        return [Layer(self._normalized(depth, weight), bias) for depth, (weight, bias) in enumerate(layers)]

    def forward(self, x: Tensor, layers: Sequence[Layer] | None = None) -> Tensor:
        """[S, B, inputs] to [S, B]; `layers` spares computing them once more."""
        *hidden, last = self.layers() if layers is None else layers
        for layer in hidden:
            x = self._activated(x, layer)
        return torch.baddbmm(last.bias, x, last.weight.mT).squeeze(-1)

    def input_gradient(self, x: Tensor, layers: Sequence[Layer]) -> Tensor:
        """The output's derivative by the input, [S, B, inputs]; differentiable by the layers, not by the input.

        The chain rule is written down, for autograd would go through the whole network once more: it can't know that a
        ReLU's derivative has none itself.
        """
        *hidden, last = layers
        slope = last.weight.expand(-1, x.shape[1], -1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.activation == "tanh"):
            derivatives = []
            for layer in hidden:
                x = self._activated(x, layer)
                derivatives.append(1.0 - x.square() if self.activation == "tanh" else (x > 0.0).float())
        for layer, derivative in zip(reversed(hidden), reversed(derivatives), strict=True):
            slope = torch.bmm(slope * derivative, layer.weight)
        return slope

    def _activated(self, x: Tensor, layer: Layer) -> Tensor:
        output: Tensor = self.network.activation(torch.baddbmm(layer.bias, x, layer.weight.mT))
        return output

    def _plain_layers(self) -> list[Layer]:
        parameters = [part.squeeze(1) for part in self.network.own_parameters]
        return [Layer(*pair) for pair in zip(parameters[::2], parameters[1::2], strict=True)]

    def _normalized(self, depth: int, weight: Tensor) -> Tensor:
        """W / (uᵀ W v), whose derivative leaves out that of the singular vectors."""
        direction = self.get_buffer(f"direction_{depth}")
        right = _right(weight.detach(), direction)
        return weight / torch.bmm(direction.unsqueeze(1), torch.bmm(weight, right))


def _right(weight: Tensor, left: Tensor) -> Tensor:
    """The right singular vectors [S, inputs, 1] that belong to left ones [S, outputs] of W [S, outputs, inputs]."""
    return unit_length(torch.bmm(weight.mT, left.unsqueeze(-1)), dim=1)


def gradient_penalty(discriminator: Discriminator, layers: Sequence[Layer], x: Tensor) -> Tensor:
    """(‖∂ output / ∂x‖ − 1)², averaged over [S, B, inputs] to [S] (Gulrajani et al., 2017)."""
    slope = discriminator.input_gradient(x, layers)
    return ((slope.square().sum(dim=-1) + 1e-12).sqrt() - 1.0).square().mean(dim=1)
