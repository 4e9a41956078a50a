"""Twin Delayed Deep Deterministic policy gradient (Fujimoto, van Hoof & Meger, 2018), https://arxiv.org/abs/1802.09477.

With its offline form TD3+BC (Fujimoto & Gu, 2021), https://arxiv.org/abs/2106.06860, and as options what it came from,
DDPG (Lillicrap et al., 2016), https://arxiv.org/abs/1509.02971, and the softmax targets of SD2 and SD3 (Pan, Cai &
Huang, 2020), https://arxiv.org/abs/2010.09177.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.fine_tuning import let_go_of_data, spare_clone
from offrl.agents.space_checks import require_bounded_box
from offrl.config.fields import (
    STRICT,
    Activation,
    Convolutions,
    Count,
    CountOrZero,
    NonNegative,
    Positive,
    PositiveFraction,
    Probability,
    ProbabilityBelowOne,
    Widths,
)
from offrl.nn import MLP, Adam, Schedule, seed_generators
from offrl.nn.adam import ended_schedule
from offrl.nn.copy_weights import adopt_layers, require_kind
from offrl.nn.encoder import EncodedMLP, encoder_maker
from offrl.nn.random_shift import RandomShift
from offrl.types import Batch, CriticOnly, Metrics, Noise, Observation, Scheduled, Spec, StartsFromPolicy


@dataclass(frozen=True)
class TD3Config(Schedule):
    """Options of TD3, with the paper's values but for networks and step sizes.

    The paper has hidden layers of 400 and 300 units and step sizes of 1e-3; two of 256 units and 3e-4 are what its
    authors' code has had since, and the paper on TD3+BC. They also go with batches of 256, the recipes' default, where
    the paper's are of 100.

    By default it is plain TD3, which learns online; on a dataset alone its critics overestimate actions that were
    never tried, so set `bc_alpha` there (2.5 in the paper), as the recipe `td3/offline` does; `td3bc` is TD3 with it.

    DDPG is `critics=1, policy_delay=1, target_noise=0`, with Gaussian exploration in place of the Ornstein-Uhlenbeck
    process. SD3 is `softmax_samples=50, policy_delay=1`, and with `critics=1` SD2. It differs from the paper's, which
    has two actors, trains each with a critic, a target and batches of its own, and acts with the action that its critic
    values more: here one actor serves both critics, which share batches and targets.

    Attributes:
        hidden: widths of the hidden layers of actor and critics (400 and 300 in the paper).
        activation: of actor and critics, see `offrl.nn.MLP`.
        convolutions: for each image in the observation, see `offrl.nn.encoder.Encoder`; none leaves them flat. The
            critics' loss trains them, and the actor reads what they give, as in DrQ.
        random_shift: pixels by which images are shifted at random (4 in DrQ); 0 leaves them.
        layer_norm: normalize the critics' hidden layers (not in the paper; steadies long runs).
        dropout: chance of zeroing a hidden unit of the critics in their own loss; targets and actor see all units (not
            in the paper).
        weight_decay: decoupled decay rate of actor and critics (not in the paper; DDPG has 1e-2 on its critic).
        max_gradient_norm: longer gradients, of the actor or of both critics together, are scaled to this norm; 0 leaves
            them as they are (the paper's way).
        actor_learning_rate, critic_learning_rate: Adam's step sizes (1e-3 in the paper).
        warmup_steps, constant_steps, decay_steps, decay_shape: of both, in critic steps (in the papers they stay); see
            `offrl.nn.Schedule`.
        discount: γ, per step.
        target_rate: τ of the target networks' Polyak averaging.
        critics: 2, whose lower value is the target's, or 1.
        policy_delay: critic steps per actor step.
        target_noise, target_noise_clip: standard deviation and bound of the target policy smoothing noise, where
            actions span [-1, 1].
        softmax_samples: smoothed actions in each target, K; 0 is TD3's single one without a softmax.
        softmax_beta: β of the softmax over their values: 0 averages evenly over actions, ∞ takes the best. It
            goes by the scale of the returns; the authors took 0.001 (Ant) to 500 (Swimmer), so the default is one
            value among theirs.
        bc_alpha: α of TD3+BC, the weight of the critic's value beside the distance from the batch's actions; 0 leaves
            the distance out. Every transition counts, so also the agent's own where a batch mixes these with data.
        bc_decay: factor on the distance's weight with each actor step, to let go of the data when fine-tuning.
        exploration_noise: standard deviation of the noise added to actions while collecting.
    """

    __pydantic_config__ = STRICT

    hidden: Widths = (256, 256)
    activation: Activation = "relu"
    convolutions: Convolutions = "auto"
    random_shift: CountOrZero = 0
    layer_norm: bool = False
    dropout: ProbabilityBelowOne = 0.0
    weight_decay: NonNegative = 0.0
    max_gradient_norm: NonNegative = 0.0
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    discount: Probability = 0.99
    target_rate: PositiveFraction = 0.005
    critics: Literal[1, 2] = 2
    policy_delay: Count = 2
    target_noise: NonNegative = 0.2
    target_noise_clip: NonNegative = 0.5
    softmax_samples: CountOrZero = 0
    softmax_beta: NonNegative = 0.05
    bc_alpha: NonNegative = 0.0
    bc_decay: Probability = 1.0
    exploration_noise: NonNegative = 0.1


@dataclass(frozen=True)
class TD3BCConfig(TD3Config):
    """Options of TD3+BC: those of `TD3Config`, with the paper's α, which served all of its datasets.

    Its paper has observations normalized, two hidden layers of 256 units, step sizes of 3e-4, batches of 256 and
    1,000,000 steps.

    Attributes:
        bc_alpha: see `TD3Config`.
    """

    bc_alpha: NonNegative = 2.5


@dataclass
class TD3State:
    """All that training changes; `bc_weight` [S] is the annealed weight of TD3+BC's distance from the data."""

    actor: MLP
    critic: EncodedMLP
    target_actor: MLP
    target_critic: EncodedMLP
    actor_optimizer: Adam
    critic_optimizer: Adam
    bc_weight: Tensor


class TD3:
    """Deterministic actor, twin critics, delayed policy updates, target policy smoothing.

    Actions are flat vectors, and span [-1, 1] (environment bounds are mapped outside).
    """

    adopted_options = ("hidden", "activation")
    """Those of a policy that `adopt_policy` takes."""

    def __init__(self, config: TD3Config, spec: Spec) -> None:
        require_bounded_box(spec, "TD3")
        self.config, self.spec, self.discount = config, spec, config.discount
        self.batches_per_update = config.policy_delay
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        self.make_encoder = encoder_maker(spec.observation_space, config.convolutions, config.activation)
        self.shift = RandomShift(config.random_shift, spec.observation_space)

    def init(self, seeds: Sequence[int], device: torch.device) -> TD3State:
        """Fresh networks for each seed; the targets start as copies."""
        c, generators = self.config, seed_generators(seeds)
        encoder, actions = self.make_encoder(generators), self.spec.action_dim
        actor = MLP(encoder.width, actions, c.hidden, generators, activation=c.activation).to(device)
        critic = EncodedMLP(
            encoder,
            1,
            c.hidden,
            generators,
            beside=actions,
            ensemble=c.critics,
            activation=c.activation,
            layer_norm=c.layer_norm,
            dropout=c.dropout,
        ).to(device)
        return TD3State(
            actor=actor,
            critic=critic,
            target_actor=actor.clone(),
            target_critic=critic.clone(),
            actor_optimizer=self._optimizer(actor, c.actor_learning_rate, c.policy_delay),
            critic_optimizer=self._optimizer(critic, c.critic_learning_rate, 1),
            bc_weight=torch.ones(len(seeds), device=device),
        )

    def _optimizer(self, network: MLP, learning_rate: float, critic_steps: int) -> Adam:
        """Adam for a network that takes a step for that many of the critics'."""
        c = self.config
        return Adam(
            network,
            learning_rate,
            weight_decay=c.weight_decay,
            max_gradient_norm=c.max_gradient_norm,
            schedule=c,
            stride=critic_steps,
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        c = self.config
        smoothing = (c.policy_delay, batch_size, self.spec.action_dim)
        shapes = self.shift.noise_shapes(c.policy_delay, batch_size)
        shapes["target_policy"] = (c.softmax_samples, *smoothing) if c.softmax_samples else smoothing
        if c.dropout:
            shapes["dropout"] = (c.policy_delay, c.critics, batch_size, sum(c.hidden))
        return shapes

    def update(self, state: TD3State, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`policy_delay` critic steps, then one actor step and one step of the targets."""
        batches = self.shift(batches, noise)
        metrics = self._critic_steps(state, batches, noise)
        loss, more = self.actor_loss(state, batches[-1])
        state.actor_optimizer.minimize(loss.sum())
        if self.config.bc_decay != 1.0:
            state.bc_weight.mul_(self.config.bc_decay)
        self._move_targets(state)
        return metrics | more | {"actor_loss": loss.detach()}

    def update_critic(self, state: TD3State, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`update` without the actor step: critics catch up with the policy before it moves."""
        with state.critic.encoder_kept():
            metrics = self._critic_steps(state, self.shift(batches, noise), noise)
        self._move_targets(state)
        return metrics

    def _critic_steps(self, state: TD3State, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One step for each batch; the last one's metrics, and the errors of all where batches are weighted."""
        # The target networks stand still within a cycle, so all its targets come from one pass.
        targets = self.targets(state, batches, noise["target_policy"]).unbind(1)
        masks = noise["dropout"].unbind(1) if self.config.dropout else [None] * len(batches)
        errors = []
        for batch, target_q, draws in zip(batches, targets, masks, strict=True):
            loss, q = self.critic_loss(state, batch, target_q, draws)
            state.critic_optimizer.minimize(loss.sum())
            if batch.weight is not None:
                errors.append((q.detach() - target_q.unsqueeze(1)).abs().mean(dim=1))
        metrics = {"critic_loss": loss.detach(), "q": q.detach(), "target_q": target_q}
        return metrics | {"td_error": torch.stack(errors)} if errors else metrics

    @torch.no_grad()
    def targets(self, state: TD3State, batches: Sequence[Batch], draws: Tensor) -> Tensor:
        """r + γ min_i Q'_i(s', π'(s') + ε), [S, C, B], or with K smoothed actions r + γ softmax_β of such minima."""
        c, samples = self.config, self.config.softmax_samples or 1
        observation = torch.cat([state.target_critic.features_of(batch.next_observation) for batch in batches], dim=1)
        action = _repeated(state.target_actor(observation).tanh(), samples)
        epsilon = (draws.flatten(1, -2) * c.target_noise).clamp(-c.target_noise_clip, c.target_noise_clip)
        smoothed = (action + epsilon).clamp(-1.0, 1.0)
        pairs = torch.cat([_repeated(observation, samples), smoothed], dim=-1)
        value = state.target_critic(pairs).amin(dim=1).squeeze(-1)
        if c.softmax_samples:
            value = softmax_value(value.unflatten(1, (samples, -1)), draws.flatten(2, 3), c.softmax_beta)
        reward = torch.stack([batch.reward for batch in batches], dim=1)
        discount = torch.stack([batch.discount for batch in batches], dim=1)
        return torch.addcmul(reward, discount, value.view(reward.shape))

    def critic_loss(
        self, state: TD3State, batch: Batch, target_q: Tensor, dropout_noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Σ_i (Q_i(s, a) − y)², [S], for targets y [S, B], each transition with its weight; and the Q [S, E, B]."""
        pairs = torch.cat([state.critic.encoder(batch.observation), batch.action], dim=-1)
        q = state.critic(pairs, dropout_noise=dropout_noise).squeeze(-1)
        squares = (q - target_q.unsqueeze(1)).square()
        if batch.weight is not None:
            squares = squares * batch.weight.unsqueeze(1)
        return squares.mean(dim=2).sum(dim=1), q

    def actor_loss(self, state: TD3State, batch: Batch) -> tuple[Tensor, Metrics]:
        """−Q₁(s, π(s)), [S], or TD3+BC's −λ Q₁(s, π(s)) + w (π(s) − a)², with λ = α / mean |Q₁|; and metrics."""
        observation = state.critic.features_of(batch.observation)
        action = state.actor(observation).tanh()
        q = state.critic(torch.cat([observation, action], dim=-1), members=1).flatten(1)
        if not self.config.bc_alpha:
            return -q.mean(dim=1), {}
        scale = self.config.bc_alpha / q.detach().abs().mean(dim=1)
        # The mean over an action's components, where cloning has the sum.
        distance = (action - batch.action).square().mean(dim=(1, 2))
        return state.bc_weight * distance - scale * q.mean(dim=1), {"bc_loss": distance.detach()}

    def _move_targets(self, state: TD3State) -> None:
        state.target_actor.move_towards(state.actor, self.config.target_rate)
        state.target_critic.move_towards(state.critic, self.config.target_rate)

    def initial_carry(self, state: TD3State, count: int) -> tuple[()]:
        """Nothing: actions depend on the observation alone."""
        return ()

    def act(
        self,
        state: TD3State,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """π(s), plus Gaussian exploration noise where draws [S, N, A] are given; clipped to [-1, 1]."""
        action: Tensor = state.actor(state.critic.features_of(observation)).tanh()
        if noise is not None:
            action = (action + self.config.exploration_noise * noise).clamp(-1.0, 1.0)
        return action, carry

    def ended_schedule(self, state: TD3State) -> int:
        """The steps taken, where step sizes have fallen to 0."""
        return ended_schedule((state.actor_optimizer, state.critic_optimizer))

    def adopt_policy(self, state: TD3State, policy: MLP, kind: str) -> None:
        """Start the actor, and its target, from a cloned policy of the same hidden widths.

        Args:
            state: changed in place; the critics stay as they are.
            policy: a network of `offrl.agents.bc`, its outputs being (the mean of) the action before tanh.
            kind: "deterministic" or "squashed_gaussian", whose greedy actions the actor then takes.

        Raises:
            SpaceMismatchError: it reads other observations.
            RecipeError: it is of another kind, or of other widths, activation or number of seeds.
        """
        require_kind("TD3", kind, ("deterministic", "squashed_gaussian"))
        adopt_layers(state.actor, policy)
        state.target_actor.flat.copy_(state.actor.flat)


def _repeated(x: Tensor, times: int) -> Tensor:
    """[S, B, …] to [S, times · B, …]."""
    return x if times == 1 else torch.cat([x] * times, dim=1)


def softmax_value(q: Tensor, draws: Tensor, beta: float) -> Tensor:
    """softmax_β(Q) = ∫ e^(βQ) Q da / ∫ e^(βQ) da (Pan et al., 2020), estimated from K smoothed actions.

    The integrals over actions are importance-sampled with the density of the smoothing noise before it was clipped.

    Args:
        q: values of the actions, [S, K, N].
        draws: the standard normal draws that smoothed them, [S, K, N, A].
        beta: β.

    Returns:
        [S, N].
    """
    # log 1/p(ε), but for a constant.
    inverse_density = 0.5 * draws.square().sum(dim=-1)
    return ((beta * q + inverse_density).softmax(dim=1) * q).sum(dim=1)


def goes_on(options: TD3Config, updates: float, pretrained: bool) -> TD3Config:
    """Options for going on online from a run's own state."""
    config: TD3Config = let_go_of_data(options, updates / options.policy_delay, pretrained)
    return config


ALGORITHM = Algorithm(
    TD3Config,
    TD3,
    feeds=("dataset", "replay"),
    actions=("continuous",),
    images=True,
    provides=(CriticOnly, StartsFromPolicy, Scheduled),
    summary="TD3+BC (`agent.bc_alpha`), its decay in fine-tuning, DDPG, softmax targets (SD3)",
    td_errors=True,
    goes_on=goes_on,
    spares_clone=spare_clone,
)

TD3BC = dataclasses.replace(
    ALGORITHM, config=TD3BCConfig, summary="TD3 near a dataset's actions: `td3` with the paper's `agent.bc_alpha`"
)
