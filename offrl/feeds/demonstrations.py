"""Learning from own steps beside demonstrations: where both come from, and what to look out for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from offrl.config.recipe import Recipe
from offrl.data.trajectories import Trajectories
from offrl.envs.collector import StepSink
from offrl.envs.policy import Columns, Policy
from offrl.errors import RecipeError
from offrl.feeds.feed import Cycle, OnlineFeed, RolloutFeed
from offrl.ops.minibatches import without_time
from offrl.ops.returns import running_returns
from offrl.replay.rollout_buffer import RolloutBuffer
from offrl.replay.row_layout import RowLayout
from offrl.replay.sampler import ReplaySampler
from offrl.types import Batch, Metrics

JUDGED_STEPS = 256
"""Steps of each environment that are rewarded at once, to add up learned returns."""
BIASES = {
    "positive": "never negative, so longer episodes earn more whatever happens in them",
    "negative": "never positive, so shorter episodes earn more whatever happens in them",
    "logit": "of either sign, so an episode's length earns or costs something whatever happens in it",
}
"""What each form of reward makes of an episode's length."""


def check_imitation(recipe: Recipe) -> None:
    """Whether a recipe says what to imitate, in a way that can be.

    Raises:
        RecipeError: no demonstrations are named, the generator isn't one of the algorithm's, or rewards of several
            steps are asked for, which only the environment could give.
    """
    algo = recipe.algo
    if recipe.dataset is None:
        raise RecipeError(
            f"{algo} learns from demonstrations, and none are named", hint="add --dataset NAME, and --demos N"
        )
    if recipe.data.n_step != 1:
        raise RecipeError(f"{algo} rewards single steps, and data.n_step is above 1", hint="set data.n_step=1")
    if recipe.online.offline_fraction or recipe.online.offline_fraction_end:
        raise RecipeError(
            f"{algo} has batches of demonstrations beside those of its own steps",
            hint="leave online.offline_fraction and online.offline_fraction_end out",
        )


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
        recipe: says which reward is learned, and what keeps lengths out of it.
        warn: takes the text.
    """

    def __init__(self, data: Trajectories, recipe: Recipe, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self.form = getattr(recipe.agent, "reward", "logit")
        self.watching = not (getattr(recipe.agent, "absorbing", False) or recipe.online.fixed_horizon)
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
            f"episodes differ in length ({whose}), and the learned reward is {BIASES[self.form]}. "
            "Set agent.absorbing=true (gail) or online.fixed_horizon=N to keep the length out of it."
        )


class ImitationFeed:
    """The cycles of a feed of own steps, each with batches of demonstrations behind its own.

    Args:
        own: the feed.
        agent: says in `demonstration_batches` how many an update takes.
        demonstrations: where they are drawn from.
        returns: adds up learned returns; None where no reward is learned.
        guard: is told of episodes that differ in length.
    """

    def __init__(
        self,
        own: OnlineFeed | RolloutFeed,
        agent: Any,
        demonstrations: ReplaySampler,
        returns: LearnedReturns | None,
        guard: LengthGuard,
    ) -> None:
        self.own, self.demonstrations, self.returns, self.guard = own, demonstrations, returns, guard
        self.count: int = agent.demonstration_batches
        self.steps_per_round = own.steps_per_round

    def rounds(self, count: int) -> Iterator[Cycle]:
        """The own feed's cycles, with demonstrations."""
        self._look_out()
        for cycle in self.own.rounds(count):
            shown = self.demonstrations.sample(self.count).unbind()
            yield cycle._replace(batches=[*cycle.batches, *shown])

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """Nothing is drawn by its error."""

    def at_checkpoint(self, step: int) -> None:
        self.own.at_checkpoint(step)

    def report(self) -> dict[str, list[Any]]:
        """The episodes' own returns and lengths, and what the learned reward makes of them."""
        self._look_out()
        learned = {} if self.returns is None else {"learned_return": self.returns.report()}
        return self.own.report() | learned

    def close(self) -> None:
        self.own.close()

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {**self.own.parts(), "demonstrations": self.demonstrations.named_tensors()}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        self.own.restore(parts)
        self.demonstrations.restore(parts["demonstrations"])

    def _look_out(self) -> None:
        if self.returns is not None:
            self.guard.check(self.returns.terminated)


def first_steps(batch: Batch, count: int) -> Batch:
    """The first `count` steps of a rollout [S, E, T, …]."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(part) for key, part in value.items()}
        return None if value is None else value[:, :, :count]

    return replace(batch, **{field.name: cut(getattr(batch, field.name)) for field in fields(batch)})
