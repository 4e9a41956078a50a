"""Generative Adversarial Imitation Learning (Ho & Ermon, 2016), https://arxiv.org/abs/1606.03476.

With an off-policy generator it is discriminator-actor-critic (Kostrikov et al., 2019),
https://arxiv.org/abs/1809.02925: the generator's replay takes the place of its newest steps, without importance
weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from offrl import types
from offrl.agents.algorithm import Algorithm
from offrl.agents.fine_tuning import keep_steady
from offrl.agents.wrapper import RewardLearner, chosen_rows, draws_of_step, mean_reward
from offrl.config.fields import STRICT, Count, NonNegative, Positive, ProbabilityBelowOne, Widths
from offrl.errors import RecipeError
from offrl.nn import Adam, Schedule, seed_generators
from offrl.nn.discriminator import Discriminator, Inputs, TransitionFeatures, gradient_penalty
from offrl.ops.adversarial import (
    RewardForm,
    decision_entropy,
    expert_loss,
    generator_loss,
    reward_of,
    weighted_mean,
)
from offrl.ops.running_moments import fresh_moments, merge_moments
from offrl.tracing import repeated
from offrl.types import Agent, Batch, Metrics, Noise, Spec


@dataclass(frozen=True)
class GAILConfig(Schedule):
    """Options of the discriminator, and which agent it rewards.

    The paper's GAIL has TRPO for a generator, the "positive" reward, no absorbing state, and a discriminator of two
    hidden layers of 100 tanh units without penalties. Absorbing states, the "logit" reward that has no sign of its own
    and the gradient penalty of 10 are those of discriminator-actor-critic. Widths, ReLU and the step size are ours;
    normalized inputs let one step size do for observations of any scale.

    Attributes:
        generator: the agent that imitates.
        generator_options: that agent's own options.
        reward: what the generator earns where the discriminator takes a transition for the expert's with probability D:
            "positive" −log(1 − D), "negative" log D, "logit" log D − log(1 − D).
        inputs: what the discriminator sees of a transition: "state_action", "state", or "transition", (s, s').
        absorbing: behind a terminal state, go on for ever in an absorbing one that the discriminator judges as well, so
            that an episode's length earns nothing by itself.
        absorbing_indicator: the discriminator's input that says "absorbing", 0 elsewhere. But for it that state is at
            the mean of normalized observations, and a penalized slope lets a logit change by about 1 per unit of
            distance: at 1 the absorbing state can hardly be worth less than a clumsy life, and the policy may long
            prefer to fall; at the root of the input's width it is told apart soon, and the policy may be content to
            stand.
        hidden: widths of the discriminator's hidden layers.
        activation: between them.
        learning_rate: Adam's step size.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the discriminator's step size, in its own steps; see
            `offrl.nn.Schedule`. The generator has a schedule among its own options.
        updates: discriminator steps per update of the generator, each on a batch of demonstrations and as many of the
            generator's transitions.
        gradient_penalty: λ of the distance of the logit's slope from 1, between the expert's transitions and the
            generator's (Gulrajani et al., 2017, https://arxiv.org/abs/1704.00028).
        spectral_norm: hold every layer's largest singular value at 1.
        label_smoothing: ε; demonstrations count as the expert's with probability 1 − ε.
        entropy_bonus: coefficient of the entropy of the discriminator's decisions, in nats.
        normalize_input: shift and scale observations by the running mean and standard deviation of all that it saw.
    """

    __pydantic_config__ = STRICT

    generator: Literal["ppo", "sac", "td3"] = "ppo"
    generator_options: Any = None
    reward: RewardForm = "logit"
    inputs: Inputs = "state_action"
    absorbing: bool = True
    absorbing_indicator: Positive = 1.0
    hidden: Widths = (128, 128)
    activation: Literal["relu", "tanh"] = "relu"
    learning_rate: Positive = 3e-4
    updates: Count = 1
    gradient_penalty: NonNegative = 10.0
    spectral_norm: bool = False
    label_smoothing: ProbabilityBelowOne = 0.0
    entropy_bonus: NonNegative = 0.0
    normalize_input: bool = True

    @property
    def discount(self) -> float:
        """The generator's γ, per step."""
        discount: float = self.generator_options.discount
        return discount

    @property
    def rollout_steps(self) -> int:
        """Steps of each environment that an on-policy generator learns from at once."""
        steps: int = self.generator_options.rollout_steps
        return steps


@dataclass
class GAILState:
    """All that training changes.

    Attributes:
        moments: of the observations that the discriminator saw, see `offrl.ops.running_moments`; [S, 3, D].
        generator: the generator's own state.
    """

    discriminator: Discriminator
    optimizer: Adam
    moments: Tensor
    generator: Any


class GAIL(RewardLearner):
    """A discriminator between the expert's transitions and a generator's, and that generator, whose reward it is.

    An update takes the generator's own batches and, behind them, a batch of demonstrations for each discriminator step.

    Args:
        config: the discriminator's options.
        spec: the spaces.
        generator: any agent for these spaces that learns from its own steps.

    Raises:
        RecipeError: absorbing states are asked for and the generator doesn't discount.
    """

    def __init__(self, config: GAILConfig, spec: Spec, generator: Agent[Any, Any]) -> None:
        super().__init__(config, spec, generator, demonstration_batches=config.updates)
        self.config = config
        self.features = TransitionFeatures(
            spec, config.inputs, absorbing=config.absorbing, indicator=config.absorbing_indicator
        )
        if config.absorbing and self.discount == 1.0:
            raise RecipeError(
                "an absorbing state that earns rewards for ever has no finite value without discounting",
                hint="set agent.generator_options.discount below 1, or agent.absorbing=false",
            )

    def init(self, seeds: Sequence[int], device: torch.device) -> GAILState:
        """A fresh discriminator and a fresh generator for each seed."""
        c = self.config
        discriminator = Discriminator(
            self.features.width,
            c.hidden,
            seed_generators(seeds),
            activation=c.activation,
            spectral_norm=c.spectral_norm,
        ).to(device)
        return GAILState(
            discriminator=discriminator,
            optimizer=Adam(discriminator, c.learning_rate, schedule=c),
            moments=fresh_moments(len(seeds), self.features.flat_observation.width).to(device),
            generator=self.generator.init(seeds, device),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """The generator's draws; those that choose the transitions a discriminator step sees; those that mix them."""
        c = self.config
        shapes = self.generator_noise_shapes(batch_size) | {"rows": (c.updates, batch_size)}
        if c.gradient_penalty:
            shapes["mixture"] = (c.updates, batch_size)
        return shapes

    @repeated
    def learn_reward(
        self, state: GAILState, generated: Sequence[Batch], demonstrations: Sequence[Batch], noise: Noise
    ) -> tuple[Metrics, list[Tensor]]:
        """A step of the discriminator for each batch of demonstrations; then the rewards of each generated batch."""
        if self.config.normalize_input:
            self._see([*generated, *demonstrations], state)
        metrics: Metrics = {}
        for step, expert in enumerate(demonstrations):
            draws = draws_of_step(noise, step)
            own = chosen_rows(generated[step % len(generated)], expert.reward.shape[1], draws["rows"])
            state.discriminator.iterate()
            loss, metrics = self.discriminator_loss(state, expert, own, draws)
            state.optimizer.minimize(loss.sum())
        rewards = [self.reward(state, batch) for batch in generated]
        return metrics | {"learned_reward": mean_reward(rewards)}, rewards

    def _see(self, batches: Sequence[Batch], state: GAILState) -> None:
        """Add observations to the running moments."""
        seen = torch.cat([part for batch in batches for part in self.features.seen(batch)], dim=1)
        state.moments.copy_(merge_moments(state.moments, seen))

    def discriminator_loss(
        self, state: GAILState, expert: Batch, generated: Batch, draws: Noise
    ) -> tuple[Tensor, Metrics]:
        """The cross-entropy, the gradient penalty and the (negative) entropy of the decisions, [S]; and metrics."""
        c, discriminator, count = self.config, state.discriminator, expert.reward.shape[1]
        x, y = self._inputs(state, expert), self._inputs(state, generated)
        joint = torch.cat([x, y, *([self.features.absorbed(expert)] if c.absorbing else [])], dim=1)
        layers = discriminator.layers()
        logit = discriminator(joint, layers)
        mine, theirs = logit[:, count : count + y.shape[1]], logit[:, :count]
        (mine_all, mine_weight), (theirs_all, theirs_weight) = (
            self._with_absorbed(part, logit, batch) for part, batch in ((mine, generated), (theirs, expert))
        )
        loss = weighted_mean(expert_loss(theirs_all, c.label_smoothing), theirs_weight)
        loss = loss + weighted_mean(generator_loss(mine_all), mine_weight)
        metrics = {
            "expert_accuracy": (theirs > 0.0).float().mean(dim=1),
            "generator_accuracy": (mine <= 0.0).float().mean(dim=1),
            "discriminator_loss": loss.detach(),
        }
        if c.entropy_bonus:
            loss = loss - c.entropy_bonus * decision_entropy(logit[:, : count + y.shape[1]]).mean(dim=1)
        if c.gradient_penalty:
            between = self._between(x, y, expert, generated, draws["mixture"])
            loss = loss + c.gradient_penalty * gradient_penalty(discriminator, layers, between)
        return loss, metrics

    def _with_absorbed(self, logit: Tensor, joint: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Logits and weights of a side: behind each terminal state one step of the absorbing one counts."""
        if not self.config.absorbing:
            return logit, None
        weight = torch.cat([torch.ones_like(batch.terminated), batch.terminated.sum(dim=1, keepdim=True)], dim=1)
        return torch.cat([logit, joint[:, -1:]], dim=1), weight

    def _between(self, x: Tensor, y: Tensor, expert: Batch, generated: Batch, draws: Tensor) -> Tensor:
        """Points between the two sides' inputs; where an episode terminated, the absorbing state stands for its end."""
        count = min(x.shape[1], y.shape[1])
        x, y = x[:, :count], y[:, :count]
        if self.config.absorbing:
            absorbed = self.features.absorbed(expert)
            x, y = (
                torch.where(batch.terminated[:, :count, None] > 0.0, absorbed, part)
                for part, batch in ((x, expert), (y, generated))
            )
        return torch.lerp(x, y, torch.special.ndtr(draws[:, :count, None]))

    def _inputs(self, state: GAILState, batch: Batch) -> Tensor:
        return self.features(batch, state.moments if self.config.normalize_input else None)

    @property
    def length_bias(self) -> str:
        """Which episode lengths the form of the reward favors; none where they end in the absorbing state."""
        return "" if self.config.absorbing else self.config.reward

    @torch.no_grad()
    def reward(self, state: GAILState, batch: Batch) -> Tensor:
        """The learned reward of transitions, [S, B].

        With absorbing states, a terminal transition earns besides what follows it for ever, γ / (1 − γ) times the
        absorbing state's reward. Terminal transitions aren't bootstrapped from, so the generator's targets are those of
        a replay that holds absorbing transitions and a critic that knows their value exactly.
        """
        x, form = self._inputs(state, batch), self.config.reward
        if not self.config.absorbing:
            return reward_of(state.discriminator(x), form)
        reward = reward_of(state.discriminator(torch.cat([x, self.features.absorbed(batch)], dim=1)), form)
        living, absorbed = reward[:, :-1], reward[:, -1:]
        return living + batch.terminated * absorbed * (self.discount / (1.0 - self.discount))


ALGORITHM = Algorithm(
    GAILConfig,
    GAIL,
    feeds=("demonstrations",),
    provides=(
        types.GivesReward,
        types.Demonstrated,
        types.Density,
        types.CriticOnly,
        types.StartsFromPolicy,
        types.Scheduled,
        types.EpisodesCut,
    ),
    summary="three rewards, absorbing states, gradient penalty, spectral norm, start from a clone (`--from`)",
    wraps=("ppo", "sac", "td3"),
    goes_on=keep_steady,
    reads_rewards=False,
)
