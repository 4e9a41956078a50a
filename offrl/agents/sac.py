"""Soft Actor-Critic (Haarnoja et al., 2018), https://arxiv.org/abs/1812.05905, for continuous and discrete actions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, FiniteFloat, NonNegativeInt
from torch import Tensor, nn

from offrl.agents.space_checks import require_bounded_box
from offrl.config.fields import (
    Activation,
    Count,
    NonNegative,
    Positive,
    PositiveFraction,
    Probability,
    ProbabilityBelowOne,
    Widths,
)
from offrl.errors import RecipeError
from offrl.nn import MLP, Adam, FlatModule, FlatObservation, seed_generators
from offrl.nn.copy_weights import adopt_layers
from offrl.nn.distributions import (
    allowed_logits,
    categorical_log_prob,
    categorical_mode,
    categorical_sample,
    log_std_of_entropy,
    split_categoricals,
    split_gaussian,
    squashed_gaussian_log_prob,
    squashed_gaussian_sample,
)
from offrl.nn.numpy_mlp import without_gradients
from offrl.nn.sde import StateDependentGaussian
from offrl.ops.losses import squared_error
from offrl.ops.numpy_or_torch import Array, at_hand, handed_back, namespace
from offrl.types import Batch, Metrics, Noise, Observation, Spec


@dataclass(frozen=True)
class SACConfig:
    """Options of SAC, with the paper's values unless noted.

    By default it is plain SAC, which learns online; on a dataset alone its critics overestimate actions that were never
    tried, so set `bc_alpha` there, as the recipe `sac/offline` does.

    Attributes:
        hidden: widths of the hidden layers of all networks.
        activation: see `offrl.nn.MLP`.
        layer_norm: normalize the critics' hidden layers (not in the paper).
        dropout: chance of zeroing a hidden unit of the critics in their own loss; targets and actor see all units.
        weight_decay: decoupled decay rate of actor and critics (not in the paper).
        max_gradient_norm: longer gradients are scaled to this norm; 0 leaves them as they are.
        actor_learning_rate, critic_learning_rate, temperature_learning_rate: Adam's step sizes; a temperature with
            rate 0 stays as it starts.
        decay_steps: critic steps over which all step sizes fall linearly to 0; 0 keeps them (the papers' way).
        discount: γ, per step.
        target_rate: τ of the target network's Polyak averaging.
        initial_temperature: α at the start.
        target_entropy: the mean entropy, in nats, that the temperature holds the policy at; "auto" takes −A for A
            continuous action components, and `target_entropy_fraction` of log A for A discrete actions that the data's
            masks allow.
        target_entropy_fraction: share of the uniform policy's entropy (Christodoulou, 2019,
            https://arxiv.org/abs/1910.07207).
        value_network: learn the state's value with a network of its own, and bootstrap from its target, as the
            first version does (Haarnoja et al., 2018, https://arxiv.org/abs/1801.01290).
        sde: explore by a random function of the state that is redrawn every `sde_every` steps of acting, and not by
            independent draws; continuous actions only. See `offrl.nn.sde`.
        sde_every: steps between the draws of that function.
        sde_initial_log_std: log σ of its coefficients at the start.
        bc_alpha: α of TD3+BC (Fujimoto & Gu, 2021, https://arxiv.org/abs/2106.06860), the weight of the soft value
            beside the distance of sampled actions, or the cross-entropy of discrete ones, from the batch's; 0 leaves
            the distance out. Every transition counts, so also the agent's own where a batch mixes these with data.
        bc_decay: factor on the distance's weight with each actor step, to let go of the data when fine-tuning.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    hidden: Widths = (256, 256)
    activation: Activation = "relu"
    layer_norm: bool = False
    dropout: ProbabilityBelowOne = 0.0
    weight_decay: NonNegative = 0.0
    max_gradient_norm: NonNegative = 0.0
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    temperature_learning_rate: NonNegative = 3e-4
    decay_steps: NonNegativeInt = 0
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    initial_temperature: Positive = 1.0
    target_entropy: FiniteFloat | Literal["auto"] = "auto"
    target_entropy_fraction: Probability = 0.98
    value_network: bool = False
    sde: bool = False
    sde_every: Count = 8
    sde_initial_log_std: FiniteFloat = -3.0
    bc_alpha: NonNegative = 0.0
    bc_decay: Probability = 1.0


class Temperature(FlatModule):
    """log α of each seed, [S, 1]."""

    def __init__(self, seeds: int, initial: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((seeds, 1), math.log(initial)))
        self.flatten()


@dataclass
class SACState:
    """All that training, and acting, change; `bc_weight` [S] is the annealed weight of the distance from the data.

    `target` follows the critics, or the value network where there is one. With `sde`, `exploration` [S, F, A] are the
    draws that are held, and `acting_steps` counts, for all seeds, the steps that explored; else it is empty.
    """

    actor: MLP | StateDependentGaussian
    critic: MLP
    target: MLP
    value: MLP | None
    temperature: Temperature
    actor_optimizer: Adam
    critic_optimizer: Adam
    value_optimizer: Adam | None
    temperature_optimizer: Adam
    exploration: Tensor
    acting_steps: Tensor
    bc_weight: Tensor


class SAC:
    """Stochastic actor, twin critics, and a temperature that holds the policy's entropy at its target.

    Observations are flat vectors. Continuous actions span [-1, 1] (environment bounds are mapped outside), and policies
    over them are Gaussians squashed by tanh. Discrete actions are the environment's own numbers, and expectations over
    them are sums, over those that the data's masks allow.

    Raises:
        SpaceMismatchError: actions are neither Discrete nor a bounded Box.
        RecipeError: `sde` is asked for, with discrete actions or without a hidden layer.
    """

    batches_per_update = 1
    tells_errors = True
    acts_on_arrays = True
    honors_masks = True
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
        self.config, self.spec = config, spec
        actions = spec.action_dim
        self.exploration_shape: tuple[int, ...] = (config.hidden[-1], actions) if config.sde else (actions,)
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
        actor = self._make_actor(generators).to(device)
        critic = self._make_critic(generators).to(device)
        value = self._make_value(generators).to(device) if c.value_network else None
        temperature = Temperature(len(seeds), c.initial_temperature).to(device)
        held = self.exploration_shape if c.sde else (0,)
        return SACState(
            actor=actor,
            critic=critic,
            target=(value or critic).clone(),
            value=value,
            temperature=temperature,
            actor_optimizer=self._optimizer(actor, c.actor_learning_rate),
            critic_optimizer=self._optimizer(critic, c.critic_learning_rate),
            value_optimizer=self._optimizer(value, c.critic_learning_rate) if value else None,
            temperature_optimizer=Adam(temperature, c.temperature_learning_rate, decay_steps=c.decay_steps),
            exploration=torch.zeros(len(seeds), *held, device=device),
            acting_steps=torch.zeros((), dtype=torch.int64, device=device),
            bc_weight=torch.ones(len(seeds), device=device),
        )

    def _make_actor(self, generators: list[torch.Generator]) -> MLP | StateDependentGaussian:
        """Logits of discrete actions, or mean | log standard deviation before squashing."""
        c, actions = self.config, self.spec.action_dim
        outputs = actions if self.discrete or c.sde else 2 * actions
        network = MLP(self.flat_observation.width, outputs, c.hidden, generators, activation=c.activation)
        return StateDependentGaussian(network, c.sde_initial_log_std) if c.sde else network

    def _make_critic(self, generators: list[torch.Generator]) -> MLP:
        """Two networks of Q(s, ·) for discrete actions, of Q(s, a) for continuous ones."""
        c, observations, actions = self.config, self.flat_observation.width, self.spec.action_dim
        inputs, outputs = (observations, actions) if self.discrete else (observations + actions, 1)
        return MLP(
            inputs,
            outputs,
            c.hidden,
            generators,
            ensemble=2,
            activation=c.activation,
            layer_norm=c.layer_norm,
            dropout=c.dropout,
        )

    def _make_value(self, generators: list[torch.Generator]) -> MLP:
        c = self.config
        width = self.flat_observation.width
        return MLP(width, 1, c.hidden, generators, activation=c.activation, layer_norm=c.layer_norm)

    def _optimizer(self, network: FlatModule, learning_rate: float) -> Adam:
        c = self.config
        return Adam(
            network,
            learning_rate,
            weight_decay=c.weight_decay,
            max_gradient_norm=c.max_gradient_norm,
            decay_steps=c.decay_steps,
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        c = self.config
        shapes: dict[str, tuple[int, ...]] = {}
        if not self.discrete:
            shapes["action"] = (batch_size, self.spec.action_dim)
            if not c.value_network:
                shapes["next_action"] = shapes["action"]
        if c.dropout:
            shapes["dropout"] = (2, batch_size, sum(c.hidden))
        return shapes

    @torch.inference_mode()
    def update(self, state: SACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step of the critics and their target, then one each of actor and temperature."""
        metrics = self.update_critic(state, batches, noise)
        return metrics | self._actor_and_temperature_step(state, batches[0], noise)

    @torch.inference_mode()
    def update_critic(self, state: SACState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same with the policy and its temperature left as they are."""
        (batch,) = batches
        metrics = self._value_step(state, batch, noise) | self._critic_step(state, batch, noise)
        state.target.move_towards(state.value or state.critic, self.config.target_rate)
        return metrics

    def _value_step(self, state: SACState, batch: Batch, noise: Noise) -> Metrics:
        """With a value network, regress it on the soft value by the critics."""
        if state.value is None or state.value_optimizer is None:
            return {}
        observation = self.flat_observation(batch.observation)
        target, _ = self._soft_value(state, state.critic, observation, noise.get("action"), batch.action_mask)
        value = state.value.record(observation)
        loss, slope = squared_error(value.output, target.unsqueeze(-1))
        state.value_optimizer.descend(value.gradient(slope))
        return {"value_loss": loss}

    def _critic_step(self, state: SACState, batch: Batch, noise: Noise) -> Metrics:
        """Regress both critics on r + γ V'(s')."""
        target_q = torch.addcmul(batch.reward, batch.discount, self._next_value(state, batch, noise))
        critic = state.critic.record(self._critic_input(batch), dropout_noise=noise.get("dropout"))
        chosen = self._chosen(batch) if self.discrete else None
        q = (critic.output if chosen is None else critic.output.gather(-1, chosen)).squeeze(-1)
        error = q - target_q.unsqueeze(1)
        weighted = error if batch.weight is None else error * batch.weight.unsqueeze(1)
        slope = (weighted * (2.0 / error.shape[2])).unsqueeze(-1)
        by_output = slope if chosen is None else torch.zeros_like(critic.output).scatter_(-1, chosen, slope)
        state.critic_optimizer.descend(critic.gradient(by_output))
        metrics = {"critic_loss": (weighted * error).sum(dim=1), "q": q, "target_q": target_q}
        if batch.weight is not None:
            metrics["td_error"] = error.abs().mean(dim=1).unsqueeze(0)
        return metrics

    def _next_value(self, state: SACState, batch: Batch, noise: Noise) -> Tensor:
        """V'(s'), [S, B]: the value network's target, or the soft value by the target critics."""
        next_observation = self.flat_observation(batch.next_observation)
        if self.config.value_network:
            value: Tensor = state.target(next_observation).squeeze(-1)
            return value
        draws, mask = noise.get("next_action"), batch.next_action_mask
        return self._soft_value(state, state.target, next_observation, draws, mask)[0]

    def _actor_and_temperature_step(self, state: SACState, batch: Batch, noise: Noise) -> Metrics:
        """Raise the soft value V; raise log α where the entropy is below its target, and lower it above.

        With `bc_alpha` the actor minimizes −λ V + w · (its distance from the data), λ = α / mean |V|; w decays.
        """
        observation = self.flat_observation(batch.observation)
        alpha = state.temperature.log_alpha.detach().exp()
        actor = state.actor.record(observation)
        if self.discrete:
            logits = allowed_logits(actor.output, batch.action_mask)
            value, entropies, slope = _expected(logits, state.critic(observation).amin(dim=1), alpha)
        else:
            value, entropies, slope = self._sampled(state.critic, observation, actor.output, noise["action"], alpha)
        loss = -value
        metrics: Metrics = {}
        if self.config.bc_alpha:
            scale = (self.config.bc_alpha / value.abs().mean(dim=1)).unsqueeze(-1)
            distance, by_distance = self._distance_from_data(actor.output, batch, noise)
            weight = state.bc_weight.unsqueeze(-1)
            loss = torch.addcmul(scale * loss, weight, distance)
            slope = torch.addcmul(scale.unsqueeze(-1) * slope, weight.unsqueeze(-1), by_distance)
            metrics["bc_loss"] = distance
        state.actor_optimizer.descend(actor.gradient(slope))
        if self.config.bc_decay != 1.0:
            state.bc_weight.mul_(self.config.bc_decay)
        entropy = entropies.mean(dim=1)
        # The gradient of log α · (entropy − target).
        state.temperature_optimizer.descend(entropy - self._attainable_entropy(batch))
        return metrics | {"actor_loss": loss, "entropy": entropy, "alpha": alpha.squeeze(1)}

    def _attainable_entropy(self, batch: Batch) -> Tensor | float:
        """The target entropy; where masks leave fewer actions, "auto" takes the fraction of what these can have."""
        if batch.action_mask is None or self.config.target_entropy != "auto":
            return self.target_entropy
        return self.config.target_entropy_fraction * batch.action_mask.sum(dim=-1).log().mean(dim=1)

    def _distance_from_data(self, output: Tensor, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        """A transition's −log π(a|s), or Σ (sample − a)² / A, [S, B]; its mean differentiated by the actor's output."""
        if self.discrete:
            chosen = (batch.action - self.first_action).unsqueeze(-1)
            log_probs = allowed_logits(output, batch.action_mask).log_softmax(dim=-1)
            by_logits = log_probs.exp().scatter_add_(-1, chosen, -torch.ones_like(chosen, dtype=output.dtype))
            return -log_probs.gather(-1, chosen).squeeze(-1), by_logits / output.shape[1]
        sample, components = squashed_gaussian_sample(output, noise["action"]), self.spec.action_dim
        errors, slope = squared_error(sample.action, batch.action)
        return errors / components, sample.gradient(slope / components, 0.0)

    def _soft_value(
        self, state: SACState, critic: MLP, observation: Tensor, draws: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """E[min_i Q_i(s, a) − α log π(a|s)] and E[−log π(a|s)], [S, B] each.

        Of a continuous action, one sample stands for the expectation; over discrete ones it is exact.
        """
        alpha = state.temperature.log_alpha.detach().exp()
        output = state.actor(observation)
        if draws is None:
            return _expected(allowed_logits(output, mask), critic(observation).amin(dim=1), alpha)[:2]
        sample = squashed_gaussian_sample(output, draws)
        q = critic(torch.cat([observation, sample.action], dim=-1)).squeeze(-1).amin(dim=1)
        return torch.addcmul(q, alpha, sample.log_prob, value=-1.0), -sample.log_prob

    def _sampled(
        self, critic: MLP, observation: Tensor, output: Tensor, draws: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `_soft_value` has of continuous actions, and −(its mean) differentiated by the actor's output."""
        sample, weight = squashed_gaussian_sample(output, draws), 1.0 / output.shape[1]
        judged = critic.record(torch.cat([observation, sample.action], dim=-1))
        q, least = judged.output.min(dim=1, keepdim=True)
        by_q = torch.zeros_like(judged.output).scatter_(1, least, -weight)
        by_action = judged.gradient_by_input(by_q, first=observation.shape[-1])
        value = torch.addcmul(q.flatten(1), alpha, sample.log_prob, value=-1.0)
        return value, -sample.log_prob, sample.gradient(by_action, weight * alpha.unsqueeze(-1))

    def _critic_input(self, batch: Batch) -> Tensor:
        """Observations, with the actions behind them where those are continuous."""
        observation = self.flat_observation(batch.observation)
        return observation if self.discrete else torch.cat([observation, batch.action], dim=-1)

    def _chosen(self, batch: Batch) -> Tensor:
        """Which of both critics' values are those of the logged discrete actions, [S, 2, B, 1]."""
        return (batch.action - self.first_action)[:, None, :, None].expand(-1, 2, -1, -1)

    @without_gradients
    def act(
        self, state: SACState, observation: Observation | NDArray[Any], noise: Array = None, action_mask: Array = None
    ) -> Array:
        """tanh of the mean, or the likeliest action; with draws [S, N, *exploration_shape], a sample of the policy.

        With `sde`, the draws of a seed's first observation are held as that seed's random function when it is due.
        """
        inputs = self.flat_observation(observation)
        if isinstance(state.actor, StateDependentGaussian):
            inputs = handed_back(inputs)
            if noise is not None:
                due = state.acting_steps % self.config.sde_every == 0
                state.exploration.copy_(torch.where(due, handed_back(noise)[:, 0], state.exploration))
                state.acting_steps += 1
                return state.actor.explore(inputs, state.exploration).tanh()
        output = state.actor(inputs)
        if self.discrete:
            log_probs = split_categoricals(handed_back(output), (self.spec.action_dim,), handed_back(action_mask))
            choice = categorical_mode(log_probs) if noise is None else categorical_sample(log_probs, handed_back(noise))
            return choice.squeeze(-1) + self.first_action
        mean, log_std = split_gaussian(at_hand(output))
        xp = namespace(mean)
        sample = mean if noise is None else mean + xp.exp(log_std) * at_hand(noise)
        return handed_back(xp.tanh(sample), to=observation)

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: not where one random function gives several of them."""
        return not self.config.sde or self.config.sde_every == 1

    @torch.no_grad()
    def log_prob(
        self, state: SACState, observation: Observation, action: Tensor, action_mask: Tensor | None = None
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1]."""
        output = state.actor(self.flat_observation(observation))
        if self.discrete:
            choice = (action - self.first_action).long().unsqueeze(-1)
            return categorical_log_prob(split_categoricals(output, (self.spec.action_dim,), action_mask), choice)
        return squashed_gaussian_log_prob(*split_gaussian(output), action)

    @torch.no_grad()
    def adopt_policy(self, state: SACState, policy: MLP, kind: str) -> None:
        """Start the actor from a cloned policy, such that its greedy actions are the same.

        A deterministic policy gets the spread, the same in all states, that has the target entropy before squashing.

        Args:
            policy: logits, or what comes before tanh: the mean, or mean | log standard deviation.
            kind: "categorical" for discrete actions; "deterministic" or "squashed_gaussian" for continuous ones.

        Raises:
            RecipeError: the kind doesn't fit, or options of the two networks differ.
            SpaceMismatchError: the networks read observations of different widths.
        """
        kinds = ("categorical",) if self.discrete else ("deterministic", "squashed_gaussian")
        if kind not in kinds:
            raise RecipeError(
                f"SAC can't start from a {kind} policy here: its own is {kinds[-1].replace('_', ' ')}",
                hint=f"clone one with agent.policy={kinds[-1]}",
            )
        if isinstance(state.actor, StateDependentGaussian):
            adopt_layers(state.actor.mean, policy)
            return
        adopt_layers(state.actor, policy)
        if kind == "deterministic":
            _, log_std_weight = state.actor.get_parameter(f"layers.{len(self.config.hidden)}.weight").chunk(2, dim=-2)
            _, log_std_bias = state.actor.get_parameter(f"layers.{len(self.config.hidden)}.bias").chunk(2, dim=-1)
            log_std_weight.zero_()
            log_std_bias.fill_(log_std_of_entropy(self.target_entropy / self.spec.action_dim))


def _expected(logits: Tensor, q: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The soft value over discrete actions, their entropy, and −(the value's mean) differentiated by the logits.

    With V = Σ_a p_a (Q_a − α log p_a), dV/dlogit_a = p_a (Q_a − α log p_a − V).

    Args:
        logits, q: [S, B, A].
        alpha: [S, 1].

    Returns:
        [S, B], [S, B] in nats, [S, B, A].
    """
    log_probs = logits.log_softmax(dim=-1)
    probs = log_probs.exp()
    soft_q = torch.addcmul(q, alpha.unsqueeze(-1), log_probs, value=-1.0)
    value = (probs * soft_q).sum(dim=-1)
    slope = probs * (value.unsqueeze(-1) - soft_q) / value.shape[1]
    return value, -(probs * log_probs).sum(dim=-1), slope
