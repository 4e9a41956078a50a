"""Returns of a policy over a fixed number of complete episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from offrl.envs.episodes import Acts, rollouts, share_evenly
from offrl.envs.make import Environments, make_environments
from offrl.envs.policy import Actor, Policy
from offrl.envs.spaces import check_spaces, spaces_of
from offrl.envs.starts import Purpose, Starts

MAX_PARALLEL = 10
"""Copies of the environment per seed that run side by side."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths (steps) of complete episodes, each [S, episodes]."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]


def evaluate(
    policy: Policy, environment: str, episodes: int, starts: Starts, *, max_episode_steps: int = 0
) -> Evaluation:
    """Run the greedy policy of every seed, each from initial states of its own.

    Args:
        policy: S seeds' policies.
        environment: a Gymnasium id.
        episodes: complete episodes per seed.
        starts: the initial states, of the S seeds.
        max_episode_steps: cut episodes there; 0 leaves the environment's own limit.

    Raises:
        RequestError: the environment can't be made, or an episode doesn't end.
        SpaceMismatchError: its spaces are not those of the policy.
    """
    copies, quota = share_evenly(episodes, MAX_PARALLEL)
    environments = make_environments(
        environment, policy.seeds * copies, frame_stack=policy.frame_stack, max_episode_steps=max_episode_steps
    )
    try:
        check_spaces(policy.agent.spec, spaces_of(environments), environment)
        evaluation = _returns(Greedy(policy, copies), environments, quota, starts.reset_seeds(copies))
    finally:
        environments.close()
    shape = (policy.seeds, episodes)
    return Evaluation(evaluation.returns.reshape(shape), evaluation.lengths.reshape(shape))


def evaluate_function(
    act: Callable[[Any], NDArray[Any]], environment: str, episodes: int, starts: Starts, *, max_episode_steps: int = 0
) -> Evaluation:
    """Returns of a function that acts, whoever trained it, in the manner of `evaluate`; [1, episodes].

    Args:
        act: actions for a vector environment's observation, in the environment's own units; it remembers nothing.
        environment: a Gymnasium id.
        episodes: complete episodes.
        starts: the initial states, of one seed.
        max_episode_steps: cut episodes there; 0 leaves the environment's own limit.

    Raises:
        RequestError: the environment can't be made, or an episode doesn't end.
    """
    copies, quota = share_evenly(episodes, MAX_PARALLEL)
    environments = make_environments(environment, copies, max_episode_steps=max_episode_steps)
    try:
        evaluation = _returns(Function(act), environments, quota, starts.reset_seeds(copies))
    finally:
        environments.close()
    return Evaluation(evaluation.returns.reshape(1, -1), evaluation.lengths.reshape(1, -1))


def evaluate_random(environment: str, episodes: int, *, seed: int = 0, max_episode_steps: int = 0) -> Evaluation:
    """Uniformly random actions from final starts, in the manner of `evaluate`; [1, episodes].

    Args:
        environment: a Gymnasium id.
        episodes: complete episodes.
        seed: picks actions and initial states.
        max_episode_steps: cut episodes there; 0 leaves the environment's own limit.

    Raises:
        RequestError: the environment can't be made, or an episode doesn't end.
    """
    copies, quota = share_evenly(episodes, MAX_PARALLEL)
    environments = make_environments(environment, copies, max_episode_steps=max_episode_steps)
    actions = batch_space(environments.single_action_space, copies)
    actions.seed(seed)
    try:
        starts = Starts(Purpose.FINAL, (seed,))
        evaluation = _returns(UniformlyRandom(actions), environments, quota, starts.reset_seeds(copies))
    finally:
        environments.close()
    return Evaluation(evaluation.returns.reshape(1, -1), evaluation.lengths.reshape(1, -1))


class Greedy:
    """A policy's greedy actions, for `rollouts`."""

    def __init__(self, policy: Policy, copies: int) -> None:
        self.actor = Actor(policy, copies)

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Actions for the vector environment."""
        return self.actor.greedy(observation, action_mask)

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """Take in what the step earned, and forget the episodes that ended."""
        self.actor.stepped(reward, done)


class Function:
    """A function of the observation alone, for `rollouts`."""

    def __init__(self, function: Callable[[Any], NDArray[Any]]) -> None:
        self.function = function

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Actions for the vector environment."""
        return self.function(observation)

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """There is nothing to remember."""


class UniformlyRandom:
    """Draws of a batch of action spaces, for `rollouts`."""

    def __init__(self, actions: gym.Space[Any]) -> None:
        self.actions = actions

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Actions for the vector environment."""
        drawn: NDArray[Any] = self.actions.sample(_allowed(action_mask))
        return drawn

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """There is nothing to remember."""


def _allowed(mask: NDArray[np.bool_] | None) -> tuple[NDArray[np.int8], ...] | None:
    """As Gymnasium's spaces of several Discrete actions take masks."""
    return None if mask is None else tuple(mask.astype(np.int8))


def _returns(acts: Acts, environments: Environments, quota: int, reset_seeds: list[int]) -> Evaluation:
    """Returns and lengths, [copies, quota]."""
    copies = environments.count
    returns, lengths = np.zeros((copies, quota)), np.zeros((copies, quota), np.int64)
    finished = np.zeros(copies, np.int64)
    for step in rollouts(acts, environments, quota, reset_seeds):
        (running,) = np.nonzero(step.running)
        returns[running, finished[running]] += step.reward[running]
        lengths[running, finished[running]] += 1
        finished += step.terminated | step.truncated
    return Evaluation(returns, lengths)
