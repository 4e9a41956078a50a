"""Behavior cloning with a transformer over the last observations, BC-Transformer of robomimic (Mandlekar et al., 2021).

https://arxiv.org/abs/2108.03298, https://robomimic.github.io
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.space_checks import PolicyKind, choices_of, policy_kind
from offrl.config.fields import STRICT, Activation, Count, NonNegative, Positive, ProbabilityBelowOne
from offrl.nn import Adam, FlatModule, FlatObservation, Schedule, seed_generators
from offrl.nn.action_head import ActionHead
from offrl.nn.adam import ended_schedule
from offrl.nn.linear import StackedLayerNorm
from offrl.nn.transformer import (
    Embedding,
    Transformer,
    dropout_shapes,
    linear,
    normalized,
    require_heads,
    spread_linear,
)
from offrl.ops.minibatches import merge_axes
from offrl.ops.padding import mean_over_steps
from offrl.types import Batch, Density, Metrics, Noise, Observation, Scheduled, Spec, Validates

Carry = dict[str, Tensor]


@dataclass(frozen=True)
class BCTransformerConfig(Schedule):
    """Options of BC-Transformer, with robomimic's values unless noted.

    Attributes:
        policy: "mixture" maximizes the likelihood of a mixture of Gaussians, the others are those of `bc`; "auto" takes
            "mixture" for continuous actions and "categorical" for discrete ones.
        components: of the mixture.
        context: observations that a prediction goes by, and steps of the windows that are learned from.
        width: of a token.
        layers, heads, dropout, activation: see `offrl.nn.transformer.Transformer`.
        learning_rate: Adam's step size.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the step size, see `offrl.nn.Schedule`.
        weight_decay: decoupled decay rate.
    """

    __pydantic_config__ = STRICT

    policy: PolicyKind = "auto"
    components: Count = 5
    context: Count = 10
    width: Count = 512
    layers: Count = 6
    heads: Count = 8
    dropout: ProbabilityBelowOne = 0.1
    activation: Activation = "gelu"
    learning_rate: Positive = 1e-4
    weight_decay: NonNegative = 0.01


class Network(FlatModule):
    """From consecutive observations to outputs for each step's action: a token a step, and its place in the window."""

    def __init__(
        self, config: BCTransformerConfig, inputs: int, outputs: int, generators: list[torch.Generator]
    ) -> None:
        super().__init__()
        c = config
        self.observation = spread_linear(inputs, c.width, generators)
        self.place = Embedding(c.context, c.width, generators)
        self.norm = StackedLayerNorm(c.width, 1, len(generators))
        self.transformer = Transformer(
            c.width, c.layers, c.heads, generators, dropout=c.dropout, activation=c.activation
        )
        self.head = spread_linear(c.width, outputs, generators)
        self.flatten()

    def forward(self, observation: Tensor, place: Tensor, there: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Outputs [S, B, K, outputs].

        Args:
            observation: [S, B, K, inputs].
            place: int64 [S, B, K], of each in its window, counted from 0.
            there: bool [S, B, K], False on padding.
            noise: draws of `offrl.nn.transformer.dropout_shapes`; none when acting.
        """
        tokens = linear(self.observation, observation) + self.place(place)
        return linear(self.head, self.transformer(normalized(self.norm, tokens), there, noise))


@dataclass
class BCTransformerState:
    """All that training changes."""

    network: Network
    optimizer: Adam


class BCTransformer:
    """A policy fitted to the dataset's actions, given the observations of a window up to each.

    Acting remembers the last `context` observations. Where an episode begins there are fewer, as there are for the
    first steps of every window that it learns from.

    Raises:
        SpaceMismatchError: the policy kind doesn't fit the action space.
        RecipeError: the heads don't divide the width.
    """

    batches_per_update = 1
    discount = 1.0

    def __init__(self, config: BCTransformerConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        require_heads(config.width, config.heads)
        kinds: tuple[PolicyKind, ...] = ("mixture", "deterministic", "gaussian", "squashed_gaussian")
        kind = policy_kind(config.policy, spec, kinds)
        self.head = ActionHead(kind, spec, choices_of(spec.action_space), config.components)
        self.acting_noise_shape: tuple[int, ...] = (self.head.draws,)
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> BCTransformerState:
        """A fresh network for each seed."""
        c = self.config
        network = Network(c, self.flat_observation.width, self.head.outputs, seed_generators(seeds)).to(device)
        return BCTransformerState(network, Adam(network, c.learning_rate, weight_decay=c.weight_decay, schedule=c))

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        c = self.config
        return dropout_shapes(c.width, c.layers, c.heads, batch_size, c.context) if c.dropout else {}

    def update(self, state: BCTransformerState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One gradient step on the imitation loss."""
        (batch,) = batches
        loss = self.imitation_loss(state, batch, noise)
        state.optimizer.minimize(loss.sum())
        return {"imitation_loss": loss.detach()}

    def imitation_loss(self, state: BCTransformerState, batch: Batch, noise: Noise) -> Tensor:
        """Squared error or negative log-likelihood, averaged over the windows' steps that aren't padding, [S]."""
        assert batch.mask is not None
        shown = self.flat_observation(merge_axes(batch.observation)).unflatten(1, batch.reward.shape[1:])
        place = torch.arange(self.config.context, device=shown.device).expand(batch.mask.shape)
        output = state.network(shown, place, batch.mask, noise)
        return mean_over_steps(self.head.loss(output, batch.action, batch.action_mask), batch)

    @torch.no_grad()
    def validation_loss(self, state: BCTransformerState, batch: Batch) -> Tensor:
        """The imitation loss without dropout, [S]."""
        return self.imitation_loss(state, batch, {})

    def ended_schedule(self, state: BCTransformerState) -> int:
        """The steps taken, where the step size has fallen to 0."""
        return ended_schedule((state.optimizer,))

    def initial_carry(self, state: BCTransformerState, count: int) -> Carry:
        """No observations."""
        shape = len(state.network.place.weight), count
        zeros = state.network.flat.new_zeros
        return {
            "observation": zeros(*shape, self.config.context, self.flat_observation.width),
            "steps": zeros(*shape, dtype=torch.int64),
        }

    def act(
        self,
        state: BCTransformerState,
        observation: Observation,
        carry: Carry,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        """The mean or likeliest action, of a mixture the mean of its likeliest component; with draws, a sample."""
        output, following = self._step(state, observation, carry)
        return self.head.act(output, noise, action_mask), following

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: a deterministic or a clipped one has none."""
        return self.head.has_density

    @torch.no_grad()
    def log_prob(
        self,
        state: BCTransformerState,
        observation: Observation,
        action: Tensor,
        carry: Carry,
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s, what is remembered), [S, N], in nats; densities are with respect to actions in [-1, 1].

        Raises:
            SpaceMismatchError: the policy is deterministic.
        """
        return self.head.log_prob(self._step(state, observation, carry)[0], action, action_mask)

    def _step(self, state: BCTransformerState, observation: Observation, carry: Carry) -> tuple[Tensor, Carry]:
        """The network's output for one more observation of each row, [S, N, outputs], and the context with it.

        The newest is the last of K observations; those before the episode's beginning hold none.
        """
        context, steps = self.config.context, carry["steps"] + 1
        newest = self.flat_observation(observation).unsqueeze(2)
        shown = torch.cat([carry["observation"][:, :, 1:], newest], dim=2)
        place = steps.clamp(max=context).unsqueeze(-1) + torch.arange(-context, 0, device=steps.device)
        output = state.network(shown, place.clamp(min=0), place >= 0, {})
        return output[:, :, -1], {"observation": shown, "steps": steps}


ALGORITHM = Algorithm(
    BCTransformerConfig,
    BCTransformer,
    feeds=("windows",),
    actions=("continuous", "discrete", "multi-discrete"),
    summary="attention to the last observations, a mixture of Gaussians or the policies of `bc`",
    provides=(Density, Validates, Scheduled),
    masks=True,
    reads_rewards=False,
    loss_options=("policy",),
)
