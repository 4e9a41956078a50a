"""Batches from the replay of the agent's own steps, and from a dataset too where the recipe gives it a share."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from offrl.config.recipe import OnlineConfig, Recipe
from offrl.envs.collector import Collector
from offrl.envs.exploration import random_actions
from offrl.errors import RecipeError
from offrl.feeds.materials import Cycle, Materials, cycles, sampling_options, tell_errors
from offrl.feeds.own_steps import collector_into, episode_report, own_steps_problem, step_layout
from offrl.feeds.problem import Problem, mixes_data
from offrl.nn.clipping import Clipping
from offrl.ops.noise import NoiseSource
from offrl.replay.ring import OnlineRing
from offrl.replay.sampler import ReplaySampler
from offrl.runs.run import Run
from offrl.types import Agent, Batch, Metrics

SELECTION_OPTIONS = ("data.top_fraction", "data.episodes", "data.memory_budget")
"""Those that only a dataset reads."""


class ReplayFeed:
    """Batches from a ring of own steps, or from it and a dataset; a step is an environment step of one seed.

    A round is the shortest stretch with whole numbers of both: vector steps, then updates.

    Args:
        agent: the algorithm.
        collector: steps the environments, into the ring.
        ring: the replay.
        sampler: draws from the ring alone, or from a dataset and the ring, in this order.
        noise: the updates' draws.
        exploration: the draws for acting.
        batch_size: transitions per seed and batch.
        config: when to update, and from how much of the dataset.
        random_warmup: whether actions before the first update are random ones, or the policy's own.
    """

    online: ClassVar[bool] = True
    holds_out: ClassVar[bool] = False
    mixes_data: ClassVar[bool] = True

    def __init__(
        self,
        agent: Agent[Any, Any],
        collector: Collector,
        ring: OnlineRing,
        sampler: ReplaySampler,
        noise: NoiseSource,
        exploration: NoiseSource,
        batch_size: int,
        config: OnlineConfig,
        random_warmup: bool,
    ) -> None:
        self.agent, self.collector, self.ring, self.sampler = agent, collector, ring, sampler
        self.noise, self.exploration, self.config = noise, exploration, config
        self.shapes = agent.noise_shapes(batch_size)
        self.clipped = Clipping(agent.spec.action_space)
        gradient_steps = Fraction(collector.per_seed * config.updates_per_step).limit_denominator(64)
        ratio = gradient_steps / agent.batches_per_update
        self.vector_steps, self.updates = ratio.denominator, ratio.numerator
        self.steps_per_round = self.vector_steps * collector.per_seed
        self.random_steps = config.warmup_steps if random_warmup else 0
        self.steps_taken = 0

    @classmethod
    def objection(cls, recipe: Recipe) -> RecipeError | None:
        """It takes a dataset only for a share of its batches."""
        if recipe.dataset is None or recipe.start is not None or mixes_data(recipe):
            return None
        return RecipeError(
            f"{recipe.algo} learns from own steps, a dataset is named, and batches are to hold nothing of it",
            where="online.offline_fraction",
            hint="set online.offline_fraction=0.5 for half of each batch, or leave the dataset out",
        )

    @classmethod
    def open(cls, recipe: Recipe, checkpoint: Path | None) -> Problem:
        """From scratch, perhaps with data beside own steps, or from the policies of another run."""
        return own_steps_problem(recipe, checkpoint)

    @classmethod
    def unread(cls, recipe: Recipe) -> tuple[tuple[str, ...], str]:
        """What chooses among a dataset's episodes, where there is none."""
        return (SELECTION_OPTIONS, "it learns from its own steps alone") if recipe.dataset is None else ((), "")

    @classmethod
    def gradient_rows(cls, recipe: Recipe) -> int:
        """A batch's."""
        return recipe.batch_size

    @classmethod
    def build(cls, materials: Materials) -> Self:
        """A ring, what fills it, and what draws from it."""
        recipe, policy, data = materials.recipe, materials.policy, materials.data
        ring = OnlineRing(
            step_layout(materials, data),
            policy.seeds,
            recipe.online.environments,
            recipe.online.capacity,
            policy.agent.discount,
        )
        share = recipe.online.offline_fraction
        sampler = ReplaySampler(
            [ring] if data is None else [data, ring],
            batch_size=recipe.batch_size,
            seeds=recipe.seeds,
            fractions=None if data is None else [share, 1.0 - share],
            priority=recipe.priority,
            # The ring is in this machine's memory, whatever the device.
            **sampling_options(recipe, policy) | {"device": "cpu"},
        )
        return cls(
            agent=policy.agent,
            collector=collector_into(ring, materials),
            ring=ring,
            sampler=sampler,
            noise=materials.update_noise(),
            exploration=materials.exploration_noise(),
            batch_size=recipe.batch_size,
            config=recipe.online,
            random_warmup=recipe.start is None,
        )

    def rounds(self, count: int) -> Iterator[Cycle]:
        """Act, then learn from batches that hold the newest steps; no learning before the warm-up is over."""
        size, device = self.updates * self.agent.batches_per_update, self.collector.policy.device
        for _ in range(count):
            for _ in range(self.vector_steps):
                self._act()
            taken = self.steps_taken
            if taken < self.config.warmup_steps:
                continue
            if self.config.offline_fraction_steps and len(self.sampler.sources) > 1:
                share = offline_share(self.config, taken)
                self.sampler.set_fractions([share, 1.0 - share])
            critic_only = taken < self.config.warmup_steps + self.config.critic_warmup
            batches = [batch.to(device) for batch in self.sampler.batches(size)]
            yield from cycles(batches, self.noise, self.shapes, self.updates, critic_only)

    def _act(self) -> None:
        """One step of every environment."""
        # The replay holds what is executed.
        self.collector.step(self.clipped(self.choose_action()))
        self.steps_taken += self.collector.per_seed

    def choose_action(self) -> Tensor:
        """Random actions at first, then the policy's, which explores; [S, E, …]."""
        collector, agent = self.collector, self.agent
        if self.steps_taken < self.random_steps:
            draws = self.exploration.next((collector.per_seed, agent.spec.action_dim))
            return random_actions(agent.spec, draws, collector.action_mask)
        return collector.act(self.exploration.next((collector.per_seed, *agent.acting_noise_shape)))

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """Tell the sampler of TD errors."""
        tell_errors(self.sampler, batches, metrics)

    def at_checkpoint(self, step: int) -> None:
        """Cut the running episodes and reset by the step's number; see `Collector.restart`."""
        self.exploration.forget()
        self.collector.restart(step)

    def finished(self) -> bool:
        """There is always more to learn."""
        return False

    def report(self) -> dict[str, list[Any]]:
        """Returns and lengths of the episodes that ended."""
        return episode_report(self.collector)

    def conclude(self, run: Run) -> None:
        """Nothing else was found."""

    def close(self) -> None:
        """Let go of the environments."""
        self.collector.close()

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """The generators, the ring, and what is to be reported."""
        return {
            "sampler": self.sampler.named_tensors(),
            "noise": self.noise.named_tensors(),
            "exploration": {**self.exploration.named_tensors(), **self.collector.named_tensors()},
            "ring": {**self.ring.named_tensors(), "steps_taken": torch.tensor(self.steps_taken)},
        }

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Go on with the ring as it was."""
        self.sampler.restore(parts["sampler"])
        self.noise.restore(parts["noise"])
        self.exploration.restore(parts["exploration"])
        self.collector.restore(parts["exploration"])
        self.ring.restore({name: tensor for name, tensor in parts["ring"].items() if name != "steps_taken"})
        self.steps_taken = int(parts["ring"]["steps_taken"])


def offline_share(online: OnlineConfig, step: int) -> float:
    """The dataset's share of a batch after so many environment steps."""
    start, end = online.offline_fraction, online.offline_fraction_end
    done = min(step / online.offline_fraction_steps, 1.0) if online.offline_fraction_steps else 0.0
    return start + done * (end - start)
