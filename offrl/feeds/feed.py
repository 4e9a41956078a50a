"""Where a training loop's batches come from: a dataset, or the agent's own steps in an environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from offrl.config.recipe import OnlineConfig
from offrl.envs.collector import Collector
from offrl.envs.exploration import uniform_actions
from offrl.feeds.dagger import Teacher
from offrl.ops.noise import NoiseSource
from offrl.replay.ring import OnlineRing
from offrl.replay.rollout_buffer import RolloutBuffer
from offrl.replay.sampler import ReplaySampler
from offrl.types import Agent, Batch, Metrics, Noise


class Cycle(NamedTuple):
    """What one `Agent.update` consumes.

    Attributes:
        critic_only: call `update_critic` in its place, which leaves the policy as it is.
    """

    batches: list[Batch]
    noise: Noise
    critic_only: bool = False


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

    def close(self) -> None:
        """Let go of environments."""

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
        """Each round is one update; unless they are prioritized, all their batches and draws are gathered at once."""
        # Priorities change with every update.
        updates = 1 if self.sampler.priorities else count
        for _ in range(0, count, updates):
            yield from cycles(self.sampler.batches(updates * self.steps_per_round), self.noise, self.shapes, updates)

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """Tell the sampler of TD errors."""
        tell_errors(self.sampler, batches, metrics)

    def at_checkpoint(self, step: int) -> None:
        """A dataset has nothing to restart."""

    def report(self) -> dict[str, list[Any]]:
        return {}

    def close(self) -> None:
        """There are no environments."""

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {"sampler": self.sampler.named_tensors(), "noise": self.noise.named_tensors()}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        self.sampler.restore(parts["sampler"])
        self.noise.restore(parts["noise"])


class OnlineFeed:
    """Batches from the replay of the agent's own steps; a step is an environment step of one seed.

    A round is the shortest stretch with whole numbers of both: vector steps, then updates.

    Args:
        agent: the algorithm.
        collector: steps the environments, into the ring.
        ring: the replay.
        sampler: draws from the ring alone, or from a dataset and the ring, in this order.
        noise: the updates' draws.
        exploration: the draws for acting.
        batch_size: transitions per seed and batch.
        online: when to update, and from how much of the dataset.
        random_warmup: whether actions before the first update are random ones, or the policy's own.
        teacher: acts before the first update, if there is one, and is asked what to do behind it.
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
        online: OnlineConfig,
        random_warmup: bool,
        teacher: Teacher | None = None,
    ) -> None:
        self.agent, self.collector, self.ring, self.sampler = agent, collector, ring, sampler
        self.noise, self.exploration, self.online = noise, exploration, online
        self.shapes = agent.noise_shapes(batch_size)
        gradient_steps = Fraction(collector.per_seed * online.updates_per_step).limit_denominator(64)
        ratio = gradient_steps / agent.batches_per_update
        self.vector_steps, self.updates = ratio.denominator, ratio.numerator
        self.steps_per_round = self.vector_steps * collector.per_seed
        self.random_steps = online.warmup_steps if random_warmup else 0
        self.teacher = teacher
        self.steps_taken = 0

    def rounds(self, count: int) -> Iterator[Cycle]:
        """Act, then learn from batches that hold the newest steps; no learning before the warm-up is over."""
        size, device = self.updates * self.agent.batches_per_update, self.collector.policy.device
        for _ in range(count):
            for _ in range(self.vector_steps):
                self._act()
            taken = self.steps_taken
            if taken < self.online.warmup_steps:
                continue
            if self.online.offline_fraction_steps and len(self.sampler.sources) > 1:
                share = offline_share(self.online, taken)
                self.sampler.set_fractions([share, 1.0 - share])
            critic_only = taken < self.online.warmup_steps + self.online.critic_warmup
            batches = [batch.to(device) for batch in self.sampler.batches(size)]
            yield from cycles(batches, self.noise, self.shapes, self.updates, critic_only)

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """Tell the sampler of TD errors."""
        tell_errors(self.sampler, batches, metrics)

    def at_checkpoint(self, step: int) -> None:
        """Cut the running episodes and reset by the step's number; see `Collector.restart`."""
        self.exploration.forget()
        self.collector.restart(step)

    def report(self) -> dict[str, list[Any]]:
        return episode_report(self.collector)

    def close(self) -> None:
        self.collector.close()

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {
            "sampler": self.sampler.named_tensors(),
            "noise": self.noise.named_tensors(),
            "exploration": self.exploration.named_tensors(),
            "ring": {**self.ring.named_tensors(), "steps_taken": torch.tensor(self.steps_taken)},
        }

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        self.sampler.restore(parts["sampler"])
        self.noise.restore(parts["noise"])
        self.exploration.restore(parts["exploration"])
        self.ring.restore({name: tensor for name, tensor in parts["ring"].items() if name != "steps_taken"})
        self.steps_taken = int(parts["ring"]["steps_taken"])

    def _act(self) -> None:
        collector, agent = self.collector, self.agent
        told = None if self.teacher is None else self.teacher.act(collector.observed, collector.action_mask)
        if told is not None and self.steps_taken < self.online.warmup_steps:
            action = told
        elif self.steps_taken < self.random_steps:
            draws = self.exploration.next((collector.per_seed, agent.spec.action_dim))
            action = uniform_actions(agent.spec, draws, collector.action_mask)
        else:
            draws = self.exploration.next((collector.per_seed, *agent.exploration_shape))
            action = collector.act(draws)
        collector.step(action)
        self.steps_taken += collector.per_seed


class RolloutFeed:
    """Batches of the newest steps, each used for one update; a step is an environment step of one seed.

    A round is T steps of every environment and one update; of the critics alone until `critic_warmup` steps are taken.
    """

    def __init__(
        self,
        agent: Agent[Any],
        collector: Collector,
        rollout: RolloutBuffer,
        noise: NoiseSource,
        exploration: NoiseSource,
        critic_warmup: int,
    ) -> None:
        self.agent, self.collector, self.rollout = agent, collector, rollout
        self.critic_warmup, self.steps_taken = critic_warmup, 0
        self.noise, self.exploration = noise, exploration
        self.steps_per_round = rollout.steps * collector.per_seed
        self.shapes = agent.noise_shapes(self.steps_per_round)

    def rounds(self, count: int) -> Iterator[Cycle]:
        """Act for a whole rollout, then learn from it."""
        collector = self.collector
        shape = (collector.per_seed, *self.agent.exploration_shape)
        for _ in range(count):
            for _ in range(self.rollout.steps):
                collector.step(collector.act(self.exploration.next(shape)))
            (noise,) = self.noise.draw_updates(self.shapes, 1)
            critic_only = self.steps_taken < self.critic_warmup
            self.steps_taken += self.steps_per_round
            yield Cycle([self.rollout.take().to(collector.policy.device)], noise, critic_only)

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """The next batch is a new one in any case."""

    def at_checkpoint(self, step: int) -> None:
        """Cut the running episodes and reset by the step's number; see `Collector.restart`."""
        self.steps_taken = step
        self.exploration.forget()
        self.collector.restart(step)
        if hasattr(self.agent, "episodes_cut"):
            self.agent.episodes_cut(self.collector.policy.state)

    def report(self) -> dict[str, list[Any]]:
        return episode_report(self.collector)

    def close(self) -> None:
        self.collector.close()

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {"noise": self.noise.named_tensors(), "exploration": self.exploration.named_tensors()}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        self.noise.restore(parts["noise"])
        self.exploration.restore(parts["exploration"])


def cycles(
    batches: list[Batch],
    noise: NoiseSource,
    shapes: Mapping[str, tuple[int, ...]],
    updates: int,
    critic_only: bool = False,
) -> Iterator[Cycle]:
    """updates · C batches as those of single updates, each with draws of its own."""
    draws, size = noise.draw_updates(shapes, updates), len(batches) // updates
    for i in range(updates):
        yield Cycle(batches[i * size : (i + 1) * size], draws[i], critic_only)


def offline_share(online: OnlineConfig, step: int) -> float:
    """The dataset's share of a batch after so many environment steps."""
    start, end = online.offline_fraction, online.offline_fraction_end
    done = min(step / online.offline_fraction_steps, 1.0) if online.offline_fraction_steps else 0.0
    return start + done * (end - start)


def tell_errors(sampler: ReplaySampler, batches: list[Batch], metrics: Metrics) -> None:
    """Make an update's TD errors the priorities of its transitions, and take them out of the metrics."""
    if sampler.priorities:
        sampler.learned(batches, metrics.pop("td_error"))


def episode_report(collector: Collector) -> dict[str, list[Any]]:
    """Mean return and length of the episodes that ended since the last report, per seed; None where none did."""
    finished = collector.finished()
    return {
        "episode_return": [sum(r) / len(r) if r else None for r in finished.returns],
        "episode_length": [sum(n) / len(n) if n else None for n in finished.lengths],
    }
