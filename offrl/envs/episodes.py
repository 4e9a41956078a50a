"""Complete episodes from a vector environment, a fixed share from each of its copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl.envs.handed_over import HandedOver
from offrl.envs.make import Environments
from offrl.envs.policy import Actor, Policy
from offrl.envs.vector import masks_told, tells_masks
from offrl.errors import RequestError

LONGEST = 50_000
"""Steps after which an episode that nothing limits counts as one without an end; Atari's longest take 27,000."""


@dataclass(frozen=True)
class CountedStep:
    """One step of N copies.

    Attributes:
        observation, action: what the copies showed and what they were given.
        reward, terminated, truncated: [N].
        next_observation: what they showed next; where an episode ended, its final observation.
        running: bool [N]; whether the step belongs to an episode that counts.
        action_mask, next_action_mask: bool [N, A]; what was allowed in each; None where the environment tells of none.
    """

    observation: Any
    action: NDArray[Any]
    reward: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    next_observation: Any
    running: NDArray[np.bool_]
    action_mask: NDArray[np.bool_] | None
    next_action_mask: NDArray[np.bool_] | None


class Acts(Protocol):
    """What acts in a vector environment."""

    def act(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Actions for the environment's observation, and bool [N, A] if it tells of what it allows."""

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """Told after each step what it earned, [N], and which episodes ended with it, bool [N].

        What comes next begins others.
        """


def rollouts(acts: Acts, environments: Environments, quota: int, reset_seeds: list[int]) -> Iterator[CountedStep]:
    """Step until every copy has finished `quota` episodes.

    Taking the first episodes to finish, whichever copy they are from, would favor short ones.

    Args:
        acts: what acts.
        environments: N copies.
        quota: episodes per copy.
        reset_seeds: one for each copy's first episode; later ones go on from its generator.

    Raises:
        RequestError: an episode doesn't end; see `require_end`.
        EnvironmentFailedError: a copy failed, or gave something else than its spaces promise.
    """
    observation, mask = environments.reset(reset_seeds)
    finished, length = np.zeros((2, environments.count), np.int64)
    while (running := finished < quota).any():
        action = acts.act(observation, mask)
        step = environments.step(action)
        yield CountedStep(
            observation=observation,
            action=action,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated,
            next_observation=step.next_observation,
            running=running,
            action_mask=mask,
            next_action_mask=step.next_action_mask,
        )
        done = step.terminated | step.truncated
        acts.stepped(step.reward, done)
        finished += done
        length = np.where(done, 0, length + 1)
        if not environments.limited:
            require_end(int(length[running].max()), environments.name)
        observation, mask = step.observation, step.action_mask


def require_end(steps: int, environment: str) -> None:
    """Raise `RequestError` where an episode that nothing limits has taken so many steps that it may have no end."""
    if steps >= LONGEST:
        raise RequestError(
            f"an episode of {environment} hasn't ended after {steps:,} steps, and the environment names no limit",
            hint="cut episodes: --max-episode-steps N (in training: --set evaluation.max_episode_steps=N), or register "
            "the environment with max_episode_steps",
        )


def single_episode(policy: Policy, position: int, environment: gym.Env[Any, Any], reset_seed: int) -> Iterator[float]:
    """One greedy episode of one seed's policy, yielding each reward while the environment still shows the step.

    Raises:
        RequestError: the episode doesn't end; see `require_end`.
        EnvironmentFailedError: the environment failed, or gave something else than its spaces promise.
    """
    spec = environment.spec
    name = type(environment.unwrapped).__name__ if spec is None else spec.id
    limited = spec is not None and bool(spec.max_episode_steps)
    handed = HandedOver(name, environment.observation_space, 1)
    ((observation, info),) = handed.reset([environment], [0], seed=[reset_seed])
    space, ended, steps = environment.action_space, False, 0
    actor = Actor(policy, 1)
    while not ended:
        # Every seed's policy sees the observation; the others' actions are dropped.
        stacked = handed.stacked([observation] * policy.seeds)
        mask = masks_told(space, [info] * policy.seeds) if tells_masks(space, [info]) else None
        told = handed.step([environment], actor.greedy(stacked, mask)[position : position + 1])
        (observation,), (info,) = told.observation, told.info
        ended = bool(told.terminated[0] or told.truncated[0])
        actor.stepped(np.repeat(told.reward, policy.seeds), np.zeros(policy.seeds, np.bool_))
        yield float(told.reward[0])
        steps += 1
        if not limited:
            require_end(0 if ended else steps, name)


def share_evenly(episodes: int, limit: int) -> tuple[int, int]:
    """The most copies, up to a limit, that finish as many episodes each; and how many that is."""
    copies = max(count for count in range(1, min(episodes, limit) + 1) if episodes % count == 0)
    return copies, episodes // copies
