"""Implicit Q-learning (Kostrikov, Nair & Levine, 2021), https://arxiv.org/abs/2110.06169.

With extreme Q-learning's loss of the value (Garg, Hejna, Geist & Ermon, 2023), https://arxiv.org/abs/2301.02328, as an
option.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.fine_tuning import keep_steady
from offrl.agents.space_checks import PolicyKind, choices_of, policy_kind, require_bounded_box
from offrl.config.fields import (
    STRICT,
    Activation,
    Convolutions,
    CountOrZero,
    Finite,
    NonNegative,
    Positive,
    PositiveFraction,
    Probability,
    Widths,
)
from offrl.nn import MLP, Adam, FlatAction, Schedule, seed_generators
from offrl.nn.adam import ended_schedule
from offrl.nn.copy_weights import adopt_layers, require_kind
from offrl.nn.distributions import including
from offrl.nn.encoder import EncodedMLP, encoder_maker
from offrl.nn.policy_heads import CategoricalActor, GaussianActor, actor_of
from offrl.nn.random_shift import RandomShift
from offrl.types import Batch, CriticOnly, Density, Metrics, Noise, Observation, Scheduled, Spec, StartsFromPolicy

LARGEST_GUMBEL_ERROR = 7.0


@dataclass(frozen=True)
class IQLConfig(Schedule):
    """Options of IQL, with the paper's values for locomotion unless noted.

    For AntMaze the paper has an expectile of 0.9 and a temperature of 10. It scales locomotion rewards by 1,000 over
    the range of the data's returns, as `data.reward_scale` can, and sees observations as they are
    (`data.normalize_observation=false`). Its authors' code bounds log σ; here nothing does.

    Attributes:
        policy: "gaussian" around the tanh of a network's output, with a spread that is the same in all states, as in
            the paper; "squashed_gaussian", the same before a tanh, whose samples have a density within the bounds;
            "categorical" for discrete and multi-discrete actions, which the paper doesn't have; "auto" takes "gaussian"
            or "categorical".
        hidden: widths of the hidden layers of all networks.
        activation: see `offrl.nn.MLP`.
        convolutions: for each image in the observation, see `offrl.nn.encoder.Encoder`; none leaves them flat. The
            critics' loss trains them, and actor and value read what they give, as in DrQ.
        random_shift: pixels by which images are shifted at random (4 in DrQ); 0 leaves them.
        layer_norm: normalize the hidden layers of the critics and of the value (not in the paper).
        actor_learning_rate, critic_learning_rate: Adam's step sizes; the value network has the critics'.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the actor's step size alone, see
            `offrl.nn.Schedule`. In the paper it falls by a cosine over the whole run; by default it stays, for the
            options don't know how long that is.
        discount: γ, per step.
        target_rate: τ of the target critics' Polyak averaging.
        value_loss: what V(s) is of Q(s, ·) over the data's actions: their "expectile", or by "gumbel" their soft
            maximum β log E exp(Q / β), which is XQL.
        gumbel_scale: that β, in units of the return: 0 would take the maximum, ∞ the mean. XQL took 0.6 to 5.
        expectile: τ, of Q(s, ·) over the data's actions that V(s) is: 0.5 is their mean, towards 1 their maximum; 0.9
            where good actions are rare.
        temperature: β, the weight of the advantage in exp(β A): 0 clones the data, more picks its best actions.
        largest_weight: that an action may have, exp(β A) is clipped to it.
        initial_log_std: of a Gaussian policy, where actions span [-1, 1].
    """

    __pydantic_config__ = STRICT

    policy: PolicyKind = "auto"
    hidden: Widths = (256, 256)
    activation: Activation = "relu"
    convolutions: Convolutions = "auto"
    random_shift: CountOrZero = 0
    layer_norm: bool = False
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    value_loss: Literal["expectile", "gumbel"] = "expectile"
    gumbel_scale: Positive = 2.0
    expectile: PositiveFraction = 0.7
    temperature: NonNegative = 3.0
    largest_weight: Positive = 100.0
    initial_log_std: Finite = 0.0


@dataclass
class IQLState:
    """All that training changes."""

    actor: GaussianActor | CategoricalActor
    critic: EncodedMLP
    target_critic: EncodedMLP
    value: MLP
    actor_optimizer: Adam
    critic_optimizer: Adam
    value_optimizer: Adam


class IQL:
    """Values of the data's own actions alone, and a policy that clones the better ones among them.

    No action that the data doesn't hold is ever asked about: V(s) is an expectile of Q(s, a) over the data's actions, Q
    bootstraps from V, and the policy is a regression on the data weighted by exp(β (Q − V)).

    Continuous actions are flat vectors, and span [-1, 1] (environment bounds are mapped outside); of discrete ones
    critics see the one-hot code, and the policy chooses among those that masks allow.

    Raises:
        SpaceMismatchError: actions are neither discrete nor vectors with finite bounds, or the kind of policy doesn't
            fit them.
    """

    batches_per_update = 1
    adopted_options: ClassVar[tuple[str, ...]] = ("hidden", "activation")

    def __init__(self, config: IQLConfig, spec: Spec) -> None:
        self.config, self.spec, self.discount = config, spec, config.discount
        self.kind = policy_kind(config.policy, spec, ("gaussian", "squashed_gaussian"))
        if self.kind != "categorical":
            require_bounded_box(spec, "IQL")
        self.choices, self.first_choice = choices_of(spec.action_space)
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        self.flat_action = FlatAction(spec.action_space)
        self.make_encoder = encoder_maker(spec.observation_space, config.convolutions, config.activation)
        self.shift = RandomShift(config.random_shift, spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> IQLState:
        """Fresh networks for each seed; the target starts as a copy."""
        c, generators = self.config, seed_generators(seeds)
        encoder, actions = self.make_encoder(generators), self.spec.action_dim
        policy = MLP(encoder.width, actions, c.hidden, generators, activation=c.activation)
        choices = self.choices, self.first_choice
        actor = actor_of(self.kind, policy, self.spec, choices, c.initial_log_std).to(device)
        like: dict[str, Any] = {"activation": c.activation, "layer_norm": c.layer_norm}
        critic = EncodedMLP(encoder, 1, c.hidden, generators, beside=actions, ensemble=2, **like).to(device)
        value = MLP(encoder.width, 1, c.hidden, generators, **like).to(device)
        return IQLState(
            actor=actor,
            critic=critic,
            target_critic=critic.clone(),
            value=value,
            actor_optimizer=Adam(actor, c.actor_learning_rate, schedule=c),
            critic_optimizer=Adam(critic, c.critic_learning_rate),
            value_optimizer=Adam(value, c.critic_learning_rate),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """None of actions, which all are the data's."""
        return self.shift.noise_shapes(1, batch_size)

    def update(self, state: IQLState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step each of value, actor, critics and targets, in the order of the authors' code."""
        (batch,) = self.shift(batches, noise)
        metrics, q = self._value_step(state, batch)
        loss = self.actor_loss(state, batch, q)
        state.actor_optimizer.minimize(loss.sum())
        return metrics | self._critic_step(state, batch) | {"actor_loss": loss.detach()}

    def update_critic(self, state: IQLState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same with the policy left as it is."""
        (batch,) = self.shift(batches, noise)
        metrics, _ = self._value_step(state, batch)
        with state.critic.encoder_kept():
            return metrics | self._critic_step(state, batch)

    def _value_step(self, state: IQLState, batch: Batch) -> tuple[Metrics, Tensor]:
        """Its metrics, and the lower one of the target critics' values, [S, B]."""
        with torch.no_grad():
            q = state.target_critic(self._pairs(state.target_critic, batch)).squeeze(-1).amin(dim=1)
        loss, value = self.value_loss(state, batch, q)
        state.value_optimizer.minimize(loss.sum())
        return {"value_loss": loss.detach(), "value": value.detach()}, q

    def value_loss(self, state: IQLState, batch: Batch, q: Tensor) -> tuple[Tensor, Tensor]:
        """L₂^τ(Q(s, a) − V(s)), [S], the expectile loss of the paper's equation 5, or XQL's; and V(s), [S, B]."""
        c, value = self.config, self._value(state, batch.observation)
        if c.value_loss == "gumbel":
            return gumbel_loss((q - value) / c.gumbel_scale).mean(dim=1), value
        return expectile_loss(q - value, c.expectile).mean(dim=1), value

    def actor_loss(self, state: IQLState, batch: Batch, q: Tensor) -> Tensor:
        """−exp(β (Q(s, a) − V(s))) log π(a | s), [S], the advantage-weighted regression of equation 7.

        Among the actions that masks allow; what the data did counts as allowed in any case.
        """
        with torch.no_grad():
            advantage = q - self._value(state, batch.observation)
            weight = (self.config.temperature * advantage).exp().clamp(max=self.config.largest_weight)
        mask = batch.action_mask
        if mask is not None:
            mask = including(mask, state.actor.encode(batch.action), self.choices)
        policy = state.actor.distribution(self._output(state, batch.observation), mask)
        return -(weight * state.actor.log_density(policy, batch.action)).mean(dim=1)

    def _critic_step(self, state: IQLState, batch: Batch) -> Metrics:
        loss, q = self.critic_loss(state, batch)
        state.critic_optimizer.minimize(loss.sum())
        state.target_critic.move_towards(state.critic, self.config.target_rate)
        return {"critic_loss": loss.detach(), "q": q.detach()}

    def critic_loss(self, state: IQLState, batch: Batch) -> tuple[Tensor, Tensor]:
        """Σ_i (r + γ V(s') − Q_i(s, a))², [S], equation 6; and each critic's Q(s, a), [S, 2, B]."""
        with torch.no_grad():
            target = batch.reward + batch.discount * self._value(state, batch.next_observation)
        q = state.critic(self._pairs(state.critic, batch)).squeeze(-1)
        return (q - target.unsqueeze(1)).square().mean(dim=2).sum(dim=1), q

    def _pairs(self, critic: EncodedMLP, batch: Batch) -> Tensor:
        """What the critic reads."""
        return torch.cat([critic.encoder(batch.observation), self.flat_action(batch.action)], dim=-1)

    def _value(self, state: IQLState, observation: Observation) -> Tensor:
        value: Tensor = state.value(state.critic.features_of(observation)).squeeze(-1)
        return value

    def _output(self, state: IQLState, observation: Observation) -> Tensor:
        """What the policy's distribution is made of: a Gaussian's mean, a squashed one's before its tanh, or logits."""
        output: Tensor = state.actor.network(state.critic.features_of(observation))
        return output.tanh() if self.kind == "gaussian" else output

    def initial_carry(self, state: IQLState, count: int) -> tuple[()]:
        """Nothing: actions depend on the observation alone."""
        return ()

    def act(
        self,
        state: IQLState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """The policy's mean or likeliest action; with draws [S, N, A] a sample.

        Continuous ones are clipped to [-1, 1]: critics learn of what was executed.
        """
        action = state.actor.act(self._output(state, observation), noise, action_mask)
        return action if self.kind == "categorical" else action.clamp(-1.0, 1.0), carry

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the density `log_prob`: those that bounds clip have none."""
        return self.kind != "gaussian"

    @torch.no_grad()
    def log_prob(
        self,
        state: IQLState,
        observation: Observation,
        action: Tensor,
        carry: tuple[()],
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """log π(a | s), [S, N], in nats; densities are with respect to actions in [-1, 1]."""
        return state.actor.log_density(state.actor.distribution(self._output(state, observation), action_mask), action)

    def ended_schedule(self, state: IQLState) -> int:
        """The steps taken, where the actor's step size has fallen to 0."""
        return ended_schedule((state.actor_optimizer,))

    def adopt_policy(self, state: IQLState, policy: MLP, kind: str) -> None:
        """Start the actor's mean or logits from a cloned policy of the same hidden widths; a spread stays.

        Raises:
            SpaceMismatchError: it reads other observations.
            RecipeError: it is of another kind, or of other widths, activation or number of seeds.
        """
        require_kind("IQL", kind, ("categorical",) if self.choices else ("deterministic", "squashed_gaussian"))
        adopt_layers(state.actor.network, policy)


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """|τ − 1(u < 0)| u² of errors u, whose minimum over a constant is the τ-expectile."""
    return torch.where(error < 0.0, 1.0 - expectile, expectile) * error.square()


def gumbel_loss(error: Tensor) -> Tensor:
    """(e^z − z − 1) e^−m of errors z = (Q − V) / β, XQL's equation 12, whose minimum over V is β log E e^(Q / β).

    The factor with m, a batch's largest z but at least −1, keeps large errors from overflowing, and as in the authors'
    code z counts as 7 at most; neither moves the minimum by much.

    Args:
        error: z, [S, B].
    """
    z = error.clamp(max=LARGEST_GUMBEL_ERROR)
    largest = z.detach().amax(dim=1, keepdim=True).clamp(min=-1.0)
    return (z - largest).exp() - (z + 1.0) * (-largest).exp()


ALGORITHM = Algorithm(
    IQLConfig,
    IQL,
    feeds=("dataset", "replay"),
    actions=("continuous", "discrete", "multi-discrete"),
    images=True,
    provides=(Density, CriticOnly, StartsFromPolicy, Scheduled),
    summary="expectile and temperature, Gaussian, squashed or categorical policies, XQL (`agent.value_loss`)",
    masks=True,
    goes_on=keep_steady,
)
