"""What algorithms that receive another agent as their generator have in common: they act as it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.nn import MLP
from offrl.ops.minibatches import take_rows
from offrl.ops.numpy_or_torch import Array
from offrl.types import Agent, Batch, Noise, Observation, Spec

GENERATOR = "generator."
"""Prefix of the names of the generator's draws among those of an update."""


class HoldsGenerator(Protocol):
    """A state with the generator's own in it."""

    generator: Any


class GeneratorWrapper:
    """Acts as its generator does.

    Args:
        spec: the spaces.
        generator: the agent that learns to act.
        demonstration_batches: batches of demonstrations that an update takes behind the generator's own.
    """

    def __init__(self, spec: Spec, generator: Agent[Any], demonstration_batches: int) -> None:
        self.spec, self.generator, self.demonstration_batches = spec, generator, demonstration_batches
        self.batches_per_update = generator.batches_per_update
        self.exploration_shape = generator.exploration_shape
        self.acts_on_arrays = getattr(generator, "acts_on_arrays", False)
        self.honors_masks = getattr(generator, "honors_masks", False)

    def generator_noise_shapes(self, batch_size: int) -> dict[str, tuple[int, ...]]:
        """The generator's draws, under names that are not the wrapper's."""
        return {GENERATOR + name: shape for name, shape in self.generator.noise_shapes(batch_size).items()}

    def act(
        self, state: HoldsGenerator, observation: Observation | NDArray[Any], noise: Array = None, *masks: Array
    ) -> Array:
        """The generator's actions."""
        generator: Any = self.generator
        return generator.act(state.generator, observation, noise, *masks)

    @property
    def has_density(self) -> bool:
        """Whether the generator's sampled actions have the density `log_prob`."""
        return getattr(self.generator, "has_density", False)

    def log_prob(self, state: HoldsGenerator, observation: Observation, action: Tensor, *masks: Tensor) -> Tensor:
        """The generator's log π(a | s), [S, N], in nats."""
        generator: Any = self.generator
        log_prob: Tensor = generator.log_prob(state.generator, observation, action, *masks)
        return log_prob

    def episodes_cut(self, state: HoldsGenerator) -> None:
        """Tell the generator that the running episodes were cut, if it wants to know."""
        if hasattr(self.generator, "episodes_cut"):
            self.generator.episodes_cut(state.generator)

    def adopt_policy(self, state: HoldsGenerator, policy: MLP, kind: str) -> None:
        """Start the generator's actor from a cloned policy; see the generator's own `adopt_policy`."""
        generator: Any = self.generator
        generator.adopt_policy(state.generator, policy, kind)


def draws_of_generator(noise: Noise) -> Noise:
    """The generator's part of an update's draws."""
    return {name.removeprefix(GENERATOR): draws for name, draws in noise.items() if name.startswith(GENERATOR)}


def draws_of_step(noise: Mapping[str, Tensor], step: int) -> Noise:
    """The wrapper's own part of them, of one of its steps."""
    return {name: draws[:, step] for name, draws in noise.items() if not name.startswith(GENERATOR)}


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
