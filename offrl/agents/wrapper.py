"""What algorithms that receive another agent as their generator have in common: they act as it does."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from offrl import plugins
from offrl.agents.algorithm import Algorithm
from offrl.nn import MLP
from offrl.nn.adam import ended_schedule
from offrl.ops.minibatches import take_rows, without_time
from offrl.tracing import repeated
from offrl.types import Agent, Batch, Density, EpisodesCut, Metrics, Noise, Observation, Scheduled, Spec

GENERATOR = "generator."
"""Prefix of the names of the generator's draws among those of an update."""


class HoldsGenerator(Protocol):
    """A state with the generator's own in it."""

    generator: Any


class GeneratorOptions(Protocol):
    """Options of an agent that holds a generator: the generator's name, and γ, which is the generator's."""

    @property
    def generator(self) -> str:
        """Name of its algorithm."""

    @property
    def discount(self) -> float:
        """γ, per step."""


class GeneratorWrapper:
    """Acts as its generator does, and passes on whatever the generator can do.

    Args:
        config: the options.
        spec: the spaces.
        generator: the agent that learns to act, of the algorithm that the options name.
        demonstration_batches: batches of demonstrations that an update takes behind the generator's own.
    """

    adopted_options: ClassVar[tuple[str, ...]] = ()
    """None but the generator's."""

    def __init__(
        self, config: GeneratorOptions, spec: Spec, generator: Agent[Any, Any], demonstration_batches: int
    ) -> None:
        self.spec, self.demonstration_batches, self.discount = spec, demonstration_batches, config.discount
        # Its type is open: what it can do beyond the contract, its algorithm's record tells.
        self.generator: Any = generator
        self.learner: Algorithm = plugins.algorithms[config.generator]
        self.batches_per_update = generator.batches_per_update
        self.acting_noise_shape = generator.acting_noise_shape

    def generator_noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """The generator's draws, under names that are not the wrapper's."""
        return {GENERATOR + name: shape for name, shape in self.generator.noise_shapes(batch_size).items()}

    def initial_carry(self, state: HoldsGenerator, count: int) -> Any:
        """What the generator remembers where an episode begins."""
        return self.generator.initial_carry(state.generator, count)

    def act(
        self,
        state: HoldsGenerator,
        observation: Observation,
        carry: Any,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """The generator's actions."""
        action: tuple[Tensor, Any] = self.generator.act(state.generator, observation, carry, noise, action_mask)
        return action

    @property
    def has_density(self) -> bool:
        """Whether the generator's sampled actions have the density `log_prob`."""
        return self.learner.can(Density) and self.generator.has_density

    def log_prob(
        self,
        state: HoldsGenerator,
        observation: Observation,
        action: Tensor,
        carry: Any,
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """The generator's log π(a | s), [S, N], in nats."""
        log_prob: Tensor = self.generator.log_prob(state.generator, observation, action, carry, action_mask)
        return log_prob

    def episodes_cut(self, state: HoldsGenerator) -> None:
        """Tell the generator that the running episodes were cut, if it wants to know."""
        if self.learner.can(EpisodesCut):
            self.generator.episodes_cut(state.generator)

    def ended_schedule(self, state: HoldsGenerator) -> int:
        """The generator's steps, where its schedule has ended; else 0."""
        return self.generator.ended_schedule(state.generator) if self.learner.can(Scheduled) else 0

    def adopt_policy(self, state: HoldsGenerator, policy: MLP, kind: str) -> None:
        """Start the generator's actor from a cloned policy; see the generator's own `adopt_policy`."""
        self.generator.adopt_policy(state.generator, policy, kind)


class RewardLearner(GeneratorWrapper, ABC):
    """Learns a reward from demonstrations, and has its generator learn from that reward.

    Learning the reward and the generator's update are two parts: some generators' updates have parts themselves.
    """

    def update(self, state: Any, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`learn_reward`, then an update of the generator with the rewards that are given now."""
        metrics, rewarded = self._rewarded(state, batches, noise)
        return metrics | self.generator_update(state, rewarded, draws_of_generator(noise))

    def ended_schedule(self, state: Any) -> int:
        """The steps of the reward's optimizer or the generator, where the schedule of either has ended; else 0."""
        return max(ended_schedule((state.optimizer,)), super().ended_schedule(state))

    def update_critic(self, state: Any, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same with the generator's policy left as it is."""
        metrics, rewarded = self._rewarded(state, batches, noise)
        return metrics | self.generator_update_critic(state, rewarded, draws_of_generator(noise))

    def _rewarded(self, state: Any, batches: Sequence[Batch], noise: Noise) -> tuple[Metrics, list[Batch]]:
        """The generator's batches with learned rewards, and the metrics of learning these."""
        own, demonstrations = batches[: self.batches_per_update], batches[self.batches_per_update :]
        transitions = [without_time(batch) for batch in own]
        draws = {name: part for name, part in noise.items() if not name.startswith(GENERATOR)}
        metrics, rewards = self.learn_reward(state, transitions, demonstrations, draws)
        return metrics, with_rewards(own, rewards)

    @abstractmethod
    def learn_reward(
        self, state: Any, generated: Sequence[Batch], demonstrations: Sequence[Batch], noise: Noise
    ) -> tuple[Metrics, list[Tensor]]:
        """Learn from each batch of demonstrations.

        Args:
            state: changed in place.
            generated: the generator's transitions, [S, N, …].
            demonstrations: [S, B, …].
            noise: the update's draws but for the generator's.

        Returns:
            Metrics, and the rewards [S, N] of each generated batch.
        """

    @repeated
    def generator_update(self, state: HoldsGenerator, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The generator's own update."""
        metrics: Metrics = self.generator.update(state.generator, batches, noise)
        return metrics

    @repeated
    def generator_update_critic(self, state: HoldsGenerator, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same with the generator's policy left as it is."""
        metrics: Metrics = self.generator.update_critic(state.generator, batches, noise)
        return metrics


def draws_of_generator(noise: Noise) -> Noise:
    """The generator's part of an update's draws."""
    return {name.removeprefix(GENERATOR): draws for name, draws in noise.items() if name.startswith(GENERATOR)}


def draws_of_step(noise: Mapping[str, Tensor], step: int) -> Noise:
    """One step's part of the wrapper's own, [S, steps, …]."""
    return {name: draws[:, step] for name, draws in noise.items()}


def chosen_rows(generated: Batch, count: int, draws: Tensor) -> Batch:
    """That many of the generator's transitions, or all if there are no more, without replacement.

    Args:
        generated: [S, N, …].
        count: how many.
        draws: standard normal, [S, N].
    """
    if generated.reward.shape[1] <= count:
        return generated
    return take_rows(generated, draws.argsort(dim=-1, stable=True)[:, :count])


def with_rewards(batches: Sequence[Batch], rewards: Sequence[Tensor]) -> list[Batch]:
    """The generator's batches, [S, …], with rewards [S, N] in place of theirs."""
    return [
        dataclasses.replace(batch, reward=reward.view(batch.reward.shape))
        for batch, reward in zip(batches, rewards, strict=True)
    ]


def mean_reward(rewards: Sequence[Tensor]) -> Tensor:
    """Over all transitions of several batches [S, N], [S]."""
    return torch.stack([reward.mean(dim=1) for reward in rewards]).mean(dim=0)
