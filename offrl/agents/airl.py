"""Adversarial Inverse Reinforcement Learning (Fu et al., 2018), https://arxiv.org/abs/1710.11248."""

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
from offrl.config.fields import STRICT, Activation, Count, NonNegative, Positive, Widths
from offrl.nn import MLP, Adam, FlatModule, Schedule, seed_generators
from offrl.nn.discriminator import TransitionFeatures
from offrl.ops.adversarial import expert_loss, generator_loss
from offrl.ops.running_moments import fresh_moments, merge_moments
from offrl.tracing import repeated
from offrl.types import Agent, Batch, Metrics, Noise, Spec


@dataclass(frozen=True)
class AIRLConfig(Schedule):
    """Options of the reward and its shaping, and which agent learns from them.

    The paper's generator is TRPO, and its discriminator sees transitions of the generator's last 20 iterations beside
    the newest; here it is PPO, and only the newest are seen. Widths, step size, updates and normalized inputs are ours.

    Attributes:
        generator: the agent that imitates; its policy must have a density.
        generator_options: that agent's own options.
        inputs: what the reward is of: "state", which can carry over to other dynamics, or "state_action".
        hidden: widths of the reward's hidden layers.
        shaping_hidden: widths of those of the shaping potential.
        activation: between them.
        learning_rate: Adam's step size.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the step size, in the discriminator's steps; see
            `offrl.nn.Schedule`. The generator has a schedule among its own options.
        weight_decay: decoupled decay rate of all parameters.
        updates: steps of the discriminator per update of the generator, each on a batch of demonstrations and as many
            of the generator's transitions.
        normalize_input: shift and scale observations by the running mean and standard deviation of all that was seen.
    """

    __pydantic_config__ = STRICT

    generator: Literal["ppo"] = "ppo"
    generator_options: Any = None
    inputs: Literal["state", "state_action"] = "state"
    hidden: Widths = (32,)
    shaping_hidden: Widths = (32, 32)
    activation: Activation = "relu"
    learning_rate: Positive = 3e-4
    weight_decay: NonNegative = 0.0
    updates: Count = 4
    normalize_input: bool = True

    @property
    def discount(self) -> float:
        """The generator's γ, per step."""
        discount: float = self.generator_options.discount
        return discount

    @property
    def rollout_steps(self) -> int:
        """Steps of each environment that the generator learns from at once."""
        steps: int = self.generator_options.rollout_steps
        return steps


class ShapedReward(FlatModule):
    """g(s[, a]) and h(s), of S seeds each."""

    def __init__(self, reward: MLP, potential: MLP) -> None:
        super().__init__()
        self.reward, self.potential = reward, potential
        self.flatten()


@dataclass
class AIRLState:
    """All that training changes.

    Attributes:
        moments: of the observations that were seen, see `offrl.ops.running_moments`; [S, 3, D].
        generator: the generator's own state.
    """

    shaped: ShapedReward
    optimizer: Adam
    moments: Tensor
    generator: Any


class AIRL(RewardLearner):
    """A reward that explains the expert, found with a discriminator that knows the generator's policy.

    D = e^f / (e^f + π(a|s)) with f(s, a, s') = g(s[, a]) + γ h(s') − h(s). The shaping potential h takes up what
    depends on the dynamics, so that g is left with what doesn't; of a terminal state it counts nothing. The generator
    earns log D − log(1 − D) = f − log π(a|s).

    An update takes the generator's rollout and, behind it, a batch of demonstrations for each discriminator step.

    Args:
        config: the reward's options.
        spec: the spaces.
        generator: an agent for these spaces whose `log_prob` tells its policy.
    """

    def __init__(self, config: AIRLConfig, spec: Spec, generator: Agent[Any, Any]) -> None:
        super().__init__(config, spec, generator, demonstration_batches=config.updates)
        self.config = config
        self.features = TransitionFeatures(spec, config.inputs)
        self.states = TransitionFeatures(spec, "transition")

    def init(self, seeds: Sequence[int], device: torch.device) -> AIRLState:
        """A fresh reward, shaping potential and generator for each seed."""
        c, generators = self.config, seed_generators(seeds)
        observations = self.features.flat_observation.width
        shaped = ShapedReward(
            MLP(self.features.width, 1, c.hidden, generators, activation=c.activation),
            MLP(observations, 1, c.shaping_hidden, generators, activation=c.activation),
        ).to(device)
        return AIRLState(
            shaped=shaped,
            optimizer=Adam(shaped, c.learning_rate, weight_decay=c.weight_decay, schedule=c),
            moments=fresh_moments(len(seeds), observations).to(device),
            generator=self.generator.init(seeds, device),
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """The generator's draws, and those that choose the transitions a discriminator step sees."""
        return self.generator_noise_shapes(batch_size) | {"rows": (self.config.updates, batch_size)}

    @repeated
    def learn_reward(
        self, state: AIRLState, generated: Sequence[Batch], demonstrations: Sequence[Batch], noise: Noise
    ) -> tuple[Metrics, list[Tensor]]:
        """A step of the discriminator for each batch of demonstrations; then the rewards of each generated batch."""
        if self.config.normalize_input:
            seen = [self.features.flat_observation(batch.observation) for batch in (*generated, *demonstrations)]
            state.moments.copy_(merge_moments(state.moments, torch.cat(seen, dim=1)))
        metrics: Metrics = {}
        for step, expert in enumerate(demonstrations):
            draws = draws_of_step(noise, step)
            own = chosen_rows(generated[step % len(generated)], expert.reward.shape[1], draws["rows"])
            loss, metrics = self.discriminator_loss(state, expert, own)
            state.optimizer.minimize(loss.sum())
        with torch.no_grad():
            rewards = [self._logit(state, batch) for batch in generated]
        learned = mean_reward([self.reward(state, batch) for batch in generated])
        return metrics | {"learned_reward": learned}, rewards

    def discriminator_loss(self, state: AIRLState, expert: Batch, generated: Batch) -> tuple[Tensor, Metrics]:
        """The cross-entropy, [S], and metrics."""
        theirs, mine = self._logit(state, expert), self._logit(state, generated)
        loss = expert_loss(theirs, 0.0).mean(dim=1) + generator_loss(mine).mean(dim=1)
        return loss, {
            "expert_accuracy": (theirs > 0.0).float().mean(dim=1),
            "generator_accuracy": (mine <= 0.0).float().mean(dim=1),
            "discriminator_loss": loss.detach(),
        }

    def _logit(self, state: AIRLState, batch: Batch) -> Tensor:
        """f(s, a, s') − log π(a|s), [S, B]."""
        moments = self._moments(state)
        potential = state.shaped.potential(torch.cat(self.states.seen(batch, moments), dim=1)).squeeze(-1)
        here, there = potential.chunk(2, dim=1)
        reward = state.shaped.reward(self.features(batch, moments)).squeeze(-1)
        carry = self.initial_carry(state, batch.reward.shape[1])
        log_prob = self.log_prob(state, batch.observation, batch.action, carry, batch.action_mask)
        logit: Tensor = reward + self.discount * (1.0 - batch.terminated) * there - here - log_prob
        return logit

    @property
    def length_bias(self) -> str:
        """Either length: log D − log(1 − D) has either sign."""
        return "logit"

    @torch.no_grad()
    def reward(self, state: AIRLState, batch: Batch) -> Tensor:
        """The reward g(s[, a]) without its shaping, [S, B]."""
        reward: Tensor = state.shaped.reward(self.features(batch, self._moments(state))).squeeze(-1)
        return reward

    def _moments(self, state: AIRLState) -> Tensor | None:
        return state.moments if self.config.normalize_input else None


ALGORITHM = Algorithm(
    AIRLConfig,
    AIRL,
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
    summary="a state-only reward that carries over to other dynamics",
    wraps=("ppo",),
    goes_on=keep_steady,
    reads_rewards=False,
)
