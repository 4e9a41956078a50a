"""Where a training loop's batches come from: a dataset, or the agent's own steps in an environment."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor

from offrl.data.ring import OnlineRing
from offrl.data.sampler import ReplaySampler
from offrl.envs.collector import Collector
from offrl.train.noise import NoiseSource
from offrl.types import Agent, Batch, Noise

Cycle = tuple[list[Batch], Noise]
"""What one `Agent.update` consumes."""


class Feed(Protocol):
    """A source of update cycles.

    Attributes:
        steps_per_round: how far one round moves the run's step counter.
    """

    steps_per_round: int

    def rounds(self, count: int) -> Iterator[Cycle]:
        """The update cycles of `count` rounds, in order."""

    def at_checkpoint(self, step: int) -> None:
        """Called after each periodic checkpoint, and once before the first round."""

    def report(self) -> dict[str, list[Any]]:
        """What happened since the last call, per seed, for the metrics."""

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint must hold, as named groups of tensors."""

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Continue where `parts` was taken."""


class OfflineFeed:
    """Batches from a dataset; a step is a gradient step."""

    def __init__(self, agent: Agent[Any], sampler: ReplaySampler, noise: NoiseSource, batch_size: int) -> None:
        self.agent, self.sampler, self.noise = agent, sampler, noise
        self.shapes = agent.noise_shapes(batch_size)
        self.steps_per_round = agent.batches_per_update

    def rounds(self, count: int) -> Iterator[Cycle]:
        """Each round is one update; all their batches and draws are gathered at once."""
        size = self.agent.batches_per_update
        batches = self.sampler.sample(count * size).unbind()
        noise = self.noise.draw_updates(self.shapes, count)
        for i in range(count):
            yield batches[i * size : (i + 1) * size], noise[i]

    def at_checkpoint(self, step: int) -> None:
        """A dataset has nothing to restart."""

    def report(self) -> dict[str, list[Any]]:
        return {}

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {"sampler": self.sampler.named_tensors(), "noise": self.noise.named_tensors()}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        self.sampler.restore(parts["sampler"])
        self.noise.restore(parts["noise"])


class OnlineFeed:
    """Batches from the replay of the agent's own steps; a step is an environment step of one seed.

    A round is the shortest stretch with whole numbers of both: vector steps, then updates.
    """

    def __init__(
        self,
        agent: Agent[Any],
        collector: Collector,
        sampler: ReplaySampler,
        noise: NoiseSource,
        exploration: NoiseSource,
        batch_size: int,
        updates_per_step: float,
        warmup_steps: int,
    ) -> None:
        self.agent, self.collector, self.sampler = agent, collector, sampler
        self.noise, self.exploration = noise, exploration
        self.shapes = agent.noise_shapes(batch_size)
        gradient_steps = Fraction(collector.per_seed * updates_per_step).limit_denominator(64)
        ratio = gradient_steps / agent.batches_per_update
        self.vector_steps, self.updates = ratio.denominator, ratio.numerator
        self.steps_per_round = self.vector_steps * collector.per_seed
        self.warmup_steps, self.steps_taken = warmup_steps, torch.zeros((), dtype=torch.int64)

    @property
    def ring(self) -> OnlineRing:
        return self.collector.ring

    def rounds(self, count: int) -> Iterator[Cycle]:
        """Act, then learn from batches that hold the newest steps; no learning before the warm-up is over."""
        size = self.agent.batches_per_update
        for _ in range(count):
            for _ in range(self.vector_steps):
                self._act()
            if self.steps_taken < self.warmup_steps:
                continue
            batches = self.sampler.sample(self.updates * size).to(self.collector.policy.device).unbind()
            noise = self.noise.draw_updates(self.shapes, self.updates)
            for i in range(self.updates):
                yield batches[i * size : (i + 1) * size], noise[i]

    def at_checkpoint(self, step: int) -> None:
        """Cut the running episodes and reset by the step's number; see `Collector.restart`."""
        self.collector.restart(step)

    def report(self) -> dict[str, list[Any]]:
        """Mean return and length of the episodes that ended, per seed; None where none did."""
        finished = self.collector.finished()
        return {
            "episode_return": [sum(r) / len(r) if r else None for r in finished.returns],
            "episode_length": [sum(n) / len(n) if n else None for n in finished.lengths],
        }

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {
            "sampler": self.sampler.named_tensors(),
            "noise": self.noise.named_tensors(),
            "exploration": self.exploration.named_tensors(),
            "ring": {**self.ring.named_tensors(), "steps_taken": self.steps_taken},
        }

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        self.sampler.restore(parts["sampler"])
        self.noise.restore(parts["noise"])
        self.exploration.restore(parts["exploration"])
        for name, tensor in {**self.ring.named_tensors(), "steps_taken": self.steps_taken}.items():
            tensor.copy_(parts["ring"][name])

    def _act(self) -> None:
        collector = self.collector
        draws = self.exploration.draw((collector.per_seed, *self.agent.exploration_shape))
        if self.steps_taken < self.warmup_steps:
            # Φ maps standard normal draws to uniform ones.
            action = 2.0 * torch.special.ndtr(draws) - 1.0
        else:
            action = collector.policy.act(collector.policy.observe(collector.observation), draws)
        collector.step(action)
        self.steps_taken += collector.per_seed
