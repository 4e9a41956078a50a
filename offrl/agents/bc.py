"""Behavior cloning (Pomerleau, 1991): supervised learning of the logged actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from torch import Tensor

from offrl.agents.space_checks import PolicyKind, choices_of, policy_kind
from offrl.config.fields import Activation, NonNegative, Positive, ProbabilityBelowOne, Widths
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.nn import MLP, Adam, FlatObservation, seed_generators
from offrl.nn.distributions import (
    categorical_entropy,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
    gaussian_entropy,
    gaussian_log_prob,
    gaussian_nll,
    split_categoricals,
    split_gaussian,
    squashed_gaussian_entropy,
    squashed_gaussian_log_prob,
)
from offrl.nn.numpy_mlp import recording, without_gradients
from offrl.ops.losses import squared_error
from offrl.ops.numpy_or_torch import Array, at_hand, handed_back, namespace
from offrl.types import Batch, Metrics, Noise, Observation, Spec


@dataclass(frozen=True)
class BCConfig:
    """Options of behavior cloning.

    Attributes:
        policy: "deterministic" regresses actions (squared error), "gaussian" and "squashed_gaussian" maximize their
            likelihood, "categorical" is for discrete and multi-discrete actions; "auto" takes "deterministic" for
            continuous actions and "categorical" for discrete ones.
        hidden: widths of the hidden layers.
        learning_rate: Adam's step size.
        l1, l2: coefficients of Σ|w| and Σw² over the weights (not the biases) in the loss.
        entropy_bonus: coefficient of the policy's entropy, in nats; only policies with a density have one.
        ema: decay per step of the weight average that acts in place of the weights; 0 keeps no average.
        layer_norm, dropout, activation: see `offrl.nn.MLP`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

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


@dataclass
class BCState:
    """All that training changes, and the coefficients that seeds may differ in, [S] each."""

    policy: MLP
    average: MLP
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

    batches_per_update = 1
    acts_on_arrays = True
    honors_masks = True

    def __init__(self, config: BCConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self.kind = policy_kind(config.policy, spec)
        self.exploration_shape: tuple[int, ...] = (spec.action_dim,)
        if config.entropy_bonus and self.kind == "deterministic":
            raise RecipeError(
                f"a deterministic policy has no entropy, but agent.entropy_bonus is {config.entropy_bonus}",
                hint="set agent.policy=gaussian, or agent.entropy_bonus=0",
            )
        self.choices, self.first_choice = choices_of(spec.action_space)
        self.bounded = isinstance(spec.action_space, gym.spaces.Box) and spec.action_space.is_bounded("both")
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> BCState:
        """Fresh networks for each seed."""
        c = self.config
        has_spread = self.kind in ("gaussian", "squashed_gaussian")
        policy = MLP(
            self.flat_observation.width,
            self.spec.action_dim * (2 if has_spread else 1),
            c.hidden,
            seed_generators(seeds),
            activation=c.activation,
            layer_norm=c.layer_norm,
            dropout=c.dropout,
        ).to(device)
        return BCState(
            policy=policy,
            average=policy.clone(),
            optimizer=Adam(policy, c.learning_rate),
            l1=torch.full((len(seeds),), c.l1, device=device),
            l2=torch.full((len(seeds),), c.l2, device=device),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        c = self.config
        shapes: dict[str, tuple[int, ...]] = {}
        if c.dropout:
            shapes["dropout"] = (batch_size, sum(c.hidden))
        if c.entropy_bonus and self.kind == "squashed_gaussian":
            shapes["entropy"] = (batch_size, self.spec.action_dim)
        return shapes

    @torch.inference_mode()
    def update(self, state: BCState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One gradient step on imitation loss − entropy_bonus · entropy + l1 Σ|w| + l2 Σw²."""
        c, (batch,) = self.config, batches
        observation = at_hand(self.flat_observation(batch.observation))
        recorded = state.policy.record(observation, dropout_noise=noise.get("dropout"))
        metrics, by_output = self._loss(recorded.output, at_hand(batch.action), noise.get("entropy"))
        gradient = recorded.gradient(by_output)
        if c.l1 or c.l2:
            gradient = gradient + penalty_slope(state.policy, state.l1, state.l2)
        state.optimizer.descend(gradient)
        if c.ema:
            state.average.move_towards(state.policy, 1.0 - c.ema)
        return metrics

    def _loss(self, output: Array, action: Array, entropy_noise: Tensor | None) -> tuple[Metrics, Array]:
        """What is reported, imitation loss and entropy; and what is descended differentiated by the output.

        The usual losses are differentiated by hand, since autograd's record takes as long as a layer's arithmetic.
        """
        bonus = self.config.entropy_bonus
        if self.kind == "deterministic":
            prediction = self._regression(output)
            loss, slope = squared_error(prediction, action)
            if self.bounded:
                slope *= 1.0 - prediction * prediction
            return {"imitation_loss": handed_back(loss)}, slope
        if self.kind == "gaussian" and not bonus:
            loss, slope = gaussian_nll(output, action)
            return {"imitation_loss": handed_back(loss)}, slope
        with recording():
            output, action = handed_back(output).clone().requires_grad_(), handed_back(action)
            loss = imitation = self._imitation_loss(output, action)
            metrics = {"imitation_loss": imitation.detach()}
            if bonus:
                entropy = self._entropy(output, entropy_noise).mean(dim=1)
                loss = loss - bonus * entropy
                metrics["entropy"] = entropy.detach()
            return metrics, torch.autograd.grad(loss.sum(), output)[0]

    @torch.no_grad()
    def validation_loss(self, state: BCState, batch: Batch) -> Tensor:
        """The imitation loss alone, [S], of the weights that act."""
        return self._imitation_loss(self.acting_network(state)(self.flat_observation(batch.observation)), batch.action)

    @without_gradients
    def act(
        self, state: BCState, observation: Observation | NDArray[Any], noise: Array = None, action_mask: Array = None
    ) -> Array:
        """The mean or likeliest action; with draws [S, N, action_dim], a sample where the policy has a density."""
        output = self.acting_network(state)(self.flat_observation(observation))
        if self.kind == "categorical":
            log_probs = split_categoricals(handed_back(output), self.choices, handed_back(action_mask))
            choice = categorical_mode(log_probs) if noise is None else categorical_sample(log_probs, handed_back(noise))
            action = choice + choice.new_tensor(self.first_choice) if any(self.first_choice) else choice
            return action.squeeze(-1) if isinstance(self.spec.action_space, gym.spaces.Discrete) else action
        if self.kind == "deterministic":
            return handed_back(self._regression(at_hand(output)), to=observation)
        mean, log_std = split_gaussian(at_hand(output))
        xp = namespace(mean)
        sample = mean if noise is None else mean + xp.exp(log_std) * at_hand(noise)
        if self.kind == "squashed_gaussian":
            return handed_back(xp.tanh(sample), to=observation)
        return handed_back(sample.clip(-1.0, 1.0) if self.bounded else sample, to=observation)

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: a deterministic or a clipped one has none."""
        return self.kind in ("categorical", "squashed_gaussian") or (self.kind == "gaussian" and not self.bounded)

    @torch.no_grad()
    def log_prob(
        self, state: BCState, observation: Observation, action: Tensor, action_mask: Tensor | None = None
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1].

        Raises:
            SpaceMismatchError: the policy is deterministic.
        """
        output = self.acting_network(state)(self.flat_observation(observation))
        return self._log_prob(output, action, action_mask)

    def acting_network(self, state: BCState) -> MLP:
        """What acts: the weights, or their average where one is kept."""
        return state.average if self.config.ema else state.policy

    def _imitation_loss(self, output: Tensor, action: Tensor) -> Tensor:
        """Squared error summed over action components, or negative log-likelihood; averaged over the batch, [S]."""
        if self.kind == "deterministic":
            error: Tensor = squared_error(self._regression(output), action)[0]
            return error.mean(dim=1)
        return -self._log_prob(output, action).mean(dim=1)

    def _regression(self, output: Array) -> Array:
        return namespace(output).tanh(output) if self.bounded else output

    def _log_prob(self, output: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.kind == "categorical":
            columns = action.unsqueeze(-1) if isinstance(self.spec.action_space, gym.spaces.Discrete) else action
            choice = columns.long()
            if any(self.first_choice):
                choice = choice - choice.new_tensor(self.first_choice)
            return categorical_log_prob(split_categoricals(output, self.choices, mask), choice)
        if self.kind == "gaussian":
            log_prob: Tensor = gaussian_log_prob(*split_gaussian(output), action)
            return log_prob
        if self.kind == "squashed_gaussian":
            return squashed_gaussian_log_prob(*split_gaussian(output), action)
        raise SpaceMismatchError(
            "a deterministic policy has no density", hint="train with --set agent.policy=gaussian, or categorical"
        )

    def _entropy(self, output: Tensor, noise: Tensor | None) -> Tensor:
        if self.kind == "categorical":
            return categorical_entropy(split_categoricals(output, self.choices))
        mean, log_std = split_gaussian(output)
        return gaussian_entropy(log_std) if noise is None else squashed_gaussian_entropy(mean, log_std, noise)


def penalty_slope(policy: MLP, l1: Tensor, l2: Tensor) -> Tensor:
    """The derivative of l1 Σ|w| + l2 Σw² over each seed's weights, in the order of `flat`; biases have 0."""
    parts = []
    for name, parameter in policy.named_parameters():
        w, shape = parameter.detach(), (-1,) + (1,) * (parameter.dim() - 1)
        slope = l1.view(shape) * w.sign() + 2.0 * l2.view(shape) * w if name.endswith("weight") else torch.zeros_like(w)
        parts.append(slope.flatten())
    return torch.cat(parts)
