"""Twin Delayed Deep Deterministic policy gradient (Fujimoto, van Hoof & Meger, 2018), https://arxiv.org/abs/1802.09477."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import ConfigDict
from torch import Tensor

from offrl.agents.requirements import require_bounded_box
from offrl.nn import MLP, Adam, FlatObservation, seed_generators
from offrl.options import Count, NonNegative, Positive, PositiveFraction, Probability, Widths
from offrl.types import Batch, Metrics, Noise, Observation, Spec


@dataclass(frozen=True)
class TD3Config:
    """Options of TD3, with the paper's values unless noted.

    Attributes:
        hidden: widths of the hidden layers of actor and critics.
        actor_learning_rate, critic_learning_rate: Adam's step sizes.
        discount: γ, per step.
        target_rate: τ of the target networks' Polyak averaging.
        policy_delay: critic steps per actor step.
        target_noise, target_noise_clip: standard deviation and bound of the target policy smoothing noise, where
            actions span [-1, 1].
        exploration_noise: standard deviation of the noise added to actions while collecting.
        layer_norm: normalise the critics' hidden layers (not in the paper; steadies long runs).
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    hidden: Widths = (256, 256)
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    policy_delay: Count = 2
    target_noise: NonNegative = 0.2
    target_noise_clip: NonNegative = 0.5
    exploration_noise: NonNegative = 0.1
    layer_norm: bool = False


@dataclass
class TD3State:
    """All that training changes."""

    actor: MLP
    critic: MLP
    target_actor: MLP
    target_critic: MLP
    actor_optimizer: Adam
    critic_optimizer: Adam


class TD3:
    """Deterministic actor, twin critics, delayed policy updates, target policy smoothing.

    Observations and actions are flat vectors; actions span [-1, 1] (environment bounds are mapped outside).
    """

    def __init__(self, config: TD3Config, spec: Spec) -> None:
        require_bounded_box(spec, "TD3")
        self.config, self.spec = config, spec
        self.batches_per_update = config.policy_delay
        self.exploration_shape: tuple[int, ...] = (spec.action_dim,)
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> TD3State:
        """Fresh networks for each seed; the targets start as copies."""
        c, generators = self.config, seed_generators(seeds)
        observations, actions = self.flat_observation.width, self.spec.action_dim
        actor = MLP(observations, actions, c.hidden, generators).to(device)
        critic = MLP(observations + actions, 1, c.hidden, generators, ensemble=2, layer_norm=c.layer_norm).to(device)
        return TD3State(
            actor=actor,
            critic=critic,
            target_actor=actor.clone(),
            target_critic=critic.clone(),
            actor_optimizer=Adam(actor, c.actor_learning_rate),
            critic_optimizer=Adam(critic, c.critic_learning_rate),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        return {"target_policy": (self.config.policy_delay, batch_size, self.spec.action_dim)}

    def update(self, state: TD3State, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`policy_delay` critic steps, then one actor step and one step of the targets."""
        metrics: Metrics = {}
        for batch, smoothing in zip(batches, noise["target_policy"].unbind(1), strict=True):
            metrics |= self._critic_step(state, batch, smoothing)
        metrics |= self._actor_step(state, batches[-1])
        state.target_actor.move_towards(state.actor, self.config.target_rate)
        state.target_critic.move_towards(state.critic, self.config.target_rate)
        return metrics

    def _critic_step(self, state: TD3State, batch: Batch, smoothing: Tensor) -> Metrics:
        """Regress both critics on r + γ min_i Q'_i(s', π'(s') + ε)."""
        c = self.config
        observation, next_observation = (
            self.flat_observation(batch.observation),
            self.flat_observation(batch.next_observation),
        )
        with torch.no_grad():
            epsilon = (smoothing * c.target_noise).clamp(-c.target_noise_clip, c.target_noise_clip)
            next_action = (state.target_actor(next_observation).tanh() + epsilon).clamp(-1.0, 1.0)
            next_q = q_values(state.target_critic, next_observation, next_action).amin(dim=1)
            target_q = batch.reward + batch.discount * next_q
        q = q_values(state.critic, observation, batch.action)
        loss = (q - target_q.unsqueeze(1)).square().mean(dim=2).sum(dim=1)
        state.critic_optimizer.minimise(loss.sum())
        return {"critic_loss": loss.detach(), "q": q.detach().mean(dim=(1, 2)), "target_q": target_q.mean(dim=1)}

    def _actor_step(self, state: TD3State, batch: Batch) -> Metrics:
        """Raise the first critic's value of the actor's actions."""
        observation = self.flat_observation(batch.observation)
        action = state.actor(observation).tanh()
        loss = -q_values(state.critic, observation, action, members=1, frozen=True).mean(dim=(1, 2))
        state.actor_optimizer.minimise(loss.sum())
        return {"actor_loss": loss.detach()}

    @torch.no_grad()
    def act(self, state: TD3State, observation: Observation, noise: Tensor | None = None) -> Tensor:
        """π(s), plus Gaussian exploration noise where draws [S, N, A] are given; clipped to [-1, 1]."""
        action = state.actor(self.flat_observation(observation)).tanh()
        if noise is not None:
            action = action + self.config.exploration_noise * noise
        return action.clamp(-1.0, 1.0)


def q_values(critic: MLP, observation: Tensor, action: Tensor, members: int = 2, frozen: bool = False) -> Tensor:
    """The values of the first `members` critics, [S, members, B]; `frozen` differentiates by the action only."""
    return critic(torch.cat([observation, action], dim=-1), members=members, frozen=frozen).squeeze(-1)
