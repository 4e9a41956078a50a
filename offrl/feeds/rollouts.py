"""Batches of the newest steps, each used for one update."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from offrl import plugins
from offrl.config.recipe import Recipe
from offrl.envs.collector import Collector
from offrl.errors import RecipeError
from offrl.feeds.materials import Cycle, Materials
from offrl.feeds.own_steps import collector_into, episode_report, objection_to_data, own_steps_problem, step_layout
from offrl.feeds.problem import Problem, objection_to_mixing
from offrl.ops.noise import NoiseSource
from offrl.replay.rollout_buffer import RolloutBuffer
from offrl.runs.run import Run
from offrl.types import Agent, Batch, EpisodesCut, Metrics

UNREAD = ("batch_size", "online.capacity", "online.updates_per_step", "data.n_step")
"""Options that only a replay, or a dataset, reads."""


class RolloutsFeed:
    """Consecutive steps of every environment, thrown away behind the update; a step is one of one seed's environment.

    Algorithms that learn so have an option `rollout_steps`: T, steps of each environment that one update learns from.
    Some have `minibatch_size` too: how many of all these steps one gradient step takes.

    A round is T steps of every environment and one update; of the critics alone until `critic_warmup` steps are taken.

    Args:
        agent: the algorithm.
        collector: steps the environments, into the rollout.
        rollout: the newest steps.
        noise: the updates' draws.
        exploration: the draws for acting.
        critic_warmup: steps in which the critics alone learn.
        cut: the agent again, where it wants to know that episodes were cut.
    """

    online: ClassVar[bool] = True
    holds_out: ClassVar[bool] = False
    mixes_data: ClassVar[bool] = False

    def __init__(
        self,
        agent: Agent[Any, Any],
        collector: Collector,
        rollout: RolloutBuffer,
        noise: NoiseSource,
        exploration: NoiseSource,
        critic_warmup: int,
        cut: EpisodesCut | None = None,
    ) -> None:
        self.agent, self.collector, self.rollout, self.cut = agent, collector, rollout, cut
        self.critic_warmup, self.steps_taken = critic_warmup, 0
        self.noise, self.exploration = noise, exploration
        self.steps_per_round = rollout.steps * collector.per_seed
        self.shapes = agent.noise_shapes(self.steps_per_round)

    @classmethod
    def objection(cls, recipe: Recipe) -> RecipeError | None:
        """It takes no dataset but that of a run to start from, and nothing of it."""
        return objection_to_data(recipe) or (None if recipe.start is not None else objection_to_mixing(recipe))

    @classmethod
    def open(cls, recipe: Recipe, checkpoint: Path | None) -> Problem:
        """From scratch, or from the policies of another run."""
        return own_steps_problem(recipe, checkpoint)

    @classmethod
    def unread(cls, recipe: Recipe) -> tuple[tuple[str, ...], str]:
        """What only a replay reads."""
        return UNREAD, "each update takes the newest agent.rollout_steps steps of every environment"

    @classmethod
    def gradient_rows(cls, recipe: Recipe) -> int:
        """Those of a minibatch, or of the whole rollout."""
        options = vars(plugins.algorithms[recipe.algo].learner_options(recipe.agent))
        rows: int = options.get("minibatch_size", options["rollout_steps"] * recipe.online.environments)
        return rows

    @classmethod
    def build(cls, materials: Materials) -> Self:
        """The rollout, and what fills it."""
        recipe, policy, problem = materials.recipe, materials.policy, materials.problem
        agent: Any = policy.agent
        rollout = RolloutBuffer(
            step_layout(materials),
            policy.seeds,
            recipe.online.environments,
            problem.learner_options.rollout_steps,
            agent.discount,
        )
        return cls(
            agent=agent,
            collector=collector_into(rollout, materials),
            rollout=rollout,
            noise=materials.update_noise(),
            exploration=materials.exploration_noise(),
            critic_warmup=recipe.online.critic_warmup,
            cut=agent if problem.learner.can(EpisodesCut) else None,
        )

    def rounds(self, count: int) -> Iterator[Cycle]:
        """Act for a whole rollout, then learn from it."""
        collector = self.collector
        shape = (collector.per_seed, *self.agent.acting_noise_shape)
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
        if self.cut is not None:
            self.cut.episodes_cut(self.collector.policy.state)

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
        """The generators, and what is to be reported; steps are thrown away."""
        exploration = {**self.exploration.named_tensors(), **self.collector.named_tensors()}
        return {"noise": self.noise.named_tensors(), "exploration": exploration}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Go on with their next draws."""
        self.noise.restore(parts["noise"])
        self.exploration.restore(parts["exploration"])
        self.collector.restore(parts["exploration"])
