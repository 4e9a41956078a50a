"""What feeds are built from, and what they give: a run's parts, update cycles, and what samplers share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from offrl import plugins
from offrl.agents.algorithm import Algorithm
from offrl.config.recipe import Recipe
from offrl.data.trajectories import Trajectories
from offrl.envs.policy import Policy
from offrl.feeds.problem import Problem
from offrl.ops.noise import NoiseSource
from offrl.replay.normalization import RewardScaler
from offrl.replay.sampler import ReplaySampler
from offrl.types import Batch, Metrics, Noise

if TYPE_CHECKING:
    from offrl.runs.listener import Listener
    from offrl.runs.recorder import EpisodeRecorder

UPDATE_STREAM, EXPLORATION_STREAM = 1, 2
"""Tell apart the sources of draws of one run: of updates, and of acting."""
WINDOWS = "windows"
"""The feed whose batches are windows."""


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


def columns_of(recipe: Recipe) -> tuple[str, ...]:
    """What the recipe's algorithm asks its batches to hold, some of `offrl.types.COLUMNS`."""
    algorithm: Algorithm = plugins.algorithms[recipe.algo]
    return algorithm.learner(recipe.agent).columns


def sampling_options(recipe: Recipe, policy: Policy) -> dict[str, Any]:
    """What all samplers of a run's dataset share."""
    return {
        "n_step": recipe.data.n_step,
        "discount": policy.agent.discount,
        "observation_normalizer": policy.normalizer,
        "reward_scaler": reward_scaler_of(recipe),
        "action_map": policy.action_map,
        "device": policy.device,
        "columns": columns_of(recipe),
        "memory_budget": recipe.data.memory_budget,
        "window": window_of(recipe),
    }


def reward_scaler_of(recipe: Recipe) -> RewardScaler:
    """What the recipe makes of rewards, the dataset's and the agent's own."""
    return RewardScaler(recipe.data.reward_scale, recipe.data.reward_shift)


def window_of(recipe: Recipe) -> int:
    """Steps of the windows that batches hold, the option `context` of algorithms that learn from such; 0 for others."""
    steps: int = recipe.agent.context if WINDOWS in plugins.algorithms[recipe.algo].feeds else 0
    return steps


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
