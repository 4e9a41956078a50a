"""Soft Actor-Critic (Haarnoja et al., 2018), https://arxiv.org/abs/1812.05905, for continuous and discrete actions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import torch
from pydantic import ConfigDict, FiniteFloat
from torch import Tensor, nn

from offrl.agents.requirements import require_bounded_box
from offrl.nn import MLP, Adam, FlatModule, FlatObservation, seed_generators
from offrl.nn.distributions import (
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
    split_categoricals,
    split_gaussian,
    squashed_gaussian_log_prob,
    squashed_gaussian_sample,
)
from offrl.options import Activation, NonNegative, Positive, PositiveFraction, Probability, Widths
from offrl.types import Batch, Metrics, Noise, Observation, Spec


@dataclass(frozen=True)
class SACConfig:
    """Options of SAC, with the paper's values unless noted.

    Attributes:
        hidden: widths of the hidden layers of all networks.
        activation: see `offrl.nn.MLP`.
        layer_norm: normalise the critics' hidden layers (not in the paper).
        weight_decay: decoupled decay rate of actor and critics (not in the paper).
        max_gradient_norm: longer gradients are scaled to this norm; 0 leaves them as they are.
        actor_learning_rate, critic_learning_rate, temperature_learning_rate: Adam's step sizes; a temperature with
            rate 0 stays as it starts.
        discount: γ, per step.
        target_rate: τ of the target network's Polyak averaging.
        initial_temperature: α at the start.
        target_entropy: the mean entropy, in nats, that the temperature holds the policy at; "auto" takes −A for A
            continuous action components, and `target_entropy_fraction` of log A for A discrete actions.
        target_entropy_fraction: share of the uniform policy's entropy (Christodoulou, 2019,
            https://arxiv.org/abs/1910.07207).
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    hidden: Widths = (256, 256)
    activation: Activation = "relu"
    layer_norm: bool = False
    weight_decay: NonNegative = 0.0
    max_gradient_norm: NonNegative = 0.0
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    temperature_learning_rate: NonNegative = 3e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    initial_temperature: Positive = 1.0
    target_entropy: FiniteFloat | Literal["auto"] = "auto"
    target_entropy_fraction: Probability = 0.98


class Temperature(FlatModule):
    """log α of each seed, [S, 1]."""

    def __init__(self, seeds: int, initial: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((seeds, 1), math.log(initial)))
        self.flatten()


@dataclass
class SACState:
    """All that training changes."""

    actor: MLP
    critic: MLP
    target_critic: MLP
    temperature: Temperature
    actor_optimizer: Adam
    critic_optimizer: Adam
    temperature_optimizer: Adam


class SAC:
    """Stochastic actor, twin critics, and a temperature that holds the policy's entropy at its target.

    Observations are flat vectors. Continuous actions span [-1, 1] (environment bounds are mapped outside), and policies
    over them are Gaussians squashed by tanh. Discrete actions are the environment's own numbers, and expectations over
    them are sums.

    Raises:
        SpaceMismatchError: actions are neither Discrete nor a bounded Box.
    """

    batches_per_update = 1

    def __init__(self, config: SACConfig, spec: Spec) -> None:
        space = spec.action_space
        self.discrete = isinstance(space, gym.spaces.Discrete)
        if not self.discrete:
            require_bounded_box(spec, "SAC")
        self.config, self.spec = config, spec
        self.exploration_shape: tuple[int, ...] = (spec.action_dim,)
        self.first_action = int(space.start) if isinstance(space, gym.spaces.Discrete) else 0
        self.target_entropy = self._target_entropy()
        self.flat_observation = FlatObservation(spec.observation_space)

    def _target_entropy(self) -> float:
        c, actions = self.config, self.spec.action_dim
        if c.target_entropy != "auto":
            return c.target_entropy
        return c.target_entropy_fraction * math.log(actions) if self.discrete else -float(actions)

    def init(self, seeds: Sequence[int], device: torch.device) -> SACState:
        """Fresh networks for each seed; the target starts as a copy."""
        c, generators = self.config, seed_generators(seeds)
        observations, actions = self.flat_observation.width, self.spec.action_dim
        outputs, inputs, values = (
            (actions, observations, actions) if self.discrete else (2 * actions, observations + actions, 1)
        )
        actor = MLP(observations, outputs, c.hidden, generators, activation=c.activation).to(device)
        critic = MLP(
            inputs, values, c.hidden, generators, ensemble=2, activation=c.activation, layer_norm=c.layer_norm
        ).to(device)
        temperature = Temperature(len(seeds), c.initial_temperature).to(device)
        return SACState(
            actor=actor,
            critic=critic,
            target_critic=critic.clone(),
            temperature=temperature,
            actor_optimizer=self._optimizer(actor, c.actor_learning_rate),
            critic_optimizer=self._optimizer(critic, c.critic_learning_rate),
            temperature_optimizer=Adam(temperature, c.temperature_learning_rate),
        )

    def _optimizer(self, network: MLP, learning_rate: float) -> Adam:
        c = self.config
        return Adam(network, learning_rate, weight_decay=c.weight_decay, max_gradient_norm=c.max_gradient_norm)

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        if self.discrete:
            return {}
        shape = (batch_size, self.spec.action_dim)
        return {"next_action": shape, "action": shape}

    def update(self, state: SACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step each of critics, actor and temperature, then one of the target."""
        (batch,) = batches
        metrics = self._critic_step(state, batch, noise)
        metrics |= self._actor_and_temperature_step(state, batch, noise)
        state.target_critic.move_towards(state.critic, self.config.target_rate)
        return metrics

    def _critic_step(self, state: SACState, batch: Batch, noise: Noise) -> Metrics:
        """Regress both critics on r + γ V'(s'), the soft value by the target critics."""
        observation, next_observation = (
            self.flat_observation(batch.observation),
            self.flat_observation(batch.next_observation),
        )
        with torch.no_grad():
            draws = noise.get("next_action")
            next_value, _ = self._soft_value(state, state.target_critic, next_observation, draws)
            target_q = batch.reward + batch.discount * next_value
        q = self._q_taken(state.critic, observation, batch.action)
        loss = (q - target_q.unsqueeze(1)).square().mean(dim=2).sum(dim=1)
        state.critic_optimizer.minimise(loss.sum())
        return {"critic_loss": loss.detach(), "q": q.detach().mean(dim=(1, 2)), "target_q": target_q.mean(dim=1)}

    def _actor_and_temperature_step(self, state: SACState, batch: Batch, noise: Noise) -> Metrics:
        """Raise the soft value; raise log α where the entropy is below its target, and lower it above."""
        observation = self.flat_observation(batch.observation)
        alpha = state.temperature.log_alpha.detach().exp().squeeze(1)
        value, entropy = self._soft_value(state, state.critic, observation, noise.get("action"))
        loss = -value.mean(dim=1)
        state.actor_optimizer.minimise(loss.sum())
        entropy = entropy.detach().mean(dim=1)
        # The gradient of log α · (entropy − target).
        state.temperature_optimizer.step([(entropy - self.target_entropy).unsqueeze(1)])
        return {"actor_loss": loss.detach(), "entropy": entropy, "alpha": alpha}

    def _soft_value(
        self, state: SACState, critic: MLP, observation: Tensor, draws: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """E[min_i Q_i(s, a) − α log π(a|s)] and −E[log π(a|s)], [S, B] each; differentiable by the actor only.

        Of a continuous action, one sample stands for the expectation; over discrete ones it is exact.
        """
        alpha = state.temperature.log_alpha.detach().exp()
        output = state.actor(observation)
        if draws is None:
            log_probs = output.log_softmax(dim=-1)
            probs = log_probs.exp()
            q = critic(observation, frozen=True).detach().amin(dim=1)
            entropy = -(probs * log_probs).sum(dim=-1)
            return (probs * q).sum(dim=-1) + alpha * entropy, entropy
        action, log_prob = squashed_gaussian_sample(*split_gaussian(output), draws)
        q = critic(torch.cat([observation, action], dim=-1), frozen=True).squeeze(-1).amin(dim=1)
        return q - alpha * log_prob, -log_prob

    def _q_taken(self, critic: MLP, observation: Tensor, action: Tensor) -> Tensor:
        """Both critics' values of the logged actions, [S, 2, B]."""
        if not self.discrete:
            return critic(torch.cat([observation, action], dim=-1)).squeeze(-1)
        chosen = (action - self.first_action)[:, None, :, None].expand(-1, 2, -1, -1)
        return critic(observation).gather(-1, chosen).squeeze(-1)

    @torch.no_grad()
    def act(self, state: SACState, observation: Observation, noise: Tensor | None = None) -> Tensor:
        """tanh of the mean, or the likeliest action; a sample of the policy where draws [S, N, A] are given."""
        output = state.actor(self.flat_observation(observation))
        if self.discrete:
            log_probs = split_categoricals(output, (self.spec.action_dim,))
            choice = categorical_mode(log_probs) if noise is None else categorical_sample(log_probs, noise)
            return choice.squeeze(-1) + self.first_action
        mean, log_std = split_gaussian(output)
        return (mean if noise is None else mean + log_std.exp() * noise).tanh()

    has_density = True

    @torch.no_grad()
    def log_prob(self, state: SACState, observation: Observation, action: Tensor) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1]."""
        output = state.actor(self.flat_observation(observation))
        if self.discrete:
            choice = (action - self.first_action).long().unsqueeze(-1)
            return categorical_log_prob(split_categoricals(output, (self.spec.action_dim,)), choice)
        return squashed_gaussian_log_prob(*split_gaussian(output), action)
