"""Advantage-weighted actor-critic (Nair, Gupta, Dalal & Levine, 2020), https://arxiv.org/abs/2006.09359."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.fine_tuning import keep_steady
from offrl.agents.space_checks import require_bounded_box
from offrl.config.fields import (
    STRICT,
    Activation,
    Finite,
    NonNegative,
    Positive,
    PositiveFraction,
    Probability,
    Widths,
)
from offrl.nn import MLP, Adam, FlatObservation, Schedule, seed_generators
from offrl.nn.adam import ended_schedule
from offrl.nn.copy_weights import adopt_layers, require_kind
from offrl.nn.policy_heads import GaussianActor
from offrl.types import Batch, CriticOnly, Density, Metrics, Noise, Observation, Scheduled, Spec, StartsFromPolicy


@dataclass(frozen=True)
class AWACConfig(Schedule):
    """Options of AWAC, with the values of the authors' code for locomotion unless noted.

    Attributes:
        policy: "gaussian" around the tanh of a network's output, with a spread that is the same in all states, as in
            the authors' code; "squashed_gaussian", the same before a tanh, whose samples have a density within the
            bounds.
        hidden: widths of the hidden layers of all networks; the authors' policy has two layers more.
        activation: see `offrl.nn.MLP`.
        layer_norm: normalize the critics' hidden layers (not in the paper).
        actor_learning_rate, critic_learning_rate: Adam's step sizes.
        weight_decay: decoupled decay rate of the policy's weights (in the authors' code part of the loss).
        warmup_steps, constant_steps, decay_steps, decay_shape: of all step sizes (in the paper they stay), see
            `offrl.nn.Schedule`.
        discount: γ, per step.
        target_rate: τ of the target critics' Polyak averaging.
        temperature: λ: large values clone all of the data, small ones only the best of it. The authors took 0.3 to 2.
        initial_log_std: of the policy, where actions span [-1, 1].
    """

    __pydantic_config__ = STRICT

    policy: Literal["gaussian", "squashed_gaussian"] = "gaussian"
    hidden: Widths = (256, 256)
    activation: Activation = "relu"
    layer_norm: bool = False
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    weight_decay: NonNegative = 1e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    temperature: Positive = 1.0
    initial_log_std: Finite = 0.0


@dataclass
class AWACState:
    """All that training changes."""

    actor: GaussianActor
    critic: MLP
    target_critic: MLP
    actor_optimizer: Adam
    critic_optimizer: Adam


class AWAC:
    """A policy that clones each action by how much better it is than the policy's own, and twin critics.

    The policy only ever learns actions that are in the data or in the replay, so that it never climbs towards what
    critics merely imagine, and goes on online as it learned offline.

    Observations and actions are flat vectors; actions span [-1, 1] (environment bounds are mapped outside).

    Raises:
        SpaceMismatchError: actions aren't vectors with finite bounds.
    """

    batches_per_update = 1
    adopted_options: ClassVar[tuple[str, ...]] = ("hidden", "activation")

    def __init__(self, config: AWACConfig, spec: Spec) -> None:
        by_advantage = "iql, whose policy clones each action by its advantage too"
        require_bounded_box(spec, "AWAC", {"discrete": by_advantage, "multi-discrete": by_advantage})
        self.config, self.spec, self.discount = config, spec, config.discount
        self.squashed = config.policy == "squashed_gaussian"
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> AWACState:
        """Fresh networks for each seed; the target starts as a copy."""
        c, generators = self.config, seed_generators(seeds)
        observations, actions = self.flat_observation.width, self.spec.action_dim
        mean = MLP(observations, actions, c.hidden, generators, activation=c.activation)
        actor = GaussianActor(mean, actions, c.initial_log_std, squashed=self.squashed, bounded=True).to(device)
        critic = MLP(
            observations + actions,
            1,
            c.hidden,
            generators,
            ensemble=2,
            activation=c.activation,
            layer_norm=c.layer_norm,
        ).to(device)
        return AWACState(
            actor=actor,
            critic=critic,
            target_critic=critic.clone(),
            actor_optimizer=Adam(actor, c.actor_learning_rate, weight_decay=c.weight_decay, schedule=c),
            critic_optimizer=Adam(critic, c.critic_learning_rate, schedule=c),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """Draws of the policy's actions."""
        draws = (batch_size, self.spec.action_dim)
        return {"action": draws, "next_action": draws}

    def update(self, state: AWACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step of the critics and their targets, then one of the actor."""
        metrics = self.update_critic(state, batches, noise)
        loss, advantage = self.actor_loss(state, batches[0], noise["action"])
        state.actor_optimizer.minimize(loss.sum())
        return metrics | {"actor_loss": loss.detach(), "advantage": advantage}

    def update_critic(self, state: AWACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same with the policy left as it is."""
        (batch,) = batches
        loss, q = self.critic_loss(state, batch, self.targets(state, batch, noise["next_action"]))
        state.critic_optimizer.minimize(loss.sum())
        state.target_critic.move_towards(state.critic, self.config.target_rate)
        return {"critic_loss": loss.detach(), "q": q.detach()}

    @torch.no_grad()
    def targets(self, state: AWACState, batch: Batch, draws: Tensor) -> Tensor:
        """r + γ min_i Q'_i(s', a') with a' of the policy, [S, B]."""
        action = self._action(state, batch.next_observation, draws)
        value = self._lower_q(state.target_critic, batch.next_observation, action)
        return batch.reward + batch.discount * value

    def critic_loss(self, state: AWACState, batch: Batch, target_q: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_i (Q_i(s, a) − y)², [S], for targets y [S, B]; and each critic's Q(s, a), [S, 2, B]."""
        q = state.critic(torch.cat([self.flat_observation(batch.observation), batch.action], dim=-1)).squeeze(-1)
        return (q - target_q.unsqueeze(1)).square().mean(dim=2).sum(dim=1), q

    def actor_loss(self, state: AWACState, batch: Batch, draws: Tensor) -> tuple[Tensor, Tensor]:
        """−log π(a | s) exp(A(s, a) / λ) / Z, [S], the paper's equation 13; and A(s, a), [S, B].

        A(s, a) = Q(s, a) − Q(s, π(s)), by the lower critic. Z makes the weights of a batch average 1, as in the
        authors' code: no exponential overflows, whatever the scale of the rewards.
        """
        with torch.no_grad():
            baseline = self._lower_q(state.critic, batch.observation, self._action(state, batch.observation, draws))
            advantage = self._lower_q(state.critic, batch.observation, batch.action) - baseline
            weight = (advantage / self.config.temperature).softmax(dim=1)
        log_prob = state.actor.log_density(self._policy(state, batch.observation), batch.action)
        return -(weight * log_prob).sum(dim=1), advantage

    def _lower_q(self, critic: MLP, observation: Observation, action: Tensor) -> Tensor:
        """min_i Q_i(s, a), [S, B]."""
        q: Tensor = critic(torch.cat([self.flat_observation(observation), action], dim=-1)).amin(dim=1).squeeze(-1)
        return q

    def _policy(self, state: AWACState, observation: Observation) -> tuple[Tensor, ...]:
        """The action distributions."""
        return state.actor.distribution(self._mean(state, observation))

    def _mean(self, state: AWACState, observation: Observation) -> Tensor:
        """Of the Gaussian, which a squashed one has before its tanh."""
        output: Tensor = state.actor.network(self.flat_observation(observation))
        return output if self.squashed else output.tanh()

    def _action(self, state: AWACState, observation: Observation, noise: Tensor | None) -> Tensor:
        """The mean, or a sample; clipped to [-1, 1], since critics learn of what was executed."""
        return state.actor.act(self._mean(state, observation), noise).clamp(-1.0, 1.0)

    def initial_carry(self, state: AWACState, count: int) -> tuple[()]:
        """Nothing: actions depend on the observation alone."""
        return ()

    def act(
        self,
        state: AWACState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """The policy's mean; with draws [S, N, A] a sample, clipped to [-1, 1]."""
        return self._action(state, observation, noise), carry

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: those that bounds clip have none."""
        return self.squashed

    @torch.no_grad()
    def log_prob(
        self,
        state: AWACState,
        observation: Observation,
        action: Tensor,
        carry: tuple[()],
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1]."""
        return state.actor.log_density(self._policy(state, observation), action)

    def ended_schedule(self, state: AWACState) -> int:
        """The steps taken, where step sizes have fallen to 0."""
        return ended_schedule((state.actor_optimizer, state.critic_optimizer))

    def adopt_policy(self, state: AWACState, policy: MLP, kind: str) -> None:
        """Start the actor's mean from a cloned policy of the same hidden widths; its spread stays.

        Raises:
            SpaceMismatchError: it reads other observations.
            RecipeError: it is of another kind, or of other widths, activation or number of seeds.
        """
        require_kind("AWAC", kind, ("deterministic", "squashed_gaussian"))
        adopt_layers(state.actor.network, policy)


ALGORITHM = Algorithm(
    AWACConfig,
    AWAC,
    feeds=("dataset", "replay"),
    actions=("continuous",),
    provides=(Density, CriticOnly, StartsFromPolicy, Scheduled),
    summary="a policy that clones each action by its advantage (`agent.temperature`)",
    goes_on=keep_steady,
)
