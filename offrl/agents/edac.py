"""Ensemble-diversified actor-critic and SAC-N (An, Moon, Kim & Song, 2021), https://arxiv.org/abs/2110.01548."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
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
from offrl.nn import distributions as dist
from offrl.nn.adam import ended_schedule
from offrl.nn.copy_weights import adopt_squashed_gaussian
from offrl.nn.temperature import Temperature
from offrl.types import Batch, CriticOnly, Density, Metrics, Noise, Observation, Scheduled, Spec, StartsFromPolicy


@dataclass(frozen=True)
class EDACConfig(Schedule):
    """Options of EDAC, with the paper's values for locomotion unless noted; SAC-N is `diversity=0` with more critics.

    Attributes:
        hidden: widths of the hidden layers of all networks.
        activation: see `offrl.nn.MLP`.
        actor_learning_rate, critic_learning_rate, temperature_learning_rate: Adam's step sizes; 0 fixes a temperature.
        warmup_steps, constant_steps, decay_steps, decay_shape: of all step sizes (in the paper they stay), see
            `offrl.nn.Schedule`.
        discount: γ, per step.
        target_rate: τ of the target critics' Polyak averaging.
        critics: N, whose least value counts. The paper has 10, and 50 on Hopper; SAC-N 20, 10 and 500 on HalfCheetah,
            Walker2d and Hopper.
        diversity: η, the weight of the cosines between the critics' slopes with respect to the data's actions: 0
            leaves them out. The paper has 1, and 5 on some data sets.
        initial_temperature: α at the start.
        target_entropy: the mean entropy, in nats, that the temperature holds the policy at; "auto" takes −A for A
            components of an action.
    """

    __pydantic_config__ = STRICT

    hidden: Widths = (256, 256, 256)
    activation: Activation = "relu"
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    temperature_learning_rate: NonNegative = 3e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    critics: Annotated[int, Ge(2)] = 10
    diversity: NonNegative = 1.0
    initial_temperature: Positive = 1.0
    target_entropy: Finite | Literal["auto"] = "auto"


@dataclass
class EDACState:
    """All that training changes."""

    actor: MLP
    critic: MLP
    target_critic: MLP
    temperature: Temperature
    actor_optimizer: Adam
    critic_optimizer: Adam
    temperature_optimizer: Adam


class EDAC:
    """Soft actor-critic by the least value of many critics, which are kept from agreeing by their slopes.

    Where the data holds no actions critics differ, so that the least of them is low there, and the policy stays with
    what the data shows. Critics whose slopes point the same way would hide that; pushing the slopes apart does with
    tens of critics what takes hundreds of independent ones.

    Observations and actions are flat vectors; actions span [-1, 1] (environment bounds are mapped outside), and the
    policy is a Gaussian squashed by tanh.

    Raises:
        SpaceMismatchError: actions aren't vectors with finite bounds.
    """

    batches_per_update = 1
    has_density = True
    adopted_options: ClassVar[tuple[str, ...]] = ("hidden", "activation")

    def __init__(self, config: EDACConfig, spec: Spec) -> None:
        require_bounded_box(spec, "EDAC")
        self.config, self.spec, self.discount = config, spec, config.discount
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        self.target_entropy = -float(spec.action_dim) if config.target_entropy == "auto" else config.target_entropy
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> EDACState:
        """Fresh networks for each seed; the target starts as a copy.

        All layers start as `offrl.nn.MLP`'s do; the authors draw the last ones from ±0.003.
        """
        c, width, actions = self.config, self.flat_observation.width, self.spec.action_dim
        make = partial(MLP, hidden=c.hidden, generators=seed_generators(seeds), activation=c.activation)
        actor = make(width, 2 * actions).to(device)
        critic = make(width + actions, 1, ensemble=c.critics).to(device)
        temperature = Temperature(len(seeds), c.initial_temperature).to(device)
        adam = partial(Adam, schedule=c)
        return EDACState(
            actor=actor,
            critic=critic,
            target_critic=critic.clone(),
            temperature=temperature,
            actor_optimizer=adam(actor, c.actor_learning_rate),
            critic_optimizer=adam(critic, c.critic_learning_rate),
            temperature_optimizer=adam(temperature, c.temperature_learning_rate),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """Draws of the policy's actions."""
        draws = (batch_size, self.spec.action_dim)
        return {"action": draws, "next_action": draws}

    def update(self, state: EDACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step each of temperature, actor, critics and their targets, in the order of the authors' code."""
        loss, entropy = self.actor_loss(state, batches[0], noise["action"])
        alpha = state.temperature.log_alpha.detach().exp().squeeze(1)
        state.temperature_optimizer.minimize(self.temperature_loss(state, entropy).sum())
        state.actor_optimizer.minimize(loss.sum())
        metrics = self.update_critic(state, batches, noise)
        return metrics | {"actor_loss": loss.detach(), "entropy": entropy, "alpha": alpha}

    def update_critic(self, state: EDACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same with the policy and its temperature left as they are."""
        (batch,) = batches
        loss, metrics = self.critic_loss(state, batch, self.targets(state, batch, noise["next_action"]))
        state.critic_optimizer.minimize(loss.sum())
        state.target_critic.move_towards(state.critic, self.config.target_rate)
        return metrics | {"critic_loss": loss.detach()}

    def actor_loss(self, state: EDACState, batch: Batch, draws: Tensor) -> tuple[Tensor, Tensor]:
        """α log π(a | s) − min_i Q_i(s, a) with a of the policy, [S]; and the entropy, [S]."""
        value, log_prob = self._value_and_log_prob(state, state.critic, batch.observation, draws)
        alpha = state.temperature.log_alpha.detach().exp()
        return (alpha * log_prob - value).mean(dim=1), -log_prob.detach().mean(dim=1)

    def temperature_loss(self, state: EDACState, entropy: Tensor) -> Tensor:
        """log α (H − its target), [S]: α falls where the entropy H [S] is above its target, and rises below."""
        return state.temperature.log_alpha.squeeze(1) * (entropy - self.target_entropy)

    @torch.no_grad()
    def targets(self, state: EDACState, batch: Batch, draws: Tensor) -> Tensor:
        """r + γ (min_i Q'_i(s', a') − α log π(a' | s')) with a' of the policy, [S, B]."""
        value, log_prob = self._value_and_log_prob(state, state.target_critic, batch.next_observation, draws)
        alpha = state.temperature.log_alpha.exp()
        return batch.reward + batch.discount * (value - alpha * log_prob)

    def critic_loss(self, state: EDACState, batch: Batch, target_q: Tensor) -> tuple[Tensor, Metrics]:
        """Σ_i (Q_i(s, a) − y)² + η · (cosines of the slopes), [S], for targets y [S, B]; and metrics.

        Squares count by their transitions' weights, where batches have some.
        """
        c, observation = self.config, self.flat_observation(batch.observation)
        observations, actions = (
            part.unsqueeze(1).expand(-1, c.critics, -1, -1) for part in (observation, batch.action)
        )
        if c.diversity:
            # An input of each critic's own, so that slopes are told apart.
            actions = actions.clone().requires_grad_()
        q = state.critic(torch.cat([observations, actions], dim=-1)).squeeze(-1)
        error = q - target_q.unsqueeze(1)
        squares = error.square()
        metrics = {"q": q.detach(), "target_q": target_q, "q_spread": q.detach().std(dim=1)}
        if batch.weight is not None:
            squares = squares * batch.weight.unsqueeze(1)
            metrics["td_error"] = error.detach().abs().mean(dim=1).unsqueeze(0)
        loss = squares.mean(dim=2).sum(dim=1)
        if not c.diversity:
            return loss, metrics
        (slopes,) = torch.autograd.grad(q.sum(), actions, create_graph=True)
        cosines = mean_cosine(slopes)
        return loss + c.diversity * cosines, metrics | {"cosines": cosines.detach()}

    def _value_and_log_prob(
        self, state: EDACState, critic: MLP, observation: Observation, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """min_i Q_i(s, a) and log π(a | s) of a sampled action, [S, B] each."""
        inputs = self.flat_observation(observation)
        action, log_prob = dist.squashed_gaussian_sample(state.actor(inputs), draws)
        value: Tensor = critic(torch.cat([inputs, action], dim=-1)).amin(dim=1).squeeze(-1)
        return value, log_prob

    def initial_carry(self, state: EDACState, count: int) -> tuple[()]:
        """Nothing: actions depend on the observation alone."""
        return ()

    def act(
        self,
        state: EDACState,
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
        state: EDACState,
        observation: Observation,
        action: Tensor,
        carry: tuple[()],
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1]."""
        output = state.actor(self.flat_observation(observation))
        return dist.squashed_gaussian_log_prob(*dist.split_gaussian(output), action)

    def ended_schedule(self, state: EDACState) -> int:
        """The steps taken, where step sizes have fallen to 0."""
        return ended_schedule((state.actor_optimizer, state.critic_optimizer, state.temperature_optimizer))

    def adopt_policy(self, state: EDACState, policy: MLP, kind: str) -> None:
        """Start the actor from a cloned policy; one without a spread gets that of the target entropy before squashing.

        Raises:
            RecipeError: the kind doesn't fit, or options of the two networks differ.
            SpaceMismatchError: the networks read observations of different widths.
        """
        adopt_squashed_gaussian("EDAC", state.actor, policy, kind, self.target_entropy / self.spec.action_dim)


def mean_cosine(slopes: Tensor) -> Tensor:
    """1/(N − 1) Σ_i Σ_{j≠i} cos(∇_a Q_i, ∇_a Q_j), averaged over the batch: the paper's diversity loss.

    Args:
        slopes: ∇_a Q_i(s, a), [S, N, B, A].

    Returns:
        [S], between −N/(N − 1) and N.

    Example:
        >>> mean_cosine(torch.tensor([[[[1.0, 0.0]], [[2.0, 0.0]], [[0.0, 3.0]]]]))
        tensor([1.])
    """
    critics = slopes.shape[1]
    # Where all units of a critic are off its slope is 0, and has no direction.
    unit = slopes / (torch.linalg.vector_norm(slopes, dim=-1, keepdim=True) + 1e-10)
    # Σ_i Σ_{j≠i} u_i·u_j is |Σ u_i|² − Σ |u_i|²: no matrix of pairs is needed.
    together, alone = unit.sum(dim=1).square().sum(dim=-1), unit.square().sum(dim=(1, 3))
    cosines: Tensor = (together - alone).mean(dim=1) / (critics - 1)
    return cosines


ALGORITHM = Algorithm(
    EDACConfig,
    EDAC,
    feeds=("dataset", "replay"),
    actions=("continuous",),
    provides=(Density, CriticOnly, StartsFromPolicy, Scheduled),
    td_errors=True,
    summary="SAC by the least of many critics, kept apart (`agent.diversity`); SAC-N without",
    goes_on=keep_steady,
)
