"""Conservative Q-learning, CQL(H), with a Gaussian policy (Kumar, Zhou, Tucker & Levine, 2020).

https://arxiv.org/abs/2006.04779. And Cal-QL (Nakamoto et al., 2023), https://arxiv.org/abs/2303.05479, that differs in
one term.
"""

from __future__ import annotations

import dataclasses
import math
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
from offrl.nn import MLP, Adam, FlatObservation, Schedule, seed_generators
from offrl.nn import distributions as dist
from offrl.nn.adam import ended_schedule
from offrl.nn.copy_weights import adopt_squashed_gaussian
from offrl.nn.temperature import Temperature
from offrl.types import (
    RETURN_TO_GO,
    Batch,
    CriticOnly,
    Density,
    Metrics,
    Noise,
    Observation,
    Scheduled,
    Spec,
    StartsFromPolicy,
)

LARGEST_MULTIPLIER = 1e6


@dataclass(frozen=True)
class CQLConfig(Schedule):
    """Options of CQL, with the values of the authors' code for locomotion unless noted.

    Attributes:
        hidden: widths of the hidden layers of all networks.
        activation: see `offrl.nn.MLP`.
        layer_norm: normalize the critics' hidden layers (not in the paper).
        actor_learning_rate, critic_learning_rate, temperature_learning_rate: Adam's step sizes; 0 fixes a temperature.
            The authors' actor clones the data for its first steps; this one doesn't.
        warmup_steps, constant_steps, decay_steps, decay_shape: of all step sizes (in the paper they stay), see
            `offrl.nn.Schedule`.
        discount: γ, per step.
        target_rate: τ of the target critics' Polyak averaging.
        conservative_weight: α of the gap between log Σ exp Q and the Q of the data's actions.
        samples: actions of each kind (uniform, of the policy here, of the policy in the next state) that the sum over
            actions is estimated from.
        threshold: τ, that the weighted gap is held at by a multiplier, which is learned (the paper's Lagrangian form);
            "none" weighs the gap by α alone.
        initial_temperature: α of the policy's entropy at the start.
        target_entropy: the mean entropy, in nats, that the temperature holds the policy at; "auto" takes −A for A
            components of an action.
    """

    __pydantic_config__ = STRICT

    hidden: Widths = (256, 256, 256)
    activation: Activation = "relu"
    layer_norm: bool = False
    actor_learning_rate: Positive = 1e-4
    critic_learning_rate: Positive = 3e-4
    temperature_learning_rate: NonNegative = 1e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    conservative_weight: NonNegative = 5.0
    samples: Count = 10
    threshold: Finite | Literal["none"] = "none"
    initial_temperature: Positive = 1.0
    target_entropy: Finite | Literal["auto"] = "auto"


@dataclass
class CQLState:
    """All that training changes; `multiplier` is the Lagrangian one of the gap, which stays 1 without a threshold."""

    actor: MLP
    critic: MLP
    target_critic: MLP
    temperature: Temperature
    multiplier: Temperature
    actor_optimizer: Adam
    critic_optimizer: Adam
    temperature_optimizer: Adam
    multiplier_optimizer: Adam


class CQL:
    """Soft actor-critic whose critics keep the values of all actions down, and those of the data's up.

    What is learned is a lower bound of the policy's value, so that the policy isn't drawn towards actions whose values
    nothing in the data speaks for.

    Observations and actions are flat vectors; actions span [-1, 1] (environment bounds are mapped outside), and the
    policy is a Gaussian squashed by tanh. Discrete actions: `offrl.agents.dqn` with `agent.conservative`.

    Raises:
        SpaceMismatchError: actions aren't vectors with finite bounds.
    """

    batches_per_update = 1
    has_density = True
    adopted_options: ClassVar[tuple[str, ...]] = ("hidden", "activation")

    def __init__(self, config: CQLConfig, spec: Spec) -> None:
        require_bounded_box(
            spec, "CQL", {"discrete": "dqn or qrdqn with agent.conservative=1, CQL for discrete actions"}
        )
        self.config, self.spec, self.discount = config, spec, config.discount
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        self.target_entropy = -float(spec.action_dim) if config.target_entropy == "auto" else config.target_entropy
        self.flat_observation = FlatObservation(spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> CQLState:
        """Fresh networks for each seed; the target starts as a copy."""
        c, width, actions = self.config, self.flat_observation.width, self.spec.action_dim
        make = partial(MLP, hidden=c.hidden, generators=seed_generators(seeds), activation=c.activation)
        actor = make(width, 2 * actions).to(device)
        critic = make(width + actions, 1, ensemble=2, layer_norm=c.layer_norm).to(device)
        temperature = Temperature(len(seeds), c.initial_temperature).to(device)
        multiplier = Temperature(len(seeds), 1.0).to(device)
        adam = partial(Adam, schedule=c)
        return CQLState(
            actor=actor,
            critic=critic,
            target_critic=critic.clone(),
            temperature=temperature,
            multiplier=multiplier,
            actor_optimizer=adam(actor, c.actor_learning_rate),
            critic_optimizer=adam(critic, c.critic_learning_rate),
            temperature_optimizer=adam(temperature, c.temperature_learning_rate),
            multiplier_optimizer=adam(multiplier, c.critic_learning_rate),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """Draws of the policy's actions, and of those that the sum over actions is estimated from."""
        one = (batch_size, self.spec.action_dim)
        several = (batch_size, self.config.samples, self.spec.action_dim)
        return {"action": one, "next_action": one, "uniform": several, "here": several, "there": several}

    def update(self, state: CQLState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step each of multiplier, critics and their targets, actor and temperature."""
        metrics = self.update_critic(state, batches, noise)
        alpha = state.temperature.log_alpha.detach().exp().squeeze(1)
        loss, entropy = self.actor_loss(state, batches[0], noise["action"])
        state.actor_optimizer.minimize(loss.sum())
        state.temperature_optimizer.minimize(self.temperature_loss(state, entropy).sum())
        return metrics | {"actor_loss": loss.detach(), "entropy": entropy, "alpha": alpha}

    def update_critic(self, state: CQLState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same with the policy and its temperature left as they are."""
        (batch,) = batches
        target_q = self.targets(state, batch, noise["next_action"])
        actions, log_densities = self.proposals(state, batch, noise)
        loss, gap, q = self.critic_loss(state, batch, target_q, actions, log_densities)
        if self.config.threshold != "none":
            state.multiplier_optimizer.minimize(self.multiplier_loss(state, gap).sum())
        state.critic_optimizer.minimize(loss.sum())
        state.target_critic.move_towards(state.critic, self.config.target_rate)
        return {"critic_loss": loss.detach(), "q": q.detach(), "target_q": target_q, "gap": gap.mean(dim=1)}

    @torch.no_grad()
    def targets(self, state: CQLState, batch: Batch, draws: Tensor) -> Tensor:
        """r + γ min_i Q'_i(s', a') with a' of the policy, [S, B]; without its entropy, as in the authors' code."""
        observation = self.flat_observation(batch.next_observation)
        action, _ = dist.squashed_gaussian_sample(state.actor(observation), draws)
        value: Tensor = state.target_critic(torch.cat([observation, action], dim=-1)).amin(dim=1).squeeze(-1)
        return batch.reward + batch.discount * value

    @torch.no_grad()
    def proposals(self, state: CQLState, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        """Actions, [S, B, 3K, A], that are uniform, of π(· | s) and of π(· | s'); and their log-densities, [S, B, 3K].

        All are tried in s; those of π(· | s') as in the authors' code, whose estimate they make less noisy.
        """
        uniform = 2.0 * torch.special.ndtr(noise["uniform"]) - 1.0
        actions, log_densities = [uniform], [torch.full_like(uniform[..., 0], -self.spec.action_dim * math.log(2.0))]
        for observation, draws in ((batch.observation, noise["here"]), (batch.next_observation, noise["there"])):
            output = state.actor(self.flat_observation(observation)).unsqueeze(2)
            action, log_prob = dist.squashed_gaussian_sample(output, draws)
            actions.append(action)
            log_densities.append(log_prob)
        return torch.cat(actions, dim=2), torch.cat(log_densities, dim=2)

    def critic_loss(
        self, state: CQLState, batch: Batch, target_q: Tensor, actions: Tensor, log_densities: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Σ_i (Q_i(s, a) − y)² + m (α gap_i − τ), [S], for targets y [S, B]; each critic's gap [S, 2]; and Q(s, a).

        The gap is log ∫ exp Q(s, a') da' − Q(s, a) (equation 4), its integral an importance-weighted sum over
        `proposals`, and m the multiplier.
        """
        observation = self.flat_observation(batch.observation)
        logged = batch.action.unsqueeze(2)
        tried = torch.cat([logged, actions], dim=2)
        pairs = torch.cat([observation.unsqueeze(2).expand(-1, -1, tried.shape[2], -1), tried], dim=-1)
        values = state.critic(pairs.flatten(1, 2)).view(len(pairs), 2, *tried.shape[1:3])
        q, others = values[..., 0], self.kept_down(values[..., 1:], batch)
        gap = ((others - log_densities.unsqueeze(1)).logsumexp(dim=-1) - q).mean(dim=2)
        squares = (q - target_q.unsqueeze(1)).square().mean(dim=2)
        excess = self._multiplier(state).detach() * (self.config.conservative_weight * gap - self._threshold)
        return (squares + excess).sum(dim=1), gap.detach(), q

    def kept_down(self, values: Tensor, batch: Batch) -> Tensor:
        """What the gap counts of the values of `proposals`, [S, 2, B, 3K]: the values themselves."""
        return values

    def multiplier_loss(self, state: CQLState, gap: Tensor) -> Tensor:
        """−m Σ_i (α gap_i − τ) / 2, [S]: m rises where the weighted gap is above τ, and falls below."""
        excess = self.config.conservative_weight * gap - self._threshold
        return -(self._multiplier(state) * excess).mean(dim=1)

    def _multiplier(self, state: CQLState) -> Tensor:
        """m, [S, 1]."""
        return state.multiplier.log_alpha.exp().clamp(max=LARGEST_MULTIPLIER)

    @property
    def _threshold(self) -> float:
        return 0.0 if self.config.threshold == "none" else self.config.threshold

    def actor_loss(self, state: CQLState, batch: Batch, draws: Tensor) -> tuple[Tensor, Tensor]:
        """α log π(a | s) − min_i Q_i(s, a) with a of the policy, [S]; and the entropy, [S]."""
        observation = self.flat_observation(batch.observation)
        action, log_prob = dist.squashed_gaussian_sample(state.actor(observation), draws)
        value = state.critic(torch.cat([observation, action], dim=-1)).amin(dim=1).squeeze(-1)
        alpha = state.temperature.log_alpha.detach().exp()
        return (alpha * log_prob - value).mean(dim=1), -log_prob.detach().mean(dim=1)

    def temperature_loss(self, state: CQLState, entropy: Tensor) -> Tensor:
        """log α (H − its target), [S]: α falls where the entropy H [S] is above its target, and rises below."""
        return state.temperature.log_alpha.squeeze(1) * (entropy - self.target_entropy)

    def initial_carry(self, state: CQLState, count: int) -> tuple[()]:
        """Nothing: actions depend on the observation alone."""
        return ()

    def act(
        self,
        state: CQLState,
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
        state: CQLState,
        observation: Observation,
        action: Tensor,
        carry: tuple[()],
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1]."""
        output = state.actor(self.flat_observation(observation))
        return dist.squashed_gaussian_log_prob(*dist.split_gaussian(output), action)

    def ended_schedule(self, state: CQLState) -> int:
        """The steps taken, where step sizes have fallen to 0."""
        return ended_schedule((state.actor_optimizer, state.critic_optimizer, state.temperature_optimizer))

    def adopt_policy(self, state: CQLState, policy: MLP, kind: str) -> None:
        """Start the actor from a cloned policy; one without a spread gets that of the target entropy before squashing.

        Raises:
            RecipeError: the kind doesn't fit, or options of the two networks differ.
            SpaceMismatchError: the networks read observations of different widths.
        """
        adopt_squashed_gaussian("CQL", state.actor, policy, kind, self.target_entropy / self.spec.action_dim)


class CalQL(CQL):
    """CQL that keeps the values of the policy's actions down only as far as to what the data's behavior earned.

    CQL's values come out far below any return. Where learning goes on online, worse actions then seem better than what
    is known, and what was learned is lost first. Here values stay on the scale of the returns.

    Returns are those that were seen from each step on: of an episode that was truncated without what would have come.
    Of own episodes that are running none is known, and the policy's values are kept down as by CQL. The authors' code
    takes a return of a constant reward for one that goes on forever; this one doesn't.
    """

    def kept_down(self, values: Tensor, batch: Batch) -> Tensor:
        """max(Q(s, a'), R) for actions a' of the policy and the return R from s on; of uniform actions Q(s, a')."""
        assert batch.return_to_go is not None
        uniform, policy = values[..., : self.config.samples], values[..., self.config.samples :]
        return torch.cat([uniform, torch.maximum(policy, batch.return_to_go[:, None, :, None])], dim=-1)


ALGORITHM = Algorithm(
    CQLConfig,
    CQL,
    feeds=("dataset", "replay"),
    actions=("continuous",),
    provides=(Density, CriticOnly, StartsFromPolicy, Scheduled),
    summary="SAC whose critics keep other actions' values below those of the data's; with a Lagrange multiplier",
    goes_on=keep_steady,
)

CALQL = dataclasses.replace(
    ALGORITHM,
    agent=CalQL,
    columns=(RETURN_TO_GO,),
    summary="CQL whose values stay above the returns of the data, to go on online from",
)
