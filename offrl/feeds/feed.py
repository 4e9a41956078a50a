"""What a feed is: where a training loop's update cycles come from. Each way of learning is one file beside this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from torch import Tensor

from offrl.config.recipe import Recipe
from offrl.data.trajectories import Trajectories
from offrl.envs.policy import Policy
from offrl.errors import RecipeError
from offrl.feeds.problem import Problem
from offrl.ops.noise import NoiseSource
from offrl.replay.normalization import RewardScaler
from offrl.replay.sampler import ReplaySampler
from offrl.runs.run import Run
from offrl.types import Batch, Metrics, Noise

if TYPE_CHECKING:
    from offrl.runs.listener import Listener
    from offrl.runs.recorder import EpisodeRecorder

UPDATE_STREAM, EXPLORATION_STREAM = 1, 2
"""Tell apart the sources of draws of one run: of updates, and of acting."""


class Cycle(NamedTuple):
    """What one `Agent.update` consumes.

    Attributes:
        critic_only: call `update_critic` in its place, which leaves the policy as it is.
    """

    batches: list[Batch]
    noise: Noise
    critic_only: bool = False


@dataclass(frozen=True)
class Materials:
    """What a feed builds itself from.

    Attributes:
        problem: the recipe, and what its names stand for.
        policy: what learns, and acts.
        data: the episodes to learn from; None where there are none.
        recorder: keeps the steps that are taken; None where they aren't kept.
        listener: told of doubts.
    """

    problem: Problem
    policy: Policy
    data: Trajectories | None
    recorder: EpisodeRecorder | None
    listener: Listener

    @property
    def recipe(self) -> Recipe:
        """That of the problem."""
        return self.problem.recipe

    def update_noise(self) -> NoiseSource:
        """The updates' draws."""
        return NoiseSource(self.problem.recipe.seeds, self.policy.device, UPDATE_STREAM)

    def exploration_noise(self) -> NoiseSource:
        """The draws for acting."""
        return NoiseSource(self.recipe.seeds, self.policy.device, EXPLORATION_STREAM)


class Feed(Protocol):
    """A source of update cycles, which opens its own problem and builds itself.

    Attributes:
        online: whether it learns from own steps in an environment, be it among others.
        holds_out: whether some of the data's episodes may be held out, to validate on.
        mixes_data: whether a dataset's transitions can be mixed with own steps.
        steps_per_round: how far one round moves the run's step counter.
    """

    online: ClassVar[bool]
    holds_out: ClassVar[bool]
    mixes_data: ClassVar[bool]
    steps_per_round: int

    @classmethod
    def objection(cls, recipe: Recipe) -> RecipeError | None:
        """Why this is not how a recipe learns; None where it is."""

    @classmethod
    def open(cls, recipe: Recipe, checkpoint: Any) -> Problem:
        """What the names in a recipe stand for: data, spaces, environment.

        Args:
            recipe: one without an objection.
            checkpoint: the folder of the run's own last one, if there is one: a fine-tuning then needs no more of what
                it started from.

        Raises:
            OffrlError: something isn't there, or the parts don't belong together.
        """

    @classmethod
    def unread(cls, recipe: Recipe) -> tuple[tuple[str, ...], str]:
        """Options that it doesn't read, by dotted name, and why."""

    @classmethod
    def gradient_rows(cls, recipe: Recipe) -> int:
        """Transitions of each seed that one gradient step learns from: how large its matrix products are."""

    @classmethod
    def build(cls, materials: Materials) -> Self:
        """The feed, at step 0."""

    def rounds(self, count: int) -> Iterator[Cycle]:
        """The update cycles of `count` rounds, in order."""

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """Called after each update, with what it consumed and returned; takes out what isn't for the log."""

    def at_checkpoint(self, step: int) -> None:
        """Called after each periodic checkpoint, and once before the first round."""

    def finished(self) -> bool:
        """Whether there is nothing left to learn."""

    def report(self) -> dict[str, list[Any]]:
        """What happened since the last call, per seed, for the metrics."""

    def conclude(self, run: Run) -> None:
        """Called at the end: leave in the run's folder what else was found."""

    def close(self) -> None:
        """Let go of environments."""

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint must hold, as named groups of tensors."""

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Continue where `parts` was taken."""


def sampling_options(recipe: Recipe, policy: Policy) -> dict[str, Any]:
    """What all samplers of a run's dataset share."""
    return {
        "n_step": recipe.data.n_step,
        "discount": policy.agent.discount,
        "observation_normalizer": policy.normalizer,
        "reward_scaler": None if recipe.data.reward_scale == 1.0 else RewardScaler(recipe.data.reward_scale),
        "action_map": policy.action_map,
        "device": policy.device,
        "memory_budget": recipe.data.memory_budget,
    }


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


def tell_errors(sampler: ReplaySampler, batches: list[Batch], metrics: Metrics) -> None:
    """Make an update's TD errors the priorities of its transitions, and take them out of the metrics."""
    if sampler.priorities:
        sampler.learned(batches, metrics.pop("td_error"))
