"""ReBRAC, behavior-regularized actor-critic revisited (Tarasov, Kurenkov, Nikulin & Kolesnikov, 2023).

https://arxiv.org/abs/2305.09836
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.fine_tuning import LEFT_OF_ANCHOR, SMALL_ACTOR_STEP, without_decay
from offrl.agents.space_checks import require_bounded_box
from offrl.config.fields import (
    STRICT,
    Activation,
    Count,
    NonNegative,
    Positive,
    PositiveFraction,
    Probability,
    Widths,
)
from offrl.nn import MLP, Adam, FlatObservation, Schedule, seed_generators
from offrl.nn.adam import ended_schedule
from offrl.nn.copy_weights import adopt_layers, require_kind
from offrl.types import (
    NEXT_ACTION,
    Batch,
    CriticOnly,
    Metrics,
    Noise,
    Observation,
    Scheduled,
    Spec,
    StartsFromPolicy,
)


@dataclass(frozen=True)
class ReBRACConfig(Schedule):
    """Options of ReBRAC, with the paper's values, which go with batches of 1,024.

    The two penalties are the paper's to choose by data set, among 0.001 to 0.1 for the actor's and 0 to 0.5 for the
    critic's on locomotion (its table stands in the recipe `rebrac/offline`); the defaults are those that it chose most
    often.

    Attributes:
        hidden: widths of the hidden layers of actor and critics.
        activation: of actor and critics, see `offrl.nn.MLP`.
        layer_norm: normalize the critics' hidden layers; before the activation, where the authors' code does it behind.
        actor_learning_rate, critic_learning_rate: Adam's step sizes.
        warmup_steps, constant_steps, decay_steps, decay_shape: of both, in critic steps (in the paper they stay); see
            `offrl.nn.Schedule`.
        discount: γ, per step.
        target_rate: τ of the target networks' Polyak averaging.
        policy_delay: critic steps per actor step.
        target_noise, target_noise_clip: standard deviation and bound of the target policy smoothing noise, where
            actions span [-1, 1].
        actor_penalty: β₁ of the squared distance of the policy's action from the batch's, in the actor's loss.
        critic_penalty: β₂ of the squared distance of the next action from the next one in the data, in the targets.
            It is left out where the data has no next action.
        penalty_decay: factor on both penalties with each actor step, to let go of the data when fine-tuning.
        exploration_noise: standard deviation of the noise added to actions while collecting.
    """

    __pydantic_config__ = STRICT

    hidden: Widths = (256, 256, 256)
    activation: Activation = "relu"
    layer_norm: bool = True
    actor_learning_rate: Positive = 1e-3
    critic_learning_rate: Positive = 1e-3
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    policy_delay: Count = 2
    target_noise: NonNegative = 0.2
    target_noise_clip: NonNegative = 0.5
    actor_penalty: NonNegative = 0.01
    critic_penalty: NonNegative = 0.01
    penalty_decay: Probability = 1.0
    exploration_noise: NonNegative = 0.1


@dataclass
class ReBRACState:
    """All that training changes; `penalty_weight` [S] is what is left of both penalties."""

    actor: MLP
    critic: MLP
    target_actor: MLP
    target_critic: MLP
    actor_optimizer: Adam
    critic_optimizer: Adam
    penalty_weight: Tensor


class ReBRAC:
    """TD3 with normalized critics, deeper networks, and distances from the data in both losses.

    The actor is held near the actions of the data, as in TD3+BC; and what the critics say of the next action counts the
    less, the farther it is from what was done next.

    Observations and actions are flat vectors; actions span [-1, 1] (environment bounds are mapped outside).

    Raises:
        SpaceMismatchError: actions aren't vectors with finite bounds.
    """

    adopted_options: ClassVar[tuple[str, ...]] = ("hidden", "activation")
    """Those of a policy that `adopt_policy` takes."""

    def __init__(self, config: ReBRACConfig, spec: Spec) -> None:
        require_bounded_box(spec, "ReBRAC")
        self.config, self.spec, self.discount = config, spec, config.discount
        self.batches_per_update = config.policy_delay
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> ReBRACState:
        """Fresh networks for each seed; the targets start as copies.

        All layers start as `offrl.nn.MLP`'s do; the authors draw the last ones from ±0.001.
        """
        c, generators = self.config, seed_generators(seeds)
        observations, actions = self.flat_observation.width, self.spec.action_dim
        actor = MLP(observations, actions, c.hidden, generators, activation=c.activation).to(device)
        critic = MLP(
            observations + actions,
            1,
            c.hidden,
            generators,
            ensemble=2,
            activation=c.activation,
            layer_norm=c.layer_norm,
        ).to(device)
        return ReBRACState(
            actor=actor,
            critic=critic,
            target_actor=actor.clone(),
            target_critic=critic.clone(),
            actor_optimizer=Adam(actor, c.actor_learning_rate, schedule=c, stride=c.policy_delay),
            critic_optimizer=Adam(critic, c.critic_learning_rate, schedule=c),
            penalty_weight=torch.ones(len(seeds), device=device),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """Draws that smooth the target policy."""
        return {"target_policy": (self.config.policy_delay, batch_size, self.spec.action_dim)}

    def update(self, state: ReBRACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`policy_delay` critic steps, then one actor step and one step of the targets."""
        metrics = self._critic_steps(state, batches, noise)
        loss, distance = self.actor_loss(state, batches[-1])
        state.actor_optimizer.minimize(loss.sum())
        if self.config.penalty_decay != 1.0:
            state.penalty_weight.mul_(self.config.penalty_decay)
        self._move_targets(state)
        return metrics | {"actor_loss": loss.detach(), "bc_loss": distance}

    def update_critic(self, state: ReBRACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`update` without the actor step: critics catch up with the policy before it moves."""
        metrics = self._critic_steps(state, batches, noise)
        self._move_targets(state)
        return metrics

    def _critic_steps(self, state: ReBRACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step for each batch; the last one's metrics."""
        # The target networks stand still within a cycle, so all its targets come from one pass.
        targets, distance = self.targets(state, batches, noise["target_policy"])
        for batch, target_q in zip(batches, targets.unbind(1), strict=True):
            loss, q = self.critic_loss(state, batch, target_q)
            state.critic_optimizer.minimize(loss.sum())
        return {"critic_loss": loss.detach(), "q": q.detach(), "target_q": target_q, "next_distance": distance}

    @torch.no_grad()
    def targets(self, state: ReBRACState, batches: Sequence[Batch], draws: Tensor) -> tuple[Tensor, Tensor]:
        """r + γ (min_i Q'_i(s', ã) − β₂ |ã − a'|²) with ã = π'(s') + ε, [S, C, B]; and the mean distance, [S].

        a' is what was done next in the data; where nothing was, the distance is left out.
        """
        c = self.config
        observation = torch.cat([self.flat_observation(batch.next_observation) for batch in batches], dim=1)
        done_next = torch.cat([_known(batch.next_action) for batch in batches], dim=1)
        known = torch.cat([_known(batch.next_action_known) for batch in batches], dim=1)
        epsilon = (draws.flatten(1, 2) * c.target_noise).clamp(-c.target_noise_clip, c.target_noise_clip)
        action = (state.target_actor(observation).tanh() + epsilon).clamp(-1.0, 1.0)
        value = state.target_critic(torch.cat([observation, action], dim=-1)).amin(dim=1).squeeze(-1)
        distance = (action - done_next).square().sum(dim=-1) * known
        weight = (c.critic_penalty * state.penalty_weight).unsqueeze(1)
        reward = torch.stack([batch.reward for batch in batches], dim=1)
        discount = torch.stack([batch.discount for batch in batches], dim=1)
        return reward + discount * (value - weight * distance).view(reward.shape), distance.mean(dim=1)

    def critic_loss(self, state: ReBRACState, batch: Batch, target_q: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_i (Q_i(s, a) − y)², [S], for targets y [S, B]; and each critic's Q(s, a), [S, 2, B]."""
        pairs = torch.cat([self.flat_observation(batch.observation), batch.action], dim=-1)
        q = state.critic(pairs).squeeze(-1)
        return (q - target_q.unsqueeze(1)).square().mean(dim=2).sum(dim=1), q

    def actor_loss(self, state: ReBRACState, batch: Batch) -> tuple[Tensor, Tensor]:
        """β₁ |π(s) − a|² − λ min_i Q_i(s, π(s)), [S], with λ = 1 / mean |min_i Q_i|; and the mean distance, [S]."""
        observation = self.flat_observation(batch.observation)
        action = state.actor(observation).tanh()
        q = state.critic(torch.cat([observation, action], dim=-1)).amin(dim=1).squeeze(-1)
        scale = 1.0 / q.detach().abs().mean(dim=1)
        distance = (action - batch.action).square().sum(dim=-1).mean(dim=1)
        weight = self.config.actor_penalty * state.penalty_weight
        return weight * distance - scale * q.mean(dim=1), distance.detach()

    def _move_targets(self, state: ReBRACState) -> None:
        state.target_actor.move_towards(state.actor, self.config.target_rate)
        state.target_critic.move_towards(state.critic, self.config.target_rate)

    def initial_carry(self, state: ReBRACState, count: int) -> tuple[()]:
        """Nothing: actions depend on the observation alone."""
        return ()

    def act(
        self,
        state: ReBRACState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """π(s), plus Gaussian exploration noise where draws [S, N, A] are given; clipped to [-1, 1]."""
        action: Tensor = state.actor(self.flat_observation(observation)).tanh()
        if noise is not None:
            action = (action + self.config.exploration_noise * noise).clamp(-1.0, 1.0)
        return action, carry

    def ended_schedule(self, state: ReBRACState) -> int:
        """The steps taken, where step sizes have fallen to 0."""
        return ended_schedule((state.actor_optimizer, state.critic_optimizer))

    def adopt_policy(self, state: ReBRACState, policy: MLP, kind: str) -> None:
        """Start the actor, and its target, from a cloned policy of the same hidden widths.

        Args:
            state: changed in place; the critics stay as they are.
            policy: a network of `offrl.agents.bc`, its outputs being (the mean of) the action before tanh.
            kind: "deterministic" or "squashed_gaussian", whose greedy actions the actor then takes.

        Raises:
            SpaceMismatchError: it reads other observations.
            RecipeError: it is of another kind, or of other widths, activation or number of seeds.
        """
        require_kind("ReBRAC", kind, ("deterministic", "squashed_gaussian"))
        adopt_layers(state.actor, policy)
        state.target_actor.flat.copy_(state.actor.flat)


def _known(column: Tensor | None) -> Tensor:
    """What batches hold since the record asks for it."""
    assert column is not None
    return column


def goes_on(options: ReBRACConfig, updates: float, pretrained: bool) -> ReBRACConfig:
    """Options for going on online from a run's own state: penalties fall to half of what they are, as in the paper.

    By a factor in each actor step, where the paper has a straight line. A policy that was pretrained on data alone
    moves in small steps.
    """
    options = without_decay(options)
    if pretrained:
        options = dataclasses.replace(options, actor_learning_rate=min(options.actor_learning_rate, SMALL_ACTOR_STEP))
    actor_steps = updates / options.policy_delay
    if options.penalty_decay == 1.0 and actor_steps >= 1.0:
        options = dataclasses.replace(options, penalty_decay=LEFT_OF_ANCHOR ** (1.0 / actor_steps))
    return options


def spares_clone(options: ReBRACConfig) -> ReBRACConfig:
    """Options under which fresh critics don't spoil a cloned policy: small steps, near what the batches hold."""
    steady: ReBRACConfig = without_decay(options)
    return dataclasses.replace(
        steady, actor_learning_rate=SMALL_ACTOR_STEP, critic_learning_rate=3e-4, actor_penalty=1.0
    )


ALGORITHM = Algorithm(
    ReBRACConfig,
    ReBRAC,
    feeds=("dataset", "replay"),
    actions=("continuous",),
    provides=(CriticOnly, StartsFromPolicy, Scheduled),
    columns=(NEXT_ACTION,),
    summary="TD3+BC with normalized, deeper critics and a distance from the data in the critics' targets too",
    goes_on=goes_on,
    spares_clone=spares_clone,
)
