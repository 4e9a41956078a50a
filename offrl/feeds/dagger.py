"""Dataset aggregation (DAgger; Ross et al., 2011), https://arxiv.org/abs/1011.0686: own states, an expert's actions.

The expert acts until the warm-up is over (β = 1), and the learner from then on (β = 0, the paper's choice without
parameters); whoever acts, what goes into the replay is what the expert would do.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from offrl.config.recipe import Recipe
from offrl.envs.collector import StepSink
from offrl.envs.policy import Actor, Columns, Policy
from offrl.envs.spaces import check_spaces
from offrl.errors import RecipeError, RequestError, RunError
from offrl.feeds.materials import Materials
from offrl.feeds.own_steps import objection_to_data
from offrl.feeds.problem import Problem, objection_to_mixing, online_problem
from offrl.feeds.replay import ReplayFeed
from offrl.nn.clipping import Clipping
from offrl.ops.trees import tree_map
from offrl.replay.normalization import RewardScaler
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.types import Observation, Spec


class Teacher:
    """An expert that says what it would do.

    Args:
        policy: the expert's, of one seed, which teaches all learners, or of as many as there are learners.

    Attributes:
        told: what it would do where it was asked last, [S·E, …].
    """

    told: NDArray[Any]

    def __init__(self, policy: Policy) -> None:
        self.policy, self.clipped = policy, Clipping(policy.agent.spec.action_space)
        self.actor: Actor | None = None

    def act(self, observed: Observation, action_mask: NDArray[np.bool_] | None = None) -> Tensor:
        """Its greedy actions [S, E, …] for observations [S, E, …] as the environment shows them, of those allowed."""
        shape = first_tensor(observed).shape[:2]
        seeds = self.policy.seeds
        if self.actor is None:
            self.actor = Actor(self.policy, shape.numel() // seeds)
        shown = tree_map(lambda part: part.flatten(0, 1).unflatten(0, (seeds, -1)), observed)
        normalizer: Any = self.policy.normalizer
        seen = shown if normalizer is None else normalizer.normalize(shown)
        action = self.clipped(self.actor.act(seen, action_mask=action_mask).flatten(0, 1))
        self.told = action.cpu().numpy()
        return action.view(*shape, *action.shape[1:])

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """Take in what the step earned, [S·E], and forget the episodes that ended with it, bool [S·E]."""
        if self.actor is not None:
            self.actor.stepped(reward, done)

    def restart(self) -> None:
        """Forget all episodes."""
        if self.actor is not None:
            self.actor.restart()


class LabeledSteps:
    """A sink that puts the expert's actions in place of those that were taken.

    Args:
        sink: where steps go.
        teacher: the expert.
        reward_scaler: how the sink has rewards; the expert knows the environment's own.
    """

    def __init__(self, sink: StepSink, teacher: Teacher, reward_scaler: RewardScaler) -> None:
        self.sink, self.teacher, self.reward_scaler = sink, teacher, reward_scaler

    def begin(self, observation: Columns) -> None:
        """Start an episode in every environment."""
        self.teacher.restart()
        self.sink.begin(observation)

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
        self.sink.append(self.teacher.told, reward, terminated, truncated, next_observation, reset_observation)
        self.teacher.stepped(self.reward_scaler.inverse(reward), terminated | truncated)

    def cut(self) -> None:
        """End every running episode where it stands."""
        self.sink.cut()


class DaggerFeed(ReplayFeed):
    """A replay of own steps with the expert's actions, which the expert itself takes before the first update."""

    mixes_data: ClassVar[bool] = False
    teacher: Teacher

    @classmethod
    def objection(cls, recipe: Recipe) -> RecipeError | None:
        """It learns from nothing but own steps."""
        return objection_to_data(recipe) or objection_to_mixing(recipe)

    @classmethod
    def open(cls, recipe: Recipe, checkpoint: Path | None) -> Problem:
        """The environment, and the expert."""
        if recipe.start is not None:
            raise RecipeError(f"{recipe.algo} begins with an expert, not with a run to go on from")
        expert = None if recipe.expert is None else str(Path(recipe.expert).resolve())
        problem = online_problem(dataclasses.replace(recipe, expert=expert))
        teacher_of(problem.recipe, problem.spec)
        return problem

    @classmethod
    def build(cls, materials: Materials) -> Self:
        """A replay, with the expert between the environments and the ring."""
        feed = super().build(materials)
        feed.teacher = teacher_of(materials.recipe, materials.problem.spec)
        feed.collector.sink = LabeledSteps(feed.ring, feed.teacher, feed.collector.reward_scaler)
        return feed

    def choose_action(self) -> Tensor:
        """The expert's before the first update, then the policy's; the expert is asked at every step."""
        told = self.teacher.act(self.collector.observed, self.collector.action_mask)
        return told if self.steps_taken < self.config.warmup_steps else super().choose_action()


def teacher_of(recipe: Recipe, spec: Spec) -> Teacher:
    """The expert that a recipe names.

    Raises:
        RecipeError: there is none, or it doesn't fit the number of seeds or the frames shown.
        RequestError: the run that is named has no policy.
        SpaceMismatchError: it is for another task.
    """
    if recipe.expert is None:
        raise RecipeError(f"{recipe.algo} asks an expert what to do, and none is named", hint="add --expert RUN")
    try:
        run = Run.open(Path(recipe.expert))
        policy, _ = load_policy(run, run.choose_checkpoint(), recipe.device)
    except RunError as error:
        raise RequestError(
            f"there is no expert to ask: {error.what}", where=error.where, hint="name a trained run with --expert"
        ) from error
    check_spaces(policy.agent.spec, spec, recipe.env or "")
    if policy.frame_stack != recipe.data.frame_stack:
        raise RecipeError(
            f"the expert sees {policy.frame_stack} frames at once, the learner {recipe.data.frame_stack}",
            hint=f"set data.frame_stack={policy.frame_stack}",
        )
    if policy.seeds not in (1, len(recipe.seeds)):
        raise RecipeError(
            f"the expert's run has {policy.seeds} policies, and there are {len(recipe.seeds)} learners",
            hint=f"name a run of one seed, or train {policy.seeds} seeds",
        )
    return Teacher(policy)


def first_tensor(observation: Observation) -> Tensor:
    """One of its parts."""
    return observation if isinstance(observation, Tensor) else next(iter(observation.values()))
