"""Soft Actor-Critic (Haarnoja et al., 2018), https://arxiv.org/abs/1812.05905, for continuous and discrete actions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.fine_tuning import let_go_of_data, spare_clone
from offrl.agents.space_checks import require_bounded_box
from offrl.config import fields as kinds
from offrl.errors import RecipeError
from offrl.nn import MLP, Adam, Schedule, seed_generators
from offrl.nn import distributions as dist
from offrl.nn.adam import ended_schedule
from offrl.nn.copy_weights import adopt_layers, require_kind, set_spread
from offrl.nn.encoder import EncodedMLP, encoder_maker
from offrl.nn.random_shift import RandomShift
from offrl.nn.sde import Carry, StateDependentGaussian
from offrl.nn.temperature import Temperature
from offrl.types import Batch, CriticOnly, Density, Metrics, Noise, Observation, Scheduled, Spec, StartsFromPolicy


@dataclass(frozen=True)
class SACConfig(Schedule):
    """Options of SAC, with the paper's values unless noted.

    log σ of the Gaussian is clamped to [-5, 2]: the paper gives no bounds, its authors' code has -20 and 2, and a
    spread below e⁻⁵ hardly changes an action. Where the paper leaves a value open, the default is said to be ours.

    By default it is plain SAC, which learns online; on a dataset alone its critics overestimate actions that were never
    tried, so set `bc_alpha` there, as the recipe `sac/offline` does.

    Attributes:
        hidden, activation: of all networks, see `offrl.nn.MLP`.
        convolutions: for each image in the observation, see `offrl.nn.encoder.Encoder`; none leaves them flat. The
            critics' loss trains them, and the actor reads what they give, as in DrQ.
        random_shift: pixels by which images are shifted at random (4 in DrQ); 0 leaves them.
        layer_norm: normalize the critics' hidden layers (not in the paper).
        dropout: chance of zeroing a hidden unit of the critics in their own loss; targets and actor see all units (not
            in the paper).
        weight_decay, max_gradient_norm: of actor and critics (not in the paper), see `offrl.nn.Adam`.
        actor_learning_rate, critic_learning_rate, temperature_learning_rate: Adam's step sizes; 0 fixes a temperature.
        warmup_steps, constant_steps, decay_steps, decay_shape: of all step sizes (in the papers they stay), see
            `offrl.nn.Schedule`.
        discount, target_rate: γ, per step, and τ of the target network's Polyak averaging.
        initial_temperature: α at the start (ours: the paper names none).
        target_entropy: the mean entropy, in nats, that the temperature holds the policy at; "auto" takes −A for A
            continuous components, and a fraction of log A for A discrete actions that the data's masks allow.
        target_entropy_fraction: that fraction (Christodoulou, 2019, https://arxiv.org/abs/1910.07207).
        value_network: learn the state's value with a network of its own, and bootstrap from its target, as the
            first version does (Haarnoja et al., 2018, https://arxiv.org/abs/1801.01290).
        sde: explore by a random function of the state that is redrawn every `sde_every` steps of an episode, and not by
            independent draws; continuous actions only. See `offrl.nn.sde`.
        sde_initial_log_std: log σ of that function's coefficients at the start (ours, as is `sde_every`).
        bc_alpha: α of TD3+BC (see `offrl.agents.td3`), the weight of the soft value beside the distance of sampled
            actions, or the cross-entropy of discrete ones, from all of the batch's; 0 leaves the distance out.
        bc_decay: factor on the distance's weight with each actor step, to let go of the data when fine-tuning.
    """

    __pydantic_config__ = kinds.STRICT

    hidden: kinds.Widths = (256, 256)
    activation: kinds.Activation = "relu"
    convolutions: kinds.Convolutions = "auto"
    random_shift: kinds.CountOrZero = 0
    layer_norm: bool = False
    dropout: kinds.ProbabilityBelowOne = 0.0
    weight_decay: kinds.NonNegative = 0.0
    max_gradient_norm: kinds.NonNegative = 0.0
    actor_learning_rate: kinds.Positive = 3e-4
    critic_learning_rate: kinds.Positive = 3e-4
    temperature_learning_rate: kinds.NonNegative = 3e-4
    discount: kinds.Probability = 0.99
    target_rate: kinds.PositiveFraction = 0.005
    initial_temperature: kinds.Positive = 1.0
    target_entropy: kinds.Finite | Literal["auto"] = "auto"
    target_entropy_fraction: kinds.Probability = 0.98
    value_network: bool = False
    sde: bool = False
    sde_every: kinds.Count = 8
    sde_initial_log_std: kinds.Finite = -3.0
    bc_alpha: kinds.NonNegative = 0.0
    bc_decay: kinds.Probability = 1.0


@dataclass
class SACState:
    """All that training changes; `target` follows the critics or the value network, `bc_weight` [S] is annealed."""

    actor: MLP | StateDependentGaussian
    critic: EncodedMLP
    target: EncodedMLP
    value: EncodedMLP | None
    temperature: Temperature
    actor_optimizer: Adam
    critic_optimizer: Adam
    value_optimizer: Adam | None
    temperature_optimizer: Adam
    bc_weight: Tensor


class SAC:
    """Stochastic actor, twin critics, and a temperature that holds the policy's entropy at its target.

    Continuous actions span [-1, 1] (environment bounds are mapped outside), and policies over them are Gaussians
    squashed by tanh. Over discrete ones, the environment's own numbers, expectations are sums, where masks allow them.

    Raises:
        SpaceMismatchError: actions are neither Discrete nor a bounded Box.
        RecipeError: `sde` is asked for, with discrete actions or without a hidden layer.
    """

    batches_per_update = 1
    adopted_options = ("hidden", "activation")
    """Those of a policy that `adopt_policy` takes."""

    def __init__(self, config: SACConfig, spec: Spec) -> None:
        space = spec.action_space
        self.discrete = isinstance(space, gym.spaces.Discrete)
        if not self.discrete:
            require_bounded_box(spec, "SAC")
        if config.sde and (self.discrete or not config.hidden):
            lacking = "hidden layers" if not config.hidden else "continuous actions"
            raise RecipeError(f"state-dependent exploration needs {lacking}", hint="set agent.sde=false")
        self.config, self.spec, self.discount = config, spec, config.discount
        actions = spec.action_dim
        self.acting_noise_shape: tuple[int, ...] = (config.hidden[-1], actions) if config.sde else (actions,)
        self.first_action = int(space.start) if isinstance(space, gym.spaces.Discrete) else 0
        usual = config.target_entropy_fraction * math.log(actions) if self.discrete else -float(actions)
        self.target_entropy = usual if config.target_entropy == "auto" else config.target_entropy
        self.make_encoder = encoder_maker(spec.observation_space, config.convolutions, config.activation)
        self.shift = RandomShift(config.random_shift, spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> SACState:
        """Fresh networks for each seed; the target starts as a copy."""
        c, generators = self.config, seed_generators(seeds)
        encoder, actions = self.make_encoder(generators), self.spec.action_dim
        options: dict[str, Any] = {"hidden": c.hidden, "generators": generators, "activation": c.activation}
        # Logits of discrete actions, or mean | log standard deviation before squashing.
        network = MLP(encoder.width, actions if self.discrete or c.sde else 2 * actions, **options)
        actor = (StateDependentGaussian(network, c.sde_initial_log_std) if c.sde else network).to(device)
        # Q(s, ·) of discrete actions, Q(s, a) of continuous ones.
        outputs, beside = (actions, 0) if self.discrete else (1, actions)
        options["layer_norm"] = c.layer_norm
        critic = EncodedMLP(encoder, outputs, beside=beside, ensemble=2, dropout=c.dropout, **options).to(device)
        value = EncodedMLP(self.make_encoder(generators), 1, **options).to(device) if c.value_network else None
        temperature = Temperature(len(seeds), c.initial_temperature).to(device)
        adam = partial(Adam, schedule=c)
        limited = partial(adam, weight_decay=c.weight_decay, max_gradient_norm=c.max_gradient_norm)
        return SACState(
            actor=actor,
            critic=critic,
            target=(value or critic).clone(),
            value=value,
            temperature=temperature,
            actor_optimizer=limited(actor, c.actor_learning_rate),
            critic_optimizer=limited(critic, c.critic_learning_rate),
            value_optimizer=limited(value, c.critic_learning_rate) if value else None,
            temperature_optimizer=adam(temperature, c.temperature_learning_rate),
            bc_weight=torch.ones(len(seeds), device=device),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        c, draws = self.config, (batch_size, self.spec.action_dim)
        shapes = self.shift.noise_shapes(1, batch_size) | ({} if self.discrete else {"action": draws})
        if not (self.discrete or c.value_network):
            shapes["next_action"] = draws
        return shapes | ({"dropout": (2, batch_size, sum(c.hidden))} if c.dropout else {})

    def update(self, state: SACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step of the critics and their target, then one each of actor and temperature."""
        (batch,) = self.shift(batches, noise)
        metrics = self._critic_step(state, batch, noise)
        alpha = state.temperature.log_alpha.detach().exp().squeeze(1)
        loss, entropy, more = self.actor_loss(state, batch, noise)
        state.actor_optimizer.minimize(loss.sum())
        state.temperature_optimizer.minimize(self.temperature_loss(state, batch, entropy).sum())
        if self.config.bc_decay != 1.0:
            state.bc_weight.mul_(self.config.bc_decay)
        return metrics | more | {"actor_loss": loss.detach(), "entropy": entropy, "alpha": alpha}

    def update_critic(self, state: SACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same with the policy and its temperature left as they are."""
        (batch,) = self.shift(batches, noise)
        with state.critic.encoder_kept():
            return self._critic_step(state, batch, noise)

    def _critic_step(self, state: SACState, batch: Batch, noise: Noise) -> Metrics:
        metrics: Metrics = {}
        if state.value is not None and state.value_optimizer is not None:
            loss = self.value_loss(state, state.value, batch, noise)
            state.value_optimizer.minimize(loss.sum())
            metrics["value_loss"] = loss.detach()
        loss, more = self.critic_loss(state, batch, self.targets(state, batch, noise), noise.get("dropout"))
        state.critic_optimizer.minimize(loss.sum())
        state.target.move_towards(state.value or state.critic, self.config.target_rate)
        return metrics | more | {"critic_loss": loss.detach()}

    def value_loss(self, state: SACState, value: EncodedMLP, batch: Batch, noise: Noise) -> Tensor:
        """(V(s) − the soft value by the critics)², [S]."""
        draws, mask = noise.get("action"), batch.action_mask
        with torch.no_grad():
            target, *_ = self._soft_value(state, state.critic, batch.observation, draws, mask)
        error: Tensor = value(value.encoder(batch.observation)).squeeze(-1) - target
        return error.square().mean(dim=1)

    @torch.no_grad()
    def targets(self, state: SACState, batch: Batch, noise: Noise) -> Tensor:
        """r + γ V'(s'), [S, B]; V' is the value network's target, or the soft value by the target critics."""
        observation, draws = batch.next_observation, noise.get("next_action")
        if self.config.value_network:
            value: Tensor = state.target(state.target.encoder(observation)).squeeze(-1)
        else:
            value, *_ = self._soft_value(state, state.target, observation, draws, batch.next_action_mask)
        return torch.addcmul(batch.reward, batch.discount, value)

    def critic_loss(
        self, state: SACState, batch: Batch, target_q: Tensor, dropout_noise: Tensor | None = None
    ) -> tuple[Tensor, Metrics]:
        """Σ_i (Q_i(s, a) − y)², [S], for targets y [S, B], each transition with its weight; and metrics."""
        inputs = state.critic.encoder(batch.observation)
        if not self.discrete:
            inputs = torch.cat([inputs, batch.action], dim=-1)
        q = state.critic(inputs, dropout_noise=dropout_noise)
        if self.discrete:
            q = q.gather(-1, self._chosen(batch).unsqueeze(1).expand(-1, 2, -1, -1))
        error = q.squeeze(-1) - target_q.unsqueeze(1)
        squares = error.square()
        metrics = {"q": q.detach(), "target_q": target_q}
        if batch.weight is not None:
            squares = squares * batch.weight.unsqueeze(1)
            metrics["td_error"] = error.detach().abs().mean(dim=1).unsqueeze(0)
        return squares.mean(dim=2).sum(dim=1), metrics

    def actor_loss(self, state: SACState, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor, Metrics]:
        """−V(s), [S], or −λ V(s) + w · (distance from the data), λ = α / mean |V|; the entropy, [S]; and metrics."""
        observation, draws, mask = batch.observation, noise.get("action"), batch.action_mask
        if mask is not None and self.config.bc_alpha:
            mask = dist.including(mask, self._chosen(batch), (self.spec.action_dim,))
        value, entropies, policy = self._soft_value(state, state.critic, observation, draws, mask)
        loss, entropy = -value.mean(dim=1), entropies.detach().mean(dim=1)
        if not self.config.bc_alpha:
            return loss, entropy, {}
        scale = self.config.bc_alpha / value.detach().abs().mean(dim=1)
        if self.discrete:
            distance = -policy.gather(-1, self._chosen(batch)).mean(dim=(1, 2))
        else:
            distance = (policy - batch.action).square().mean(dim=(1, 2))
        return scale * loss + state.bc_weight * distance, entropy, {"bc_loss": distance.detach()}

    def temperature_loss(self, state: SACState, batch: Batch, entropy: Tensor) -> Tensor:
        """log α (H − its target), [S]: α falls where the entropy H [S] is above its target, and rises below."""
        target: Tensor | float = self.target_entropy
        if batch.action_mask is not None and self.config.target_entropy == "auto":
            target = self.config.target_entropy_fraction * batch.action_mask.sum(dim=-1).log().mean(dim=1)
        return state.temperature.log_alpha.squeeze(1) * (entropy - target)

    def _soft_value(
        self, state: SACState, critic: EncodedMLP, observation: Observation, draws: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """V(s) = E[min_i Q_i(s, a) − α log π(a|s)] and the entropy E[−log π(a|s)], [S, B] each, and the policy.

        Over discrete actions the expectation is exact, and the policy is log π(·|s), [S, B, A]; of a continuous one, a
        sample [S, B, A] stands for either.
        """
        alpha, features = state.temperature.log_alpha.detach().exp(), critic.features_of(observation)
        output = state.actor(state.critic.features_of(observation))
        if draws is None:
            log_probs = dist.allowed_logits(output, mask).log_softmax(dim=-1)
            probs, q = log_probs.exp(), critic(features).amin(dim=1)
            entropy = -(probs * log_probs).sum(dim=-1)
            return torch.addcmul((probs * q).sum(dim=-1), alpha, entropy), entropy, log_probs
        action, log_prob = dist.squashed_gaussian_sample(output, draws)
        q = critic(torch.cat([features, action], dim=-1)).amin(dim=1).squeeze(-1)
        return torch.addcmul(q, alpha, log_prob, value=-1.0), -log_prob, action

    def _chosen(self, batch: Batch) -> Tensor:
        """The logged discrete actions, counted from 0, [S, B, 1]."""
        return (batch.action - self.first_action).unsqueeze(-1)

    def initial_carry(self, state: SACState, count: int) -> Carry:
        """Nothing, but with `sde`: no function yet, since the first step draws one."""
        return state.actor.initial_carry(count) if isinstance(state.actor, StateDependentGaussian) else ()

    def act(
        self,
        state: SACState,
        observation: Observation,
        carry: Carry,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Carry]:
        """tanh of the mean, or the likeliest action; with draws [S, N, *acting_noise_shape], a sample of the policy."""
        inputs = state.critic.features_of(observation)
        if isinstance(state.actor, StateDependentGaussian) and noise is not None:
            before, carry = state.actor.explore(inputs, carry, noise, self.config.sde_every)
            return before.tanh(), carry
        output = state.actor(inputs)
        if self.discrete:
            log_probs = dist.split_categoricals(output, (self.spec.action_dim,), action_mask)
            choice = dist.categorical_mode(log_probs) if noise is None else dist.categorical_sample(log_probs, noise)
            return choice.squeeze(-1) + self.first_action, carry
        return dist.squashed_gaussian_action(output, noise), carry

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: not where one random function gives several of them."""
        return not self.config.sde or self.config.sde_every == 1

    @torch.no_grad()
    def log_prob(
        self, state: SACState, observation: Observation, action: Tensor, carry: Carry, action_mask: Tensor | None = None
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1]."""
        output = state.actor(state.critic.features_of(observation))
        if self.discrete:
            log_probs = dist.split_categoricals(output, (self.spec.action_dim,), action_mask)
            return dist.categorical_log_prob(log_probs, (action - self.first_action).long().unsqueeze(-1))
        return dist.squashed_gaussian_log_prob(*dist.split_gaussian(output), action)

    def ended_schedule(self, state: SACState) -> int:
        """The steps taken, where step sizes have fallen to 0."""
        return ended_schedule((state.actor_optimizer, state.critic_optimizer, state.temperature_optimizer))

    @torch.no_grad()
    def adopt_policy(self, state: SACState, policy: MLP, kind: str) -> None:
        """Start the actor from a cloned policy; one without a spread gets that of the target entropy before squashing.

        Raises:
            RecipeError: the kind doesn't fit the action space, or options of the two networks differ.
            SpaceMismatchError: the networks read observations of different widths.
        """
        require_kind("SAC", kind, ("categorical",) if self.discrete else ("squashed_gaussian", "deterministic"))
        network = state.actor.mean if isinstance(state.actor, StateDependentGaussian) else state.actor
        adopt_layers(network, policy)
        if kind == "deterministic" and network is state.actor:
            set_spread(network, dist.log_std_of_entropy(self.target_entropy / self.spec.action_dim))


ALGORITHM = Algorithm(
    SACConfig,
    SAC,
    feeds=("dataset", "replay"),
    actions=("continuous", "discrete"),
    provides=(Density, CriticOnly, StartsFromPolicy, Scheduled),
    summary="automatic temperature, a state-value network, state-dependent exploration",
    masks=True,
    td_errors=True,
    images=True,
    goes_on=let_go_of_data,
    # A clone of an expert has less entropy than the target: the temperature would rise until noise drowned the skill.
    spares_clone=partial(spare_clone, initial_temperature=0.05, temperature_learning_rate=0.0),
)
