"""Behavior cloning (Pomerleau, 1991): supervised learning of the logged actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.space_checks import PolicyKind, choices_of, policy_kind
from offrl.config.fields import (
    STRICT,
    Activation,
    Convolutions,
    CountOrZero,
    NonNegative,
    Positive,
    ProbabilityBelowOne,
    Widths,
)
from offrl.errors import RecipeError
from offrl.nn import Adam, Schedule, seed_generators
from offrl.nn.action_head import ActionHead
from offrl.nn.adam import ended_schedule
from offrl.nn.distributions import (
    categorical_entropy,
    gaussian_entropy,
    split_categoricals,
    split_gaussian,
    squashed_gaussian_entropy,
)
from offrl.nn.encoder import EncodedMLP, encoder_maker
from offrl.nn.random_shift import RandomShift
from offrl.types import Batch, Density, GivesPolicy, Metrics, Noise, Observation, Penalized, Scheduled, Spec, Validates


@dataclass(frozen=True)
class BCConfig(Schedule):
    """Options of behavior cloning. There is no paper to follow: widths and Adam's usual 1e-3 are ours.

    Attributes:
        policy: "deterministic" regresses actions (squared error), "gaussian" and "squashed_gaussian" maximize their
            likelihood, "categorical" is for discrete and multi-discrete actions; "auto" takes "deterministic" for
            continuous actions and "categorical" for discrete ones.
        hidden: widths of the hidden layers, behind the convolutions where there are any.
        convolutions: for each image in the observation, see `offrl.nn.encoder.Encoder`; none leaves them flat.
        random_shift: pixels by which images are shifted at random; 0 leaves them. See `offrl.nn.random_shift`.
        learning_rate: Adam's step size.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the step size, see `offrl.nn.Schedule`.
        l1, l2: coefficients of Σ|w| and Σw² over the weights (not the biases) in the loss.
        entropy_bonus: coefficient of the policy's entropy, in nats; only policies with a density have one.
        ema: decay per step of the weight average that acts in place of the weights; 0 keeps no average.
        layer_norm, dropout, activation: see `offrl.nn.MLP`; the convolutions have the same activation.
    """

    __pydantic_config__ = STRICT

    policy: PolicyKind = "auto"
    hidden: Widths = (256, 256)
    learning_rate: Positive = 1e-3
    l1: NonNegative = 0.0
    l2: NonNegative = 0.0
    entropy_bonus: NonNegative = 0.0
    ema: ProbabilityBelowOne = 0.0
    layer_norm: bool = False
    dropout: ProbabilityBelowOne = 0.0
    activation: Activation = "relu"
    convolutions: Convolutions = "auto"
    random_shift: CountOrZero = 0


@dataclass
class BCState:
    """All that training changes, and the coefficients that seeds may differ in, [S] each."""

    policy: EncodedMLP
    average: EncodedMLP
    optimizer: Adam
    l1: Tensor
    l2: Tensor


class BC:
    """A policy fitted to the dataset's actions.

    Continuous actions span [-1, 1] where the action space is bounded (environment bounds are mapped outside).

    Raises:
        SpaceMismatchError: the policy kind doesn't fit the action space.
        RecipeError: an entropy bonus is asked for, and the policy is deterministic.
    """

    penalties: ClassVar[tuple[str, ...]] = ("l1", "l2")
    batches_per_update = 1
    discount = 1.0

    def __init__(self, config: BCConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self.kind = policy_kind(config.policy, spec)
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        if config.entropy_bonus and self.kind == "deterministic":
            raise RecipeError(
                f"a deterministic policy has no entropy, but agent.entropy_bonus is {config.entropy_bonus}",
                hint="set agent.policy=gaussian, or agent.entropy_bonus=0",
            )
        self.head = ActionHead(self.kind, spec, choices_of(spec.action_space))
        self.shift = RandomShift(config.random_shift, spec.observation_space)
        self.make_encoder = encoder_maker(spec.observation_space, config.convolutions, config.activation)

    def init(self, seeds: Sequence[int], device: torch.device) -> BCState:
        """Fresh networks for each seed."""
        c, generators = self.config, seed_generators(seeds)
        policy = EncodedMLP(
            self.make_encoder(generators),
            self.head.outputs,
            c.hidden,
            generators,
            activation=c.activation,
            layer_norm=c.layer_norm,
            dropout=c.dropout,
        ).to(device)
        return BCState(
            policy=policy,
            average=policy.clone(),
            optimizer=Adam(policy, c.learning_rate, schedule=c),
            l1=torch.full((len(seeds),), c.l1, device=device),
            l2=torch.full((len(seeds),), c.l2, device=device),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        c = self.config
        shapes = self.shift.noise_shapes(1, batch_size)
        if c.dropout:
            shapes["dropout"] = (batch_size, sum(c.hidden))
        if c.entropy_bonus and self.kind == "squashed_gaussian":
            shapes["entropy"] = (batch_size, self.spec.action_dim)
        return shapes

    def update(self, state: BCState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One gradient step on imitation_loss − entropy_bonus · entropy + l1 Σ|w| + l2 Σw²."""
        c, (batch,) = self.config, self.shift(batches, noise)
        output = state.policy(state.policy.encoder(batch.observation), dropout_noise=noise.get("dropout"))
        imitation_loss = self.head.loss(output, batch.action, batch.action_mask)
        metrics, loss = {"imitation_loss": imitation_loss.detach()}, imitation_loss.mean(dim=1)
        if c.entropy_bonus:
            entropy = self.entropy(output, batch.action_mask, noise.get("entropy")).mean(dim=1)
            metrics["entropy"], loss = entropy.detach(), loss - c.entropy_bonus * entropy
        if c.l1 or c.l2:
            loss = loss + self.penalty(state)
        state.optimizer.minimize(loss.sum())
        if c.ema:
            state.average.move_towards(state.policy, 1.0 - c.ema)
        return metrics

    def entropy(self, output: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """The policy's, in nats, [S, B]; a squashed one's is estimated from draws [S, B, action_dim]."""
        if self.kind == "categorical":
            return categorical_entropy(split_categoricals(output, self.head.choices, mask))
        mean, log_std = split_gaussian(output)
        return gaussian_entropy(log_std) if noise is None else squashed_gaussian_entropy(mean, log_std, noise)

    def penalty(self, state: BCState) -> Tensor:
        """l1 Σ|w| + l2 Σw² over each seed's weights, by its own coefficients; biases are free, [S]."""
        named = state.policy.named_parameters()
        weights = torch.cat([weight.flatten(1) for name, weight in named if "weight" in name], dim=1)
        return state.l1 * weights.abs().sum(dim=1) + state.l2 * weights.square().sum(dim=1)

    def set_penalty(self, state: BCState, name: str, values: Tensor) -> None:
        """Give each seed a coefficient of its own; the option of that name must be above 0 for it to count.

        Args:
            state: changed in place.
            name: "l1" or "l2".
            values: [S].
        """
        {"l1": state.l1, "l2": state.l2}[name].copy_(values)

    @torch.no_grad()
    def validation_loss(self, state: BCState, batch: Batch) -> Tensor:
        """The imitation loss alone, [S], of the weights that act."""
        output = self._output(state, batch.observation)
        return self.head.loss(output, batch.action, batch.action_mask).mean(dim=1)

    def ended_schedule(self, state: BCState) -> int:
        """The steps taken, where the step size has fallen to 0."""
        return ended_schedule((state.optimizer,))

    def policy_network(self, state: BCState) -> EncodedMLP:
        """What acts: the weights, or their average where one is kept."""
        return state.average if self.config.ema else state.policy

    def _output(self, state: BCState, observation: Observation) -> Tensor:
        """That network's, [S, B, outputs]."""
        network = self.policy_network(state)
        output: Tensor = network(network.encoder(observation))
        return output

    def initial_carry(self, state: BCState, count: int) -> tuple[()]:
        """Nothing: acting needs no memory."""
        return ()

    def act(
        self,
        state: BCState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """The mean or likeliest action; with draws [S, N, action_dim], a sample where the policy has a density."""
        output = self._output(state, observation)
        return self.head.act(output, noise, action_mask), carry

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: a deterministic or a clipped one has none."""
        return self.head.has_density

    @torch.no_grad()
    def log_prob(
        self,
        state: BCState,
        observation: Observation,
        action: Tensor,
        carry: tuple[()],
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1].

        Raises:
            SpaceMismatchError: the policy is deterministic.
        """
        output = self._output(state, observation)
        return self.head.log_prob(output, action, action_mask)


_PROVIDED = (Density, Validates, Penalized, GivesPolicy, Scheduled)

ALGORITHM = Algorithm(
    BCConfig,
    BC,
    feeds=("dataset",),
    actions=("continuous", "discrete", "multi-discrete"),
    summary="regression or likelihood, cross-validated L1 and L2, early stopping, weight averaging",
    provides=_PROVIDED,
    masks=True,
    images=True,
    reads_rewards=False,
    loss_options=("policy",),
)
DAGGER = Algorithm(
    BCConfig,
    BC,
    feeds=("dagger",),
    actions=ALGORITHM.actions,
    summary="those of `bc`",
    provides=_PROVIDED,
    expert=True,
    masks=True,
    images=True,
    reads_rewards=False,
    loss_options=("policy",),
)
