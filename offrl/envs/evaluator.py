"""Greedy returns of a policy over a fixed number of episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offrl.envs.make import make_environments
from offrl.envs.policy import Policy
from offrl.envs.spaces import check_spaces, spaces_of

EVALUATION_STREAM = 7_919
"""Keeps evaluation's reset seeds apart from those of collection."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths (steps) of complete episodes, each [S, episodes]."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]


def evaluate(policy: Policy, environment: str, episodes: int, *, seed: int = 0, max_parallel: int = 10) -> Evaluation:
    """Run the greedy policy of every seed for `episodes` complete episodes.

    Each parallel environment has a fixed share of the episodes: taking the first ones to finish would favour short
    episodes. The k-th episode of every seed starts from the same reset seed, so seeds differ by their policies only.

    Args:
        policy: S seeds' policies.
        environment: a Gymnasium id.
        episodes: complete episodes per seed.
        seed: picks the episodes' initial states.
        max_parallel: environments per seed that run side by side.

    Raises:
        RequestError: the environment can't be made.
        SpaceMismatchError: its spaces are not those of the policy.
    """
    parallel = max(width for width in range(1, min(episodes, max_parallel) + 1) if episodes % width == 0)
    quota = episodes // parallel
    environments = make_environments(environment, policy.seeds * parallel)
    try:
        check_spaces(policy.agent.spec, spaces_of(environments), environment)
        reset_seeds = np.random.SeedSequence([EVALUATION_STREAM, seed]).generate_state(parallel).tolist()
        observation, _ = environments.reset(seed=reset_seeds * policy.seeds)
        slots = policy.seeds * parallel
        returns, lengths = np.zeros((slots, quota)), np.zeros((slots, quota), np.int64)
        finished = np.zeros(slots, np.int64)
        while (finished < quota).any():
            action = policy.to_environment(policy.act(policy.observe(observation)))
            observation, reward, terminated, truncated, _ = environments.step(action)
            (running,) = np.nonzero(finished < quota)
            returns[running, finished[running]] += reward[running]
            lengths[running, finished[running]] += 1
            finished += terminated | truncated
    finally:
        environments.close()
    shape = (policy.seeds, episodes)
    return Evaluation(returns.reshape(shape), lengths.reshape(shape))
