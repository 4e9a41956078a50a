"""Proximal Policy Optimization (Schulman et al., 2017), https://arxiv.org/abs/1707.06347."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from offrl import types
from offrl.agents.algorithm import Algorithm
from offrl.agents.fine_tuning import explore_around_clone, keep_steady, without_decay
from offrl.agents.space_checks import choices_of, policy_kind
from offrl.config import fields as kinds
from offrl.errors import RecipeError
from offrl.nn import MLP, Adam, FlatObservation, Schedule, seed_generators
from offrl.nn.clipping import Clipping
from offrl.nn.copy_weights import adopt_layers
from offrl.nn.encoder import EncodedMLP, encoder_maker
from offrl.nn.images import images_of
from offrl.nn.initializers import make_orthogonal
from offrl.nn.masked_adam import PausingAdam, minimize
from offrl.nn.policy_heads import CategoricalActor, Distribution, GaussianActor, actor_of, check_adoptable, is_bounded
from offrl.ops.minibatches import Rows, merge_axes, shuffled_minibatches
from offrl.ops.ppo_losses import clipped_error, clipped_gain, divergence_estimate
from offrl.ops.returns import generalized_advantages
from offrl.ops.running_moments import fresh_moments, merge_moments, normalize, scale_rewards, standardize
from offrl.tracing import repeated
from offrl.types import NOT_SAVED, Batch, Metrics, Noise, Observation, Spec


@dataclass(frozen=True)
class PPOConfig(Schedule):
    """Options of PPO, with the paper's values for continuous control, or of its authors' code, Baselines, where noted.

    Attributes:
        policy: "gaussian" with a spread that is the same in all states; "squashed_gaussian", the same squashed by tanh;
            "categorical" for discrete and multi-discrete actions; "auto" takes "gaussian" or "categorical".
        hidden: widths of the hidden layers of actor and critic, which share none.
        convolutions: for each image in the observation, see `offrl.nn.encoder.Encoder`; none leaves them flat. Actor
            and critic have their own, with steps and gradient norms of their own; in Baselines they share them.
        activation, layer_norm, dropout: see `offrl.nn.MLP`; dropout acts in the gradient steps only.
        weight_decay: decoupled decay rate of all parameters.
        actor_learning_rate, critic_learning_rate: Adam's step sizes.
        warmup_steps, constant_steps, decay_steps, decay_shape: of both, counted in transitions per seed; see
            `offrl.nn.Schedule`.
        max_gradient_norm: longer gradients, actor's and critic's each by itself, are scaled to it (Baselines); 0: none.
        discount: γ, per step.
        trace_decay: λ of the generalized advantage estimates.
        rollout_steps, epochs: steps of each environment that one update learns from, and passes over them.
        minibatch_size: most transitions per seed and gradient step; a pass is split evenly.
        objective: "clip" bounds the probability ratios, "penalty" adds KL(old ‖ new) to the loss.
        clip: ε, how far a ratio may pay off to be from 1.
        kl_target, kl_coefficient: mean divergence, in nats, that the penalty's weight β is adapted to; β at the start.
        max_kl: a seed whose estimated divergence in a minibatch is larger takes no more steps in the update; 0: never.
        value_clip: how far scaled values may pay off to be from those before the update; 0, the paper's way, no limit.
        entropy_bonus: coefficient of the policy's entropy, in nats (0.01 in the paper's Atari games).
        normalize_advantage: shift and scale those of each minibatch to mean 0 and standard deviation 1 (Baselines).
        normalize_observation: by the running mean and standard deviation of all that was seen (on in Baselines).
        scale_reward: divide rewards by the running standard deviation of the discounted return (on in Baselines).
        initial_log_std: of the Gaussian policies, where actions span [-1, 1].
    """

    __pydantic_config__ = kinds.STRICT

    policy: Literal["auto", "gaussian", "squashed_gaussian", "categorical"] = "auto"
    hidden: kinds.Widths = (64, 64)
    activation: kinds.Activation = "tanh"
    convolutions: kinds.Convolutions = "auto"
    layer_norm: bool = False
    dropout: kinds.ProbabilityBelowOne = 0.0
    weight_decay: kinds.NonNegative = 0.0
    actor_learning_rate: kinds.Positive = 3e-4
    critic_learning_rate: kinds.Positive = 3e-4
    max_gradient_norm: kinds.NonNegative = 0.5
    discount: kinds.Probability = 0.99
    trace_decay: kinds.Probability = 0.95
    rollout_steps: kinds.Count = 2_048
    epochs: kinds.Count = 10
    minibatch_size: kinds.Count = 64
    objective: Literal["clip", "penalty"] = "clip"
    clip: kinds.Positive = 0.2
    kl_target: kinds.Positive = 0.01
    kl_coefficient: kinds.Positive = 1.0
    max_kl: kinds.NonNegative = 0.0
    value_clip: kinds.NonNegative = 0.0
    entropy_bonus: kinds.NonNegative = 0.0
    normalize_advantage: bool = True
    normalize_observation: bool = False
    scale_reward: bool = False
    initial_log_std: kinds.Finite = 0.0


@dataclass
class PPOState:
    """All that training changes.

    Attributes:
        kl_coefficient: β, [S].
        transitions: seen so far, per seed; int64, one for all seeds.
        observation_moments: see `offrl.ops.running_moments`, [S, 3, D]; D is 0 where images are observed.
        return_moments: of the running discounted return, [S, 3, 1].
        return_carry: discounted returns of the episodes that the last rollout left running, [S, E]; not saved.
    """

    actor: GaussianActor | CategoricalActor
    critic: EncodedMLP
    actor_optimizer: Adam
    critic_optimizer: Adam
    kl_coefficient: Tensor
    transitions: Tensor
    observation_moments: Tensor
    return_moments: Tensor
    return_carry: Tensor | None = field(default=None, metadata=NOT_SAVED)


class PPO:
    """Stochastic actor and state-value critic, improved on one rollout of the actor at a time.

    Continuous actions span [-1, 1] where the action space is bounded (environment bounds
    are mapped outside), discrete ones are the environment's own numbers. An update takes one batch, [S, E, T, …].

    Raises:
        SpaceMismatchError: the policy kind doesn't fit the action space.
    """

    batches_per_update = 1
    adopted_options: ClassVar[tuple[str, ...]] = ("hidden", "activation", "layer_norm", "convolutions")

    def __init__(self, config: PPOConfig, spec: Spec) -> None:
        self.config, self.spec, self.discount = config, spec, config.discount
        self.kind = policy_kind(config.policy, spec, continuous=("gaussian", "squashed_gaussian"))
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        self.flat_observation = FlatObservation(spec.observation_space)
        self.make_encoder = encoder_maker(spec.observation_space, config.convolutions, config.activation)
        self.sees_images = bool(config.convolutions and images_of(spec.observation_space))
        self.normalized_width = 0 if self.sees_images else self.flat_observation.width
        if self.sees_images and config.normalize_observation:
            raise RecipeError("images aren't normalized as they come", hint="set agent.normalize_observation=false")
        self.clip = config.clip if config.objective == "clip" else math.inf

    def init(self, seeds: Sequence[int], device: torch.device) -> PPOState:
        """Fresh networks for each seed: orthogonal weights, and a policy that is almost the same everywhere."""
        c, generators = self.config, seed_generators(seeds)
        network, choices = self._network(self.spec.action_dim, generators, 0.01), choices_of(self.spec.action_space)
        actor = actor_of(self.kind, network, self.spec, choices, c.initial_log_std).to(device)
        critic = self._network(1, generators, 1.0).to(device)
        kind = PausingAdam if c.max_kl else Adam
        optimizer = partial(kind, weight_decay=c.weight_decay, max_gradient_norm=c.max_gradient_norm)
        return PPOState(
            actor=actor,
            critic=critic,
            actor_optimizer=optimizer(actor, c.actor_learning_rate),
            critic_optimizer=optimizer(critic, c.critic_learning_rate),
            kl_coefficient=torch.full((len(seeds),), c.kl_coefficient, device=device),
            transitions=torch.zeros((), dtype=torch.int64, device=device),
            observation_moments=fresh_moments(len(seeds), self.normalized_width).to(device),
            return_moments=fresh_moments(len(seeds), 1).to(device),
        )

    def _network(self, outputs: int, generators: list[torch.Generator], output_gain: float) -> EncodedMLP:
        c = self.config
        like = partial(EncodedMLP, activation=c.activation, layer_norm=c.layer_norm, dropout=c.dropout)
        network = like(self.make_encoder(generators), outputs, c.hidden, generators)
        make_orthogonal(network, generators, hidden_gain=math.sqrt(2.0), output_gain=output_gain)
        return network

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        c = self.config
        shapes: dict[str, tuple[int, ...]] = {"order": (c.epochs, batch_size)}
        if c.dropout:
            shapes |= {name: (c.epochs, batch_size, sum(c.hidden)) for name in ("actor_dropout", "critic_dropout")}
        if c.entropy_bonus and self.kind == "squashed_gaussian":
            shapes["entropy"] = (c.epochs, batch_size, self.spec.action_dim)
        return shapes

    def update(self, state: PPOState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`epochs` passes over the rollout, with a step of actor and critic for each minibatch."""
        c, (batch,) = self.config, batches
        rows = self._learn(state, batch, noise, actor=True)
        metrics = self._compare(state, rows)
        if c.objective == "penalty":
            # β doubles where the policy moved more than one and a half of the target, and halves below two thirds.
            far, near = metrics["kl"] > c.kl_target * 1.5, metrics["kl"] < c.kl_target / 1.5
            state.kl_coefficient.mul_(1.0 + far.float() - 0.5 * near.float())
        if c.normalize_observation:
            seen = self.flat_observation(merge_axes(batch.observation))
            state.observation_moments.copy_(merge_moments(state.observation_moments, seen))
        state.transitions += rows.log_prob.shape[1]
        return metrics

    def update_critic(self, state: PPOState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same passes with the policy, and the normalization of what it sees, left as they are."""
        return self._compare(state, self._learn(state, batches[0], noise, actor=False))

    @torch.no_grad()
    def _rows(self, state: PPOState, batch: Batch) -> Rows:
        """What the whole update learns from, computed with the networks that it starts from."""
        here, there = (self._observe(state, merge_axes(part)) for part in (batch.observation, batch.next_observation))
        mask = None if batch.action_mask is None else batch.action_mask.flatten(1, 2)
        old, encoded = self._policy(state, here, mask), state.actor.encode(batch.action.flatten(1, 2))
        log_prob = state.actor.log_prob(old, encoded)
        value, next_value = (self._values(state, part) for part in (here, there))
        advantage = self._advantages(state, batch, value, next_value)
        # Copies: a Gaussian's spread is a parameter, which the update changes.
        old = tuple(part.expand(*value.shape, -1).clone() for part in old)
        return Rows(here, encoded, log_prob, advantage, value, advantage + value, mask, old, draws={})

    def _advantages(self, state: PPOState, batch: Batch, value: Tensor, next_value: Tensor) -> Tensor:
        """Generalized advantage estimates, [S, N]."""
        assert batch.truncated is not None
        c, reward, ends = self.config, batch.reward, (batch.terminated, batch.truncated)
        if c.scale_reward:
            if state.return_carry is None:
                state.return_carry = torch.zeros_like(reward[..., 0])
            reward = scale_rewards(reward, torch.maximum(*ends), state.return_carry, state.return_moments, c.discount)
        values = value.unflatten(1, reward.shape[1:]), next_value.unflatten(1, reward.shape[1:])
        return generalized_advantages(reward, *values, *ends, c.discount, c.trace_decay).flatten(1)

    def _observe(self, state: PPOState, observation: Observation) -> Observation:
        """Flat, normalized by the statistics of the rollouts before this one; as they are where there are images."""
        if self.sees_images:
            return observation
        flat = self.flat_observation(observation)
        return normalize(flat, state.observation_moments) if self.config.normalize_observation else flat

    def _learn(self, state: PPOState, batch: Batch, noise: Noise, *, actor: bool) -> Rows:
        """Steps of the critic, and perhaps of the actor, on all minibatches of all passes over the rows returned."""
        c, rows = self.config, self._rows(state, batch)
        rate = c.factor(state.transitions, rows.log_prob.shape[1])
        moving = torch.ones_like(state.kl_coefficient, dtype=torch.bool) if c.max_kl else None
        needed = rows._replace(old=()) if c.objective == "clip" else rows
        for minibatch in shuffled_minibatches(needed, noise, c.minibatch_size, standardized=c.normalize_advantage):
            moving = self.minibatch_step(state, minibatch, rate, moving, actor)
        return rows

    @repeated
    def minibatch_step(
        self, state: PPOState, rows: Rows, rate: float | Tensor, moving: Tensor | None, actor: bool
    ) -> Tensor | None:
        """One step of the critic and, if `actor` says so, of the actor, down their losses of a minibatch.

        The learning rates' factor `rate` is one for all seeds. Where there is `moving`, bool [S], the other seeds stay;
        what is returned leaves out those whose policy has come too far from that before the update.
        """
        if actor:
            policy_loss, log_ratio = self.policy_loss(state, rows)
            if moving is not None:
                moving = moving & (divergence_estimate(log_ratio.detach()) <= self.config.max_kl)
            minimize(state.actor_optimizer, policy_loss, rate, moving)
        minimize(state.critic_optimizer, self.value_loss(state, rows), rate, moving)
        return moving

    def policy_loss(self, state: PPOState, rows: Rows) -> tuple[Tensor, Tensor]:
        """The objective with its sign turned, less the entropy bonus, [S]; and log π/π_old of each row, [S, N]."""
        c, actor = self.config, state.actor
        policy = self._policy(state, rows.observation, rows.mask, rows.draws.get("actor_dropout"))
        log_ratio = actor.log_prob(policy, rows.encoded) - rows.log_prob
        loss = -clipped_gain(log_ratio, rows.advantage, self.clip).mean(dim=1)
        if c.objective == "penalty":
            loss = loss + state.kl_coefficient * actor.divergence(rows.old, policy).mean(dim=1)
        if c.entropy_bonus:
            loss = loss - c.entropy_bonus * actor.entropy(policy, rows.draws.get("entropy")).mean(dim=1)
        return loss, log_ratio

    def _policy(
        self, state: PPOState, observation: Observation, mask: Tensor | None, dropout_noise: Tensor | None = None
    ) -> Distribution:
        """The action distributions for observations as `_observe` gives them."""
        return state.actor.distribution(self._output(state.actor.network, observation, dropout_noise), mask)

    def _values(self, state: PPOState, observation: Observation, dropout_noise: Tensor | None = None) -> Tensor:
        """[S, N], for observations as `_observe` gives them."""
        return self._output(state.critic, observation, dropout_noise).squeeze(-1)

    def _output(self, network: MLP, observation: Observation, dropout_noise: Tensor | None = None) -> Tensor:
        assert isinstance(network, EncodedMLP)
        features = network.encoder(observation) if self.sees_images else observation
        output: Tensor = network(features, dropout_noise=dropout_noise)
        return output

    def value_loss(self, state: PPOState, rows: Rows) -> Tensor:
        """The values' mean squared error, [S]."""
        value = self._values(state, rows.observation, rows.draws.get("critic_dropout"))
        return clipped_error(value, rows.value, rows.target, self.config.value_clip).mean(dim=1)

    @torch.no_grad()
    def _compare(self, state: PPOState, rows: Rows) -> Metrics:
        """How both networks do after the update, and how far the policy is from the one that acted."""
        policy = self._policy(state, rows.observation, rows.mask)
        log_ratio = state.actor.log_prob(policy, rows.encoded) - rows.log_prob
        value = self._values(state, rows.observation)
        advantage = standardize(rows.advantage) if self.config.normalize_advantage else rows.advantage
        return {
            "policy_loss": -clipped_gain(log_ratio, advantage, self.clip).mean(dim=1),
            "value_loss": clipped_error(value, rows.value, rows.target, self.config.value_clip).mean(dim=1),
            "kl": state.actor.divergence(rows.old, policy).mean(dim=1),
            "entropy": state.actor.entropy(policy).mean(dim=1),
            "value": value.mean(dim=1),
        }

    def initial_carry(self, state: PPOState, count: int) -> tuple[()]:
        return ()

    def act(
        self,
        state: PPOState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """The likeliest action, or a Gaussian's mean; with draws [S, N, action_dim] a sample, which no bounds clip."""
        output = self._output(state.actor.network, self._observe(state, observation))
        return state.actor.act(output, noise, action_mask), ()

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: those that bounds clip have none."""
        return self.kind != "gaussian" or not Clipping(self.spec.action_space).changes

    @torch.no_grad()
    def log_prob(
        self,
        state: PPOState,
        observation: Observation,
        action: Tensor,
        carry: tuple[()],
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1]."""
        return state.actor.log_density(self._policy(state, self._observe(state, observation), action_mask), action)

    def episodes_cut(self, state: PPOState) -> None:
        """The running episodes were cut behind the last rollout: no return goes on from there."""
        if state.return_carry is not None:
            state.return_carry.zero_()

    def ended_schedule(self, state: PPOState) -> int:
        """The transitions seen by each seed, where the learning rates have fallen to 0; else 0."""
        seen = int(state.transitions)
        return seen if seen >= self.config.last_step > 0 else 0

    def adopt_policy(self, state: PPOState, policy: MLP, kind: str) -> None:
        """Start the actor from a network that acted for the same spaces; the critic and a Gaussian's spread stay.

        Raises:
            SpaceMismatchError: it reads other observations.
            RecipeError: its kind of policy, its widths, activation or number of seeds don't fit; or observations are
                normalized as they come, which would change what it sees.
        """
        check_adoptable(self.kind, kind, bounded=is_bounded(self.spec))
        if self.config.normalize_observation:
            what = "a policy that was trained on observations as they are can't start where they are normalized anew"
            raise RecipeError(what, hint="set agent.normalize_observation=false")
        adopt_layers(state.actor.network, policy)


ALGORITHM = Algorithm(
    PPOConfig,
    PPO,
    feeds=("rollouts",),
    actions=("continuous", "discrete", "multi-discrete"),
    provides=(types.Density, types.CriticOnly, types.StartsFromPolicy, types.Scheduled, types.EpisodesCut),
    summary="clipping or a KL penalty, GAE(λ), running normalization, KL stop, rates that decay",
    masks=True,
    images=True,
    goes_on=keep_steady,
    spares_clone=without_decay,
    fits_clone=explore_around_clone,
)
