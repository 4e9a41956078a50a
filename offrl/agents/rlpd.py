"""Reinforcement learning with prior data (Ball, Smith, Kostrikov & Levine, 2023), https://arxiv.org/abs/2302.02948."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.fine_tuning import keep_steady
from offrl.agents.space_checks import require_bounded_box
from offrl.config.fields import (
    STRICT,
    Activation,
    Count,
    Finite,
    NonNegative,
    Positive,
    PositiveFraction,
    Probability,
    Widths,
)
from offrl.errors import RecipeError
from offrl.nn import MLP, Adam, FlatObservation, Schedule, seed_generators
from offrl.nn import distributions as dist
from offrl.nn.adam import ended_schedule
from offrl.nn.copy_weights import adopt_squashed_gaussian
from offrl.nn.temperature import Temperature
from offrl.types import Batch, CriticOnly, Density, Metrics, Noise, Observation, Scheduled, Spec, StartsFromPolicy


@dataclass(frozen=True)
class RLPDConfig(Schedule):
    """Options of RLPD, with the paper's values for locomotion unless noted.

    The data's half of every batch is the recipe's `online.offline_fraction = 0.5`, and so many critic steps for each
    environment step its `online.updates_per_step`. As great as `policy_delay`, there is one actor step for each
    environment step, which is the paper's way.

    Attributes:
        hidden: widths of the hidden layers of all networks; AntMaze and Adroit have three.
        activation: see `offrl.nn.MLP`.
        layer_norm: normalize the critics' hidden layers, which bounds what they make of actions unlike the data's.
        actor_learning_rate, critic_learning_rate, temperature_learning_rate: Adam's step sizes; 0 fixes a temperature.
        warmup_steps, constant_steps, decay_steps, decay_shape: of all step sizes, in critic steps (in the paper they
            stay); see `offrl.nn.Schedule`.
        discount: γ, per step.
        target_rate: τ of the target critics' Polyak averaging, with each critic step.
        critics: E, whose mean the actor follows.
        target_critics: Z, how many of them, drawn anew for each critic step, the least of which is the target's value;
            the paper has 1 on AntMaze.
        policy_delay: critic steps, each with a batch of its own, for each step of actor and temperature.
        entropy_in_targets: whether the value of the next state holds the entropy there; not on AntMaze and Adroit.
        initial_temperature: α at the start.
        target_entropy: the mean entropy, in nats, that the temperature holds the policy at; "auto" takes −A/2 for A
            components of an action.
    """

    __pydantic_config__ = STRICT

    hidden: Widths = (256, 256)
    activation: Activation = "relu"
    layer_norm: bool = True
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    temperature_learning_rate: NonNegative = 3e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    critics: Count = 10
    target_critics: Count = 2
    policy_delay: Count = 20
    entropy_in_targets: bool = True
    initial_temperature: Positive = 1.0
    target_entropy: Finite | Literal["auto"] = "auto"


@dataclass
class RLPDState:
    """All that training changes."""

    actor: MLP
    critic: MLP
    target_critic: MLP
    temperature: Temperature
    actor_optimizer: Adam
    critic_optimizer: Adam
    temperature_optimizer: Adam


class RLPD:
    """Soft actor-critic with an ensemble of normalized critics that take many steps for each one of the actor.

    It learns online from nothing; half of each batch is logged data, of which nothing is asked but that it be there.

    Observations and actions are flat vectors; actions span [-1, 1] (environment bounds are mapped outside), and the
    policy is a Gaussian squashed by tanh.

    Raises:
        SpaceMismatchError: actions aren't vectors with finite bounds.
        RecipeError: targets are to be of more critics than there are.
    """

    has_density = True
    adopted_options: ClassVar[tuple[str, ...]] = ("hidden", "activation")

    def __init__(self, config: RLPDConfig, spec: Spec) -> None:
        require_bounded_box(spec, "RLPD")
        if config.target_critics > config.critics:
            raise RecipeError(
                f"there are {config.critics} critics, and targets are to be the least of {config.target_critics}",
                where="agent.target_critics",
                hint="take fewer of them, or more agent.critics",
            )
        self.config, self.spec, self.discount = config, spec, config.discount
        self.batches_per_update = config.policy_delay
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        self.target_entropy = -spec.action_dim / 2 if config.target_entropy == "auto" else config.target_entropy
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> RLPDState:
        """Fresh networks for each seed; the target starts as a copy."""
        c, width, actions = self.config, self.flat_observation.width, self.spec.action_dim
        make = partial(MLP, hidden=c.hidden, generators=seed_generators(seeds), activation=c.activation)
        actor = make(width, 2 * actions).to(device)
        critic = make(width + actions, 1, ensemble=c.critics, layer_norm=c.layer_norm).to(device)
        temperature = Temperature(len(seeds), c.initial_temperature).to(device)
        slow = partial(Adam, schedule=c, stride=c.policy_delay)
        return RLPDState(
            actor=actor,
            critic=critic,
            target_critic=critic.clone(),
            temperature=temperature,
            actor_optimizer=slow(actor, c.actor_learning_rate),
            critic_optimizer=Adam(critic, c.critic_learning_rate, schedule=c),
            temperature_optimizer=slow(temperature, c.temperature_learning_rate),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """Draws of the policy's actions, and of the critics that targets are made of."""
        c, draws = self.config, (batch_size, self.spec.action_dim)
        return {"action": draws, "next_action": (c.policy_delay, *draws), "chosen": (c.policy_delay, c.critics)}

    def update(self, state: RLPDState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`policy_delay` critic steps, then one step each of actor and temperature, with the last batch."""
        metrics = self.update_critic(state, batches, noise)
        alpha = state.temperature.log_alpha.detach().exp().squeeze(1)
        loss, entropy = self.actor_loss(state, batches[-1], noise["action"])
        state.actor_optimizer.minimize(loss.sum())
        state.temperature_optimizer.minimize(self.temperature_loss(state, entropy).sum())
        return metrics | {"actor_loss": loss.detach(), "entropy": entropy, "alpha": alpha}

    def update_critic(self, state: RLPDState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step of the critics and their targets for each batch; the last one's metrics.

        And the errors of all, where batches are weighted.
        """
        draws = zip(noise["next_action"].unbind(1), noise["chosen"].unbind(1), strict=True)
        errors = []
        for batch, (action_draws, critic_draws) in zip(batches, draws, strict=True):
            target_q = self.targets(state, batch, action_draws, critic_draws)
            loss, q = self.critic_loss(state, batch, target_q)
            state.critic_optimizer.minimize(loss.sum())
            state.target_critic.move_towards(state.critic, self.config.target_rate)
            if batch.weight is not None:
                errors.append((q.detach() - target_q.unsqueeze(1)).abs().mean(dim=1))
        metrics = {"critic_loss": loss.detach(), "q": q.detach(), "target_q": target_q}
        return metrics | {"td_error": torch.stack(errors)} if errors else metrics

    @torch.no_grad()
    def targets(self, state: RLPDState, batch: Batch, action_draws: Tensor, critic_draws: Tensor) -> Tensor:
        """r + γ (min_{i ∈ Z} Q'_i(s', a') − α log π(a' | s')) with a' of the policy and Z drawn, [S, B]."""
        q, log_prob = self._values_and_log_prob(state, state.target_critic, batch.next_observation, action_draws)
        value = least_of_some(q, critic_draws, self.config.target_critics)
        if self.config.entropy_in_targets:
            value = value - state.temperature.log_alpha.exp() * log_prob
        return batch.reward + batch.discount * value

    def critic_loss(self, state: RLPDState, batch: Batch, target_q: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_i (Q_i(s, a) − y)², [S], for targets y [S, B], each transition with its weight; and the Q [S, E, B]."""
        q = state.critic(torch.cat([self.flat_observation(batch.observation), batch.action], dim=-1)).squeeze(-1)
        squares = (q - target_q.unsqueeze(1)).square()
        if batch.weight is not None:
            squares = squares * batch.weight.unsqueeze(1)
        return squares.mean(dim=2).sum(dim=1), q

    def actor_loss(self, state: RLPDState, batch: Batch, draws: Tensor) -> tuple[Tensor, Tensor]:
        """α log π(a | s) − 1/E Σ_i Q_i(s, a) with a of the policy, [S]; and the entropy, [S]."""
        q, log_prob = self._values_and_log_prob(state, state.critic, batch.observation, draws)
        alpha = state.temperature.log_alpha.detach().exp()
        return (alpha * log_prob - q.mean(dim=1)).mean(dim=1), -log_prob.detach().mean(dim=1)

    def temperature_loss(self, state: RLPDState, entropy: Tensor) -> Tensor:
        """α (H − its target), [S]: α falls where the entropy H [S] is above its target, and rises below."""
        return state.temperature.log_alpha.exp().squeeze(1) * (entropy - self.target_entropy)

    def _values_and_log_prob(
        self, state: RLPDState, critic: MLP, observation: Observation, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Q_i(s, a) of a sampled action, [S, E, B], and log π(a | s), [S, B]."""
        inputs = self.flat_observation(observation)
        action, log_prob = dist.squashed_gaussian_sample(state.actor(inputs), draws)
        return critic(torch.cat([inputs, action], dim=-1)).squeeze(-1), log_prob

    def initial_carry(self, state: RLPDState, count: int) -> tuple[()]:
        """Nothing: actions depend on the observation alone."""
        return ()

    def act(
        self,
        state: RLPDState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """tanh of the mean; with draws [S, N, A] a sample of the policy."""
        return dist.squashed_gaussian_action(state.actor(self.flat_observation(observation)), noise), carry

    @torch.no_grad()
    def log_prob(
        self,
        state: RLPDState,
        observation: Observation,
        action: Tensor,
        carry: tuple[()],
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1]."""
        output = state.actor(self.flat_observation(observation))
        return dist.squashed_gaussian_log_prob(*dist.split_gaussian(output), action)

    def ended_schedule(self, state: RLPDState) -> int:
        """The steps taken, where step sizes have fallen to 0."""
        return ended_schedule((state.actor_optimizer, state.critic_optimizer, state.temperature_optimizer))

    def adopt_policy(self, state: RLPDState, policy: MLP, kind: str) -> None:
        """Start the actor from a cloned policy; one without a spread gets that of the target entropy before squashing.

        Raises:
            RecipeError: the kind doesn't fit, or options of the two networks differ.
            SpaceMismatchError: the networks read observations of different widths.
        """
        adopt_squashed_gaussian("RLPD", state.actor, policy, kind, self.target_entropy / self.spec.action_dim)


def least_of_some(values: Tensor, draws: Tensor, count: int) -> Tensor:
    """The least value of a random subset of the critics, each subset of that size being as likely.

    Args:
        values: [S, E, B].
        draws: continuous ones, [S, E]; those of the least draws are chosen.
        count: size of the subset.

    Returns:
        [S, B].

    Example:
        >>> least_of_some(torch.tensor([[[1.0], [5.0], [3.0]]]), torch.tensor([[2.0, -1.0, 0.0]]), 2)
        tensor([[3.]])
    """
    chosen = draws.argsort(dim=1, stable=True)[:, :count]
    least: Tensor = values.gather(1, chosen.unsqueeze(-1).expand(-1, -1, values.shape[2])).amin(dim=1)
    return least


ALGORITHM = Algorithm(
    RLPDConfig,
    RLPD,
    feeds=("replay",),
    actions=("continuous",),
    provides=(Density, CriticOnly, StartsFromPolicy, Scheduled),
    summary="SAC from nothing with logged data in half of each batch, ten critics, many critic steps a step",
    td_errors=True,
    goes_on=keep_steady,
)
