"""Learning from own steps beside demonstrations: where both come from, and what to look out for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl import plugins
from offrl.agents.algorithm import Algorithm
from offrl.config.recipe import Recipe
from offrl.converters.catalog import name_anywhere
from offrl.data.trajectories import Trajectories
from offrl.envs.collector import StepSink, numbers_in
from offrl.envs.make import environment_spec
from offrl.envs.policy import Columns, Policy
from offrl.envs.spaces import check_spaces
from offrl.errors import RecipeError
from offrl.feeds.feed import Feed
from offrl.feeds.materials import Cycle, Materials, sampling_options
from offrl.feeds.problem import NO_ENVIRONMENT, Problem, chosen_episodes, facts_of, open_finite
from offrl.feeds.warm_start import begun_from
from offrl.ops.minibatches import without_time
from offrl.ops.returns import running_returns
from offrl.ops.trees import tree_map
from offrl.replay.rollout_buffer import RolloutBuffer
from offrl.replay.row_layout import RowLayout
from offrl.replay.sampler import ReplaySampler
from offrl.runs.checkpoint import read_facts
from offrl.runs.load import spec_of
from offrl.runs.run import Run
from offrl.types import Batch, GivesReward, Metrics

DEMONSTRATION_SEEDS = 2**63
"""Added to a seed, gives that of its demonstrations: no seed is as great."""
JUDGED_STEPS = 256
"""Steps of each environment that are rewarded at once, to add up learned returns."""
BIASES = {
    "positive": "never negative, so longer episodes earn more whatever happens in them",
    "negative": "never positive, so shorter episodes earn more whatever happens in them",
    "logit": "of either sign, so an episode's length earns or costs something whatever happens in it",
}
"""What each form of reward makes of an episode's length."""


def objection_to_imitating(recipe: Recipe) -> RecipeError | None:
    """Why a recipe doesn't say what to imitate in a way that can be; None where it does."""
    algo = recipe.algo
    if recipe.dataset is None:
        return RecipeError(
            f"{algo} learns from demonstrations, and none are named", hint="add --dataset NAME, and --demos N"
        )
    if recipe.data.n_step != 1:
        return RecipeError(f"{algo} rewards single steps, and data.n_step is above 1", hint="set data.n_step=1")
    if recipe.online.offline_fraction or recipe.online.offline_fraction_end:
        return RecipeError(
            f"{algo} has batches of demonstrations beside those of its own steps",
            hint="leave online.offline_fraction and online.offline_fraction_end out",
        )
    return None


class LearnedReturns:
    """A sink that passes steps on, and adds up what the learned reward makes of each episode.

    Args:
        sink: where the steps go.
        policy: the agent, which has a `reward`, and its state.
        environments: E, per seed.
    """

    def __init__(self, sink: StepSink, policy: Policy, environments: int) -> None:
        self.sink, self.policy = sink, policy
        layout = RowLayout.of(policy.agent.spec)
        self.steps = RolloutBuffer(layout, policy.seeds, environments, JUDGED_STEPS, discount=1.0)
        self.running = np.zeros((policy.seeds, environments), np.float32)
        self.finished: list[list[float]] = [[] for _ in range(policy.seeds)]
        self.terminated = False

    def begin(self, observation: Columns) -> None:
        """Start an episode in every environment."""
        self.sink.begin(observation)
        self.steps.begin(observation)
        self.running[:] = 0.0

    def append(
        self,
        action: NDArray[Any],
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_observation: Columns,
        reset_observation: Columns,
    ) -> None:
        """Add one step of every environment."""
        step = (action, reward, terminated, truncated, next_observation, reset_observation)
        self.sink.append(*step)
        self.steps.append(*step)
        self.terminated = self.terminated or bool(terminated.any())
        if self.steps.position == self.steps.steps:
            self._judge()

    def cut(self) -> None:
        """End every running episode where it stands."""
        self._judge()
        self.sink.cut()

    def report(self) -> list[float | None]:
        """Mean learned return of the episodes that ended since the last call, per seed; None where none did."""
        self._judge()
        means = [sum(returns) / len(returns) if returns else None for returns in self.finished]
        self.finished = [[] for _ in self.finished]
        return means

    def named_tensors(self) -> dict[str, Tensor]:
        """Of the episodes that ended since the last report, for a checkpoint between two."""
        self._judge()
        return {
            f"learned_returns.{seed}": torch.tensor(returns, dtype=torch.float64)
            for seed, returns in enumerate(self.finished)
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with the episodes of `named_tensors`; checkpoints of earlier versions have none."""
        self.finished = [
            numbers_in(tensors[name]) if (name := f"learned_returns.{seed}") in tensors else []
            for seed in range(self.policy.seeds)
        ]

    def _judge(self) -> None:
        """Reward the steps that have come together, by the discriminator of now."""
        count = self.steps.position
        if not count:
            return
        batch = first_steps(self.steps.take(), count).to(self.policy.device)
        agent: Any = self.policy.agent
        reward: Tensor = agent.reward(self.policy.state, without_time(batch)).view(batch.reward.shape).cpu()
        assert batch.truncated is not None
        done = (batch.terminated + batch.truncated).cpu()
        sums = running_returns(reward, done, reward.new_tensor(self.running), 1.0)
        for seed, (returns, ended) in enumerate(zip(sums, done, strict=True)):
            self.finished[seed] += returns[ended > 0.0].tolist()
        self.running = (sums[..., -1] * (1.0 - done[..., -1])).numpy()


class LengthGuard:
    """Warns once where episodes differ in length and nothing keeps that from leaking into the reward.

    Args:
        data: the demonstrations.
        bias: which lengths the reward favors, a key of `BIASES`.
        warn: takes the text.
    """

    def __init__(self, data: Trajectories, bias: str, warn: Callable[[str], None]) -> None:
        self.warn, self.bias, self.watching = warn, bias, True
        self.shortest, self.longest = (int(bound(data.episodes.length)) for bound in (np.min, np.max))

    def check(self, terminated: bool) -> None:
        """Look at the demonstrations, and at whether an own episode has ended in a terminal state so far."""
        if not self.watching or not (terminated or self.shortest < self.longest):
            return
        self.watching = False
        whose = (
            f"the demonstrations take {self.shortest:,} to {self.longest:,} steps"
            if self.shortest < self.longest
            else "the agent's own episodes end early"
        )
        self.warn(
            f"episodes differ in length ({whose}), and the learned reward is {BIASES[self.bias]}. "
            "Set agent.absorbing=true (gail) or online.fixed_horizon=N to keep the length out of it."
        )


class DemonstrationsFeed:
    """The cycles of a feed of own steps, each with batches of demonstrations behind its own.

    Args:
        own: the feed that the learner has by itself.
        count: batches of demonstrations that an update takes.
        demonstrations: where they are drawn from.
        returns: adds up learned returns; None where no reward is learned.
        guard: is told of episodes that differ in length; None where nothing is to be looked out for.
    """

    online: ClassVar[bool] = True
    holds_out: ClassVar[bool] = False
    mixes_data: ClassVar[bool] = False

    def __init__(
        self,
        own: Feed,
        count: int,
        demonstrations: ReplaySampler,
        returns: LearnedReturns | None,
        guard: LengthGuard | None,
    ) -> None:
        self.own, self.demonstrations, self.returns, self.guard = own, demonstrations, returns, guard
        self.count = count
        self.steps_per_round = own.steps_per_round

    @classmethod
    def objection(cls, recipe: Recipe) -> RecipeError | None:
        """Demonstrations are needed, of single steps, and nothing to mix them with."""
        return objection_to_imitating(recipe)

    @classmethod
    def open(cls, recipe: Recipe, checkpoint: Path | None) -> Problem:
        """Demonstrations, an environment to act in, and perhaps another run's policies to start from."""
        assert recipe.dataset is not None
        store = open_finite(recipe.dataset)
        environment = store.metadata.environment if recipe.env is None else recipe.env
        if environment is None or environment == NO_ENVIRONMENT:
            raise RecipeError(f"{recipe.algo} learns by acting, and no environment is named", hint="add --env ID")
        start = None if recipe.start is None else str(Path(recipe.start).resolve())
        recipe = replace(recipe, env=environment, dataset=name_anywhere(recipe.dataset), start=start)
        check_spaces(store.spec, environment_spec(environment), environment)
        spec = store.spec.stacked(recipe.data.frame_stack)
        origin = None
        if start is not None:
            origin = checkpoint
            if origin is None:
                recipe, origin = begun_from(recipe, Path(start))
            check_spaces(spec_of(read_facts(origin)), spec, environment)
        return Problem(recipe, spec, chosen_episodes(store, recipe), facts_of(store, recipe), origin)

    @classmethod
    def unread(cls, recipe: Recipe) -> tuple[tuple[str, ...], str]:
        """What the learner's own feed doesn't read; batches of demonstrations have the recipe's size."""
        names, why = _own_kind(plugins.algorithms[recipe.algo].learner(recipe.agent)).unread(recipe)
        return tuple(name for name in names if name != "batch_size"), why

    @classmethod
    def gradient_rows(cls, recipe: Recipe) -> int:
        """The learner's."""
        return _own_kind(plugins.algorithms[recipe.algo].learner(recipe.agent)).gradient_rows(recipe)

    @classmethod
    def build(cls, materials: Materials) -> Self:
        """The learner's own feed, and demonstrations beside it."""
        recipe, policy, problem, data = materials.recipe, materials.policy, materials.problem, materials.data
        assert data is not None
        own: Any = _own_kind(problem.learner).build(replace(materials, data=None))
        demonstrations = ReplaySampler(
            [data],
            batch_size=recipe.batch_size,
            # Not those of the replay, whose draws would go up and down with these.
            seeds=[seed + DEMONSTRATION_SEEDS for seed in recipe.seeds],
            **sampling_options(recipe, policy),
        )
        agent: Any = policy.agent
        returns, guard = None, None
        if problem.algorithm.can(GivesReward):
            returns = LearnedReturns(own.collector.sink, policy, recipe.online.environments)
            own.collector.sink = returns
            if agent.length_bias and not recipe.online.fixed_horizon:
                guard = LengthGuard(data, agent.length_bias, materials.listener.warned)
        return cls(own, agent.demonstration_batches, demonstrations, returns, guard)

    def rounds(self, count: int) -> Iterator[Cycle]:
        """The own feed's cycles, with demonstrations."""
        self._look_out()
        for cycle in self.own.rounds(count):
            shown = self.demonstrations.sample(self.count).unbind()
            yield cycle._replace(batches=[*cycle.batches, *shown])

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """Nothing is drawn by its error."""

    def at_checkpoint(self, step: int) -> None:
        """As the own feed does."""
        self.own.at_checkpoint(step)

    def finished(self) -> bool:
        """There is always more to learn."""
        return False

    def report(self) -> dict[str, list[Any]]:
        """The episodes' own returns and lengths, and what the learned reward makes of them."""
        self._look_out()
        learned = {} if self.returns is None else {"learned_return": self.returns.report()}
        return self.own.report() | learned

    def conclude(self, run: Run) -> None:
        """As the own feed does."""
        self.own.conclude(run)

    def close(self) -> None:
        """Let go of the environments."""
        self.own.close()

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Those of the own feed, the demonstrations' generators, and what is to be reported."""
        learned = {} if self.returns is None else self.returns.named_tensors()
        return {**self.own.parts(), "demonstrations": {**self.demonstrations.named_tensors(), **learned}}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Go on with the next draws of both."""
        self.own.restore(parts)
        self.demonstrations.restore(parts["demonstrations"])
        if self.returns is not None:
            self.returns.restore(parts["demonstrations"])

    def _look_out(self) -> None:
        if self.returns is not None and self.guard is not None:
            self.guard.check(self.returns.terminated)


def _own_kind(learner: Algorithm) -> type[Feed]:
    """How a learner learns from its own steps."""
    kinds: list[type[Feed]] = [plugins.feeds[name] for name in learner.feeds]
    return next(kind for kind in kinds if kind.online)


def first_steps(batch: Batch, count: int) -> Batch:
    """The first `count` steps of a rollout [S, E, T, …]."""
    first: Batch = tree_map(lambda part: part[:, :, :count], batch)
    return first
