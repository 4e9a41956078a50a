"""Where a training loop's batches come from: a dataset, or the agent's own steps in an environment."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor

from offrl.data.ring import OnlineRing
from offrl.data.rollout import RolloutBuffer
from offrl.data.sampler import ReplaySampler
from offrl.envs.collector import Collector
from offrl.envs.exploration import uniform_actions
from offrl.train.noise import NoiseSource
from offrl.types import Agent, Batch, Metrics, Noise

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

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """Called after each update, with what it consumed and returned; takes out what isn't for the log."""

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

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """A dataset's transitions are all alike."""

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
        ring: OnlineRing,
        sampler: ReplaySampler,
        noise: NoiseSource,
        exploration: NoiseSource,
        batch_size: int,
        updates_per_step: float,
        warmup_steps: int,
    ) -> None:
        self.agent, self.collector, self.ring, self.sampler = agent, collector, ring, sampler
        self.noise, self.exploration = noise, exploration
        self.shapes = agent.noise_shapes(batch_size)
        gradient_steps = Fraction(collector.per_seed * updates_per_step).limit_denominator(64)
        ratio = gradient_steps / agent.batches_per_update
        self.vector_steps, self.updates = ratio.denominator, ratio.numerator
        self.steps_per_round = self.vector_steps * collector.per_seed
        self.warmup_steps, self.steps_taken = warmup_steps, torch.zeros((), dtype=torch.int64)

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

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """The ring's transitions are all alike."""

    def at_checkpoint(self, step: int) -> None:
        """Cut the running episodes and reset by the step's number; see `Collector.restart`."""
        self.collector.restart(step)

    def report(self) -> dict[str, list[Any]]:
        return episode_report(self.collector)

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
        collector, agent = self.collector, self.agent
        if self.steps_taken < self.warmup_steps:
            draws = self.exploration.draw((collector.per_seed, agent.spec.action_dim))
            action = uniform_actions(agent.spec, draws)
        else:
            draws = self.exploration.draw((collector.per_seed, *agent.exploration_shape))
            action = collector.policy.act(collector.observed, draws)
        collector.step(action)
        self.steps_taken += collector.per_seed


class RolloutFeed:
    """Batches of the newest steps, each used for one update; a step is an environment step of one seed.

    A round is T steps of every environment and one update.
    """

    def __init__(
        self,
        agent: Agent[Any],
        collector: Collector,
        rollout: RolloutBuffer,
        noise: NoiseSource,
        exploration: NoiseSource,
    ) -> None:
        self.agent, self.collector, self.rollout = agent, collector, rollout
        self.noise, self.exploration = noise, exploration
        self.steps_per_round = rollout.steps * collector.per_seed
        self.shapes = agent.noise_shapes(self.steps_per_round)

    def rounds(self, count: int) -> Iterator[Cycle]:
        """Act for a whole rollout, then learn from it."""
        collector = self.collector
        shape = (collector.per_seed, *self.agent.exploration_shape)
        for _ in range(count):
            for _ in range(self.rollout.steps):
                collector.step(collector.policy.act(collector.observed, self.exploration.draw(shape)))
            (noise,) = self.noise.draw_updates(self.shapes, 1)
            yield [self.rollout.take().to(collector.policy.device)], noise

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """The next batch is a new one in any case."""

    def at_checkpoint(self, step: int) -> None:
        """Cut the running episodes and reset by the step's number; see `Collector.restart`."""
        self.collector.restart(step)

    def report(self) -> dict[str, list[Any]]:
        return episode_report(self.collector)

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {"noise": self.noise.named_tensors(), "exploration": self.exploration.named_tensors()}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        self.noise.restore(parts["noise"])
        self.exploration.restore(parts["exploration"])


def episode_report(collector: Collector) -> dict[str, list[Any]]:
    """Mean return and length of the episodes that ended since the last report, per seed; None where none did."""
    finished = collector.finished()
    return {
        "episode_return": [sum(r) / len(r) if r else None for r in finished.returns],
        "episode_length": [sum(n) / len(n) if n else None for n in finished.lengths],
    }
