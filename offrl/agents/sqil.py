"""Soft Q Imitation Learning (Reddy et al., 2020), https://arxiv.org/abs/1905.11108."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.agents.wrapper import GeneratorWrapper, draws_of_generator
from offrl.config.fields import STRICT
from offrl.types import Agent, Batch, Demonstrated, Density, Metrics, Noise, Observation, Scheduled, Spec


@dataclass(frozen=True)
class SQILConfig:
    """Which agent is rewarded.

    Attributes:
        generator: "sac", for continuous or discrete actions, or "dqn".
        generator_options: that agent's own options.
    """

    __pydantic_config__ = STRICT

    generator: Literal["sac", "dqn"] = "sac"
    generator_options: Any = None

    @property
    def discount(self) -> float:
        """The generator's γ, per step."""
        discount: float = self.generator_options.discount
        return discount


@dataclass
class SQILState:
    """All that training changes: the generator's own state."""

    generator: Any


class SQIL(GeneratorWrapper):
    """Demonstrated transitions earn 1 and the generator's own 0; half of each batch are of either sort.

    An update takes the generator's own batches and, behind them, as many of demonstrations; the first half of each
    counts.

    Args:
        config: its options.
        spec: the spaces.
        generator: an agent for these spaces that learns from replay.
    """

    def __init__(self, config: SQILConfig, spec: Spec, generator: Agent[Any, Any]) -> None:
        super().__init__(config, spec, generator, demonstration_batches=generator.batches_per_update)
        self.config = config

    def init(self, seeds: Sequence[int], device: torch.device) -> SQILState:
        """A fresh generator for each seed."""
        return SQILState(self.generator.init(seeds, device))

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """The generator's draws."""
        return self.generator_noise_shapes(batch_size)

    def update(self, state: SQILState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """An update of the generator."""
        metrics: Metrics = self.generator.update(state.generator, self._mixed(batches), draws_of_generator(noise))
        return metrics

    def update_critic(self, state: SQILState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """The same with the generator's policy left as it is."""
        mixed, draws = self._mixed(batches), draws_of_generator(noise)
        metrics: Metrics = self.generator.update_critic(state.generator, mixed, draws)
        return metrics

    def _mixed(self, batches: Sequence[Batch]) -> list[Batch]:
        """Own and demonstrated transitions, half and half, with their rewards."""
        own, demonstrations = batches[: self.batches_per_update], batches[self.batches_per_update :]
        return [half_and_half(one, other) for one, other in zip(own, demonstrations, strict=True)]


def half_and_half(own: Batch, expert: Batch) -> Batch:
    """The first half of either batch [S, B, …]: own transitions, which earn 0, then demonstrated ones, which earn 1.

    Where one of them tells of masks, the other's transitions allow all actions.
    """
    size = own.reward.shape[1]
    half = size // 2
    reward = torch.zeros_like(own.reward)
    reward[:, half:] = 1.0

    def joined(one: Tensor, other: Tensor) -> Tensor:
        return torch.cat([one[:, :half], other[:, : size - half]], dim=1)

    def observed(one: Observation, other: Observation) -> Observation:
        if isinstance(one, Tensor) or isinstance(other, Tensor):
            assert isinstance(one, Tensor)
            assert isinstance(other, Tensor)
            return joined(one, other)
        return {key: joined(part, other[key]) for key, part in one.items()}

    def allowed(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        if one is None:
            return None if other is None else joined(torch.ones_like(other), other)
        return joined(one, torch.ones_like(one) if other is None else other)

    return Batch(
        observation=observed(own.observation, expert.observation),
        action=joined(own.action, expert.action),
        reward=reward,
        discount=joined(own.discount, expert.discount),
        next_observation=observed(own.next_observation, expert.next_observation),
        terminated=joined(own.terminated, expert.terminated),
        action_mask=allowed(own.action_mask, expert.action_mask),
        next_action_mask=allowed(own.next_action_mask, expert.next_action_mask),
    )


ALGORITHM = Algorithm(
    SQILConfig,
    SQIL,
    feeds=("demonstrations",),
    provides=(Demonstrated, Density, Scheduled),
    summary="a reward of 1 for demonstrations, 0 for own steps",
    wraps=("sac", "dqn"),
    images=True,
    reads_rewards=False,
)
