"""Complete episodes from a vector environment, a fixed share from each of its copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl.envs.make import Environments
from offrl.envs.policy import Actor, Policy
from offrl.envs.vector import masks_told, stack, tells_masks


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

    def ended(self, done: NDArray[np.bool_]) -> None:
        """Told after each step which episodes ended with it, bool [N]: what comes next begins others."""


def rollouts(acts: Acts, environments: Environments, quota: int, reset_seeds: list[int]) -> Iterator[CountedStep]:
    """Step until every copy has finished `quota` episodes.

    Taking the first episodes to finish, whichever copy they are from, would favor short ones.

    Args:
        acts: what acts.
        environments: N copies.
        quota: episodes per copy.
        reset_seeds: one for each copy's first episode; later ones go on from its generator.
    """
    observation, mask = environments.reset(reset_seeds)
    finished = np.zeros(environments.count, np.int64)
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
        acts.ended(done)
        finished += done
        observation, mask = step.observation, step.action_mask


def single_episode(policy: Policy, position: int, environment: gym.Env[Any, Any], reset_seed: int) -> Iterator[float]:
    """One greedy episode of one seed's policy, yielding each reward while the environment still shows the step."""
    observation, info = environment.reset(seed=reset_seed)
    space, ended = environment.action_space, False
    actor = Actor(policy, 1)
    while not ended:
        # Every seed's policy sees the observation; the others' actions are dropped.
        stacked = stack(environment.observation_space, [observation] * policy.seeds)
        mask = masks_told(space, [info] * policy.seeds) if tells_masks(space, [info]) else None
        action = actor.greedy(stacked, mask)[position]
        observation, reward, terminated, truncated, info = environment.step(action)
        ended = terminated or truncated
        yield float(reward)


def share_evenly(episodes: int, limit: int) -> tuple[int, int]:
    """The most copies, up to a limit, that finish as many episodes each; and how many that is."""
    copies = max(count for count in range(1, min(episodes, limit) + 1) if episodes % count == 0)
    return copies, episodes // copies
