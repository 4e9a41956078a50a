"""A small agent that keeps the contract and remembers what it saw, for tests to break in one place each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offrl.agents.algorithm import Algorithm
from offrl.types import Batch, Metrics, Noise, Observation, Spec


@dataclass(frozen=True)
class HonestConfig:
    """Options of the honest agent.

    Attributes:
        rate: its step size.
    """

    rate: float = 0.1


@dataclass
class HonestState:
    """A linear policy [S, observations, A], and how many updates made it."""

    weight: Tensor
    updates: Tensor


Memory = dict[str, Tensor]


class Honest:
    """Regresses actions on observations; acts by the sum of what an episode has shown so far."""

    batches_per_update = 1
    discount = 0.9

    def __init__(self, config: HonestConfig, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self.acting_noise_shape: tuple[int, ...] = (spec.action_dim,)
        self.width = int(spec.observation_space.shape[0])  # type: ignore[index]

    def init(self, seeds: Sequence[int], device: torch.device) -> HonestState:
        """Random weights."""
        draws = [torch.randn(self.width, self.spec.action_dim, generator=_generator(seed)) for seed in seeds]
        return HonestState(torch.stack(draws).to(device), torch.zeros((), dtype=torch.int64, device=device))

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        """Draws that blur the actions to be matched."""
        return {"blur": (batch_size, self.spec.action_dim)}

    def update(self, state: HonestState, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """One gradient step."""
        (batch,) = batches
        assert isinstance(batch.observation, Tensor)
        weight = state.weight.detach().requires_grad_()
        error = batch.observation @ weight - batch.action - 0.1 * noise["blur"]
        loss = error.square().mean(dim=(1, 2))
        (gradient,) = torch.autograd.grad(loss.sum(), weight)
        state.weight -= self.config.rate * gradient
        state.updates += 1
        return {"loss": loss.detach()}

    def initial_carry(self, state: HonestState, count: int) -> Memory:
        """Nothing seen."""
        seeds = len(state.weight)
        return {"sum": torch.zeros(seeds, count, self.width), "steps": torch.zeros(seeds, count, dtype=torch.int64)}

    def act(
        self,
        state: HonestState,
        observation: Observation,
        carry: Memory,
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        """tanh of the weights' product with the mean observation."""
        assert isinstance(observation, Tensor)
        seen = {"sum": carry["sum"] + observation, "steps": carry["steps"] + 1}
        mean = (seen["sum"] / seen["steps"].unsqueeze(-1)) @ state.weight
        return (mean if noise is None else mean + noise).tanh(), seen


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def record(agent: type[Any], **options: Any) -> Algorithm:
    """The record of an agent of this kind."""
    return Algorithm(HonestConfig, agent, **{"feeds": ("dataset",), "actions": ("continuous",)} | options)
