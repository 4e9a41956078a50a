"""Proximal Policy Optimization (Schulman et al., 2017), https://arxiv.org/abs/1707.06347."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, FiniteFloat
from torch import Tensor

from offrl.agents.space_checks import choices_of, policy_kind
from offrl.config.fields import Activation, Count, NonNegative, Positive, Probability, ProbabilityBelowOne, Widths
from offrl.errors import RecipeError
from offrl.nn import MLP, Adam, FlatModule, FlatObservation, seed_generators
from offrl.nn.copy_weights import adopt_layers
from offrl.nn.distributions import log_tanh_derivative
from offrl.nn.initializers import make_orthogonal
from offrl.nn.masked_adam import PausingAdam
from offrl.nn.numpy_mlp import without_gradients
from offrl.nn.policy_heads import CategoricalActor, GaussianActor, Slopes
from offrl.ops.minibatches import Rows, by_part, merge_axes
from offrl.ops.numpy_or_torch import Array, at_hand, handed_back, namespace
from offrl.ops.ppo_losses import clipped_error, clipped_error_slope, clipped_gain, clipped_gain_slope
from offrl.ops.returns import generalized_advantages, running_returns
from offrl.ops.running_moments import fresh_moments, merge_moments, normalize, standardize
from offrl.types import NOT_SAVED, Batch, Metrics, Noise, Observation, Spec

OBSERVATION_LIMIT = 10.0
"""Standard deviations that normalized observations are clipped to."""


@dataclass(frozen=True)
class PPOConfig:
    """Options of PPO, with the values usual for continuous control.

    Attributes:
        policy: "gaussian" with a spread that is the same in all states; "squashed_gaussian", the same squashed by tanh;
            "categorical" for discrete and multi-discrete actions; "auto" takes "gaussian" or "categorical".
        hidden: widths of the hidden layers of actor and critic, which share none.
        activation, layer_norm, dropout: see `offrl.nn.MLP`; dropout acts in the gradient steps only.
        weight_decay: decoupled decay rate of all parameters.
        actor_learning_rate, critic_learning_rate: Adam's step sizes.
        decay_steps: transitions per seed over which both fall linearly to 0; 0 leaves them constant.
        max_gradient_norm: longer gradients are scaled to this norm, actor's and critic's each by itself; 0 leaves them
            as they are.
        discount: γ, per step.
        trace_decay: λ of the generalized advantage estimates.
        rollout_steps: steps of each environment that one update learns from.
        epochs: passes over them.
        minibatch_size: most transitions per seed and gradient step; a pass is split evenly.
        objective: "clip" bounds the probability ratios, "penalty" adds KL(old ‖ new) to the loss.
        clip: ε, how far a ratio may pay off to be from 1.
        kl_target: mean divergence, in nats, that the penalty's coefficient is adapted to.
        kl_coefficient: that coefficient, β, at the start.
        max_kl: a seed whose estimated divergence in a minibatch is beyond this makes no more steps in the update; 0
            never stops.
        value_clip: how far values may pay off to be from those before the update, in units of scaled rewards; 0
            doesn't clip.
        entropy_bonus: coefficient of the policy's entropy, in nats.
        normalize_advantage: shift and scale the advantages of each minibatch to mean 0 and standard deviation 1.
        normalize_observation: by the running mean and standard deviation of all that was seen.
        scale_reward: divide rewards by the running standard deviation of the discounted return.
        initial_log_std: of the Gaussian policies, where actions span [-1, 1].
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    policy: Literal["auto", "gaussian", "squashed_gaussian", "categorical"] = "auto"
    hidden: Widths = (64, 64)
    activation: Activation = "tanh"
    layer_norm: bool = False
    dropout: ProbabilityBelowOne = 0.0
    weight_decay: NonNegative = 0.0
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    decay_steps: Annotated[int, Field(ge=0)] = 0
    max_gradient_norm: NonNegative = 0.5
    discount: Probability = 0.99
    trace_decay: Probability = 0.95
    rollout_steps: Count = 2_048
    epochs: Count = 10
    minibatch_size: Count = 64
    objective: Literal["clip", "penalty"] = "clip"
    clip: Positive = 0.2
    kl_target: Positive = 0.01
    kl_coefficient: Positive = 1.0
    max_kl: NonNegative = 0.0
    value_clip: NonNegative = 0.0
    entropy_bonus: NonNegative = 0.0
    normalize_advantage: bool = True
    normalize_observation: bool = False
    scale_reward: bool = False
    initial_log_std: FiniteFloat = 0.0


@dataclass
class PPOState:
    """All that training changes.

    Attributes:
        kl_coefficient: β, [S].
        transitions: seen so far, per seed; int64, one for all seeds.
        observation_moments: see `offrl.ops.running_moments`, [S, 3, D].
        return_moments: of the running discounted return, [S, 3, 1].
        return_carry: the discounted return so far of the episodes that the last rollout left running, [S, E]; not in
            checkpoints, which cut them.
    """

    actor: GaussianActor | CategoricalActor
    critic: MLP
    actor_optimizer: Adam
    critic_optimizer: Adam
    kl_coefficient: Tensor
    transitions: Tensor
    observation_moments: Tensor
    return_moments: Tensor
    return_carry: Tensor | None = field(default=None, metadata=NOT_SAVED)


@dataclass
class Progress:
    """What the steps of one update share: the learning rates' factor, and the seeds that still move, bool [S]."""

    rate: float | Tensor
    moving: Tensor


class PPO:
    """Stochastic actor and state-value critic, improved on one rollout of the actor at a time.

    Observations are flat vectors; continuous actions span [-1, 1] where the action space is bounded (environment bounds
    are mapped outside), discrete ones are the environment's own numbers. An update takes one batch, [S, E, T, …].

    Raises:
        SpaceMismatchError: the policy kind doesn't fit the action space.
    """

    batches_per_update = 1
    acts_on_arrays = True
    honors_masks = True
    adopted_options = ("hidden", "activation", "layer_norm")
    """Those of a policy that `adopt_policy` takes."""

    def __init__(self, config: PPOConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self.kind = policy_kind(config.policy, spec, continuous=("gaussian", "squashed_gaussian"))
        self.exploration_shape: tuple[int, ...] = (spec.action_dim,)
        self.clip = config.clip if config.objective == "clip" else math.inf
        self.flat_observation = FlatObservation(spec.observation_space)
        space = spec.action_space
        self._bounded = isinstance(space, gym.spaces.Box) and space.is_bounded("both")

    def init(self, seeds: Sequence[int], device: torch.device) -> PPOState:
        """Fresh networks for each seed: orthogonal weights, and a policy that is almost the same everywhere."""
        c, generators = self.config, seed_generators(seeds)
        actor = self._actor(self._network(self.spec.action_dim, generators, output_gain=0.01)).to(device)
        critic = self._network(1, generators, output_gain=1.0).to(device)
        return PPOState(
            actor=actor,
            critic=critic,
            actor_optimizer=self._optimizer(actor, c.actor_learning_rate),
            critic_optimizer=self._optimizer(critic, c.critic_learning_rate),
            kl_coefficient=torch.full((len(seeds),), c.kl_coefficient, device=device),
            transitions=torch.zeros((), dtype=torch.int64, device=device),
            observation_moments=fresh_moments(len(seeds), self.flat_observation.width).to(device),
            return_moments=fresh_moments(len(seeds), 1).to(device),
        )

    def _network(self, outputs: int, generators: list[torch.Generator], output_gain: float) -> MLP:
        c = self.config
        network = MLP(
            self.flat_observation.width,
            outputs,
            c.hidden,
            generators,
            activation=c.activation,
            layer_norm=c.layer_norm,
            dropout=c.dropout,
        )
        return make_orthogonal(network, generators, hidden_gain=math.sqrt(2.0), output_gain=output_gain)

    def _actor(self, network: MLP) -> GaussianActor | CategoricalActor:
        space = self.spec.action_space
        if self.kind == "categorical":
            return CategoricalActor(network, *choices_of(space), single=isinstance(space, gym.spaces.Discrete))
        return GaussianActor(
            network,
            self.spec.action_dim,
            self.config.initial_log_std,
            squashed=self.kind == "squashed_gaussian",
            bounded=self._bounded,
        )

    def _optimizer(self, network: FlatModule, learning_rate: float) -> Adam:
        c = self.config
        kind = PausingAdam if c.max_kl else Adam
        return kind(network, learning_rate, weight_decay=c.weight_decay, max_gradient_norm=c.max_gradient_norm)

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        c = self.config
        shapes: dict[str, tuple[int, ...]] = {"order": (c.epochs, batch_size)}
        if c.dropout:
            shapes |= {name: (c.epochs, batch_size, sum(c.hidden)) for name in ("actor_dropout", "critic_dropout")}
        if c.entropy_bonus and self.kind == "squashed_gaussian":
            shapes["entropy"] = (c.epochs, batch_size, self.spec.action_dim)
        return shapes

    @without_gradients
    def update(self, state: PPOState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`epochs` passes over the rollout, with a step of actor and critic for each minibatch."""
        c, (batch,) = self.config, batches
        rows = self._rows(state, batch)
        progress = self._progress(state)
        for minibatch in self._minibatches(rows, noise):
            self._actor_step(state, minibatch, progress)
            self._critic_step(state, minibatch, progress)
        metrics = self._compare(state, rows)
        if c.objective == "penalty":
            self._adapt_penalty(state, metrics["kl"])
        if c.normalize_observation:
            seen = self.flat_observation(merge_axes(batch.observation))
            state.observation_moments.copy_(merge_moments(state.observation_moments, seen))
        state.transitions += rows.log_prob.shape[1]
        return metrics

    @without_gradients
    def update_critic(self, state: PPOState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same passes with the policy, and the normalization of what it sees, left as they are."""
        (batch,) = batches
        rows = self._rows(state, batch)
        progress = self._progress(state)
        for minibatch in self._minibatches(rows, noise):
            self._critic_step(state, minibatch, progress)
        return self._compare(state, rows)

    def _rows(self, state: PPOState, batch: Batch) -> Rows:
        """What the whole update learns from, computed with the networks that it starts from."""
        observation, next_observation = (
            self._observe(state, merge_axes(part)) for part in (batch.observation, batch.next_observation)
        )
        mask = None if batch.action_mask is None else batch.action_mask.flatten(1, 2)
        old = state.actor.distribution(state.actor.network(observation), mask)
        encoded = state.actor.encode(batch.action.flatten(1, 2))
        value, next_value = (state.critic(part).squeeze(-1) for part in (observation, next_observation))
        advantage = self._advantages(state, batch, value, next_value)
        return Rows(
            observation=observation,
            encoded=encoded,
            log_prob=state.actor.log_prob(old, encoded),
            advantage=advantage,
            value=value,
            target=advantage + value,
            mask=mask,
            # Copies: a Gaussian's spread is a parameter, which the update changes.
            old=tuple(part.expand(*value.shape, -1).clone() for part in old),
            draws={},
        )

    def _advantages(self, state: PPOState, batch: Batch, value: Tensor, next_value: Tensor) -> Tensor:
        """Generalized advantage estimates, [S, N]."""
        c, shape = self.config, batch.reward.shape[1:]
        assert batch.truncated is not None
        return generalized_advantages(
            self._scaled_reward(state, batch, batch.truncated) if c.scale_reward else batch.reward,
            value.unflatten(1, shape),
            next_value.unflatten(1, shape),
            batch.terminated,
            batch.truncated,
            c.discount,
            c.trace_decay,
        ).flatten(1)

    def _scaled_reward(self, state: PPOState, batch: Batch, truncated: Tensor) -> Tensor:
        """Rewards over the standard deviation of the discounted return, this rollout's included."""
        done = torch.maximum(batch.terminated, truncated)
        if state.return_carry is None:
            state.return_carry = torch.zeros_like(done[..., 0])
        returns = running_returns(batch.reward, done, state.return_carry, self.config.discount)
        state.return_moments.copy_(merge_moments(state.return_moments, returns.flatten(1).unsqueeze(-1)))
        state.return_carry.copy_(returns[..., -1] * (1.0 - done[..., -1]))
        return batch.reward * torch.rsqrt(state.return_moments[:, 1:2] + 1e-8)

    def _observe(self, state: PPOState, observation: Observation | NDArray[Any]) -> Array:
        """Flat observations, normalized by the statistics of the rollouts before this one."""
        flat = self.flat_observation(observation)
        if not self.config.normalize_observation:
            return flat
        return normalize(handed_back(flat), state.observation_moments, OBSERVATION_LIMIT)

    def _progress(self, state: PPOState) -> Progress:
        """At the start of an update."""
        steps = self.config.decay_steps
        rate = (1.0 - state.transitions / steps).clamp(min=0.0) if steps else 1.0
        return Progress(rate, moving=torch.ones_like(state.kl_coefficient, dtype=torch.bool))

    def _minibatches(self, rows: Rows, noise: Noise) -> Iterator[Rows]:
        """Every pass in an order of its own, each seed its own; advantages are those that its steps go by."""
        c = self.config
        parts = -(-rows.log_prob.shape[1] // c.minibatch_size)
        order = noise["order"].argsort(dim=-1, stable=True)
        if c.objective == "clip":
            rows = rows._replace(old=())
        for epoch in range(c.epochs):
            draws = {name: noise[name][:, epoch] for name in noise if name != "order"}
            shuffled = rows._replace(draws=draws).shuffled(order[:, epoch])
            if c.normalize_advantage:
                shuffled = shuffled._replace(advantage=by_part(standardize, shuffled.advantage, parts))
            yield from shuffled.at_hand().split(parts)

    def _actor_step(self, state: PPOState, rows: Rows, progress: Progress) -> None:
        """Up the slope of the objective, and of the entropy bonus."""
        c, actor, count = self.config, state.actor, rows.log_prob.shape[1]
        recorded = actor.network.record(rows.observation, dropout_noise=handed_back(rows.draws.get("actor_dropout")))
        distribution = actor.distribution(recorded.output, rows.mask)
        log_prob, slopes_of = actor.log_prob_and_slopes(distribution, rows.encoded)
        log_ratio = log_prob - rows.log_prob
        # All signs are those of a loss, and all weights those of a mean over the minibatch.
        slopes = slopes_of(clipped_gain_slope(log_ratio, rows.advantage, self.clip) * (-1.0 / count))
        if c.objective == "penalty":
            weight = at_hand((state.kl_coefficient / count).unsqueeze(1))
            slopes = add(slopes, actor.divergence_slopes(rows.old, distribution, weight))
        if c.entropy_bonus:
            weight = namespace(log_ratio).full_like(log_ratio, -c.entropy_bonus / count)
            slopes = add(slopes, actor.entropy_slopes(distribution, rows.draws.get("entropy"), weight))
        by_output, *by_own = slopes
        gradient = torch.cat([*(handed_back(part).flatten() for part in by_own), recorded.gradient(by_output)])
        if c.max_kl:
            # E[ρ − 1 − log ρ] estimates KL(old ‖ new); it has little variance and is never negative.
            divergence = (namespace(log_ratio).exp(log_ratio) - 1.0 - log_ratio).mean(1)
            progress.moving = progress.moving & handed_back(divergence <= c.max_kl)
        descend(state.actor_optimizer, gradient, progress)

    def _critic_step(self, state: PPOState, rows: Rows, progress: Progress) -> None:
        """Down the slope of the mean squared error."""
        recorded = state.critic.record(rows.observation, dropout_noise=handed_back(rows.draws.get("critic_dropout")))
        value = recorded.output[..., 0]
        slope = clipped_error_slope(value, rows.value, rows.target, self.config.value_clip)
        by_output = (slope * (1.0 / value.shape[1]))[..., None]
        descend(state.critic_optimizer, recorded.gradient(by_output), progress)

    def _compare(self, state: PPOState, rows: Rows) -> Metrics:
        """How both networks do after the update, and how far the policy is from the one that acted."""
        actor = state.actor
        distribution = actor.distribution(actor.network(rows.observation), rows.mask)
        log_ratio = actor.log_prob(distribution, rows.encoded) - rows.log_prob
        value = state.critic(rows.observation).squeeze(-1)
        advantage = standardize(rows.advantage) if self.config.normalize_advantage else rows.advantage
        return {
            "policy_loss": -clipped_gain(log_ratio, advantage, self.clip).mean(dim=1),
            "value_loss": clipped_error(value, rows.value, rows.target, self.config.value_clip).mean(dim=1),
            "kl": actor.divergence(rows.old, distribution).mean(dim=1),
            "entropy": actor.entropy(distribution).mean(dim=1),
            "value": value.mean(dim=1),
        }

    def _adapt_penalty(self, state: PPOState, divergence: Tensor) -> None:
        """Halve β where the policy moved less than two thirds of the target, double it beyond one and a half."""
        target = self.config.kl_target
        state.kl_coefficient.mul_(torch.where(divergence < target / 1.5, 0.5, 1.0))
        state.kl_coefficient.mul_(torch.where(divergence > target * 1.5, 2.0, 1.0))

    @without_gradients
    def act(
        self, state: PPOState, observation: Observation | NDArray[Any], noise: Array = None, action_mask: Array = None
    ) -> Array:
        """The likeliest action, or a Gaussian's mean; with draws [S, N, action_dim] a sample, which no bounds clip."""
        output = state.actor.network(self._observe(state, observation))
        return handed_back(state.actor.act(output, noise, action_mask), to=observation)

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: those that bounds clip have none."""
        return self.kind != "gaussian" or not self._bounded

    @without_gradients
    def log_prob(
        self, state: PPOState, observation: Observation, action: Tensor, action_mask: Tensor | None = None
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1]."""
        actor, encoded = state.actor, state.actor.encode(action)
        distribution = actor.distribution(actor.network(self._observe(state, observation)), action_mask)
        log_prob = actor.log_prob(distribution, encoded)
        return log_prob - log_tanh_derivative(encoded).sum(dim=-1) if self.kind == "squashed_gaussian" else log_prob

    def episodes_cut(self, state: PPOState) -> None:
        """The running episodes were cut behind the last rollout: no return goes on from there."""
        if state.return_carry is not None:
            state.return_carry.zero_()

    def adopt_policy(self, state: PPOState, policy: MLP, kind: str) -> None:
        """Start the actor from a cloned policy of the same hidden widths.

        Args:
            state: changed in place; the critic stays as it is, and so does a Gaussian's spread, `initial_log_std`.
            policy: a network of `offrl.agents.bc`.
            kind: of that policy; its greedy actions are then the actor's.

        Raises:
            SpaceMismatchError: it reads other observations.
            RecipeError: it is of a kind that this actor can't be, or of other widths, activation or number of seeds; or
                observations are normalized as they come, which would change what it sees.
        """
        fits = {
            "gaussian": ("gaussian",) if self._bounded else ("gaussian", "deterministic"),
            "squashed_gaussian": ("squashed_gaussian", "deterministic"),
            "categorical": ("categorical",),
        }
        if kind not in fits[self.kind]:
            able = next((name for name, kinds in fits.items() if kind in kinds), None)
            raise RecipeError(
                f"PPO's {self.kind} policy can't start from a {kind} one", hint=f"set agent.policy={able}"
            )
        if self.config.normalize_observation:
            raise RecipeError(
                "a policy that was trained on observations as they are can't start where they are normalized anew",
                hint="set agent.normalize_observation=false",
            )
        adopt_layers(state.actor.network, policy)


def add(one: Slopes, other: Slopes) -> Slopes:
    """Slopes of a sum."""
    return tuple(a + b for a, b in zip(one, other, strict=True))


def descend(optimizer: Adam, gradient: Tensor, progress: Progress) -> None:
    """A step at the rate of the schedule, of the seeds that still move."""
    rate = optimizer.learning_rate * progress.rate
    if isinstance(optimizer, PausingAdam):
        optimizer.descend(gradient, rate, progress.moving)
    else:
        optimizer.descend(gradient, rate)
