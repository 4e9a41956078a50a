"""Careful deployments: a few episodes, each spent on the candidate that an upper confidence bound points at.

UCB1 (Auer et al., 2002) over policies that are fixed, as in the protocol of Jackson et al. (2025),
https://arxiv.org/abs/2504.11453, with returns scaled by the range of those seen so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offrl.envs.evaluator import evaluate
from offrl.envs.policy import Policy
from offrl.envs.starts import Purpose, Starts


@dataclass(frozen=True)
class Trial:
    """One episode.

    Attributes:
        policy: position of the candidate that acted.
        earned: the undiscounted return.
        regret: of all trials so far: how much less they earned than as many of the candidate that is best by what is
            known now.
    """

    policy: int
    earned: float
    regret: float


@dataclass(frozen=True)
class Trials:
    """What candidates earned when they acted.

    Attributes:
        environment: where.
        left_out: positions of candidates that the log had ruled out.
        episodes: in the order in which they took place.
    """

    environment: str
    left_out: tuple[int, ...]
    episodes: tuple[Trial, ...]

    def returns(self, policy: int) -> list[float]:
        """What one of them earned."""
        return [each.earned for each in self.episodes if each.policy == policy]

    @property
    def best(self) -> int:
        """The candidate of the highest mean return; of equals the first that was tried."""
        tried = list(dict.fromkeys(each.policy for each in self.episodes))
        return max(tried, key=lambda policy: float(np.mean(self.returns(policy))))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "environment": self.environment,
            "left_out": list(self.left_out),
            "best": self.best,
            "episodes": [vars(each).copy() for each in self.episodes],
        }


def bandit(order: Sequence[int], episodes: int, earn: Callable[[int, int], float]) -> list[Trial]:
    """Spend episodes on policies by UCB1: each once, then argmax_i of mean_i + range · √(2 ln t / n_i).

    Args:
        order: positions of the policies, in which they are tried first: the best guess first.
        episodes: how many; where there are fewer than policies, the last ones aren't tried.
        earn: what a policy earns in the t-th episode, t from 0.

    Example:
        >>> [trial.policy for trial in bandit([1, 0], 4, lambda policy, time: float(policy))]
        [1, 0, 1, 1]
    """
    seen: dict[int, list[float]] = {policy: [] for policy in order}
    trials: list[Trial] = []
    for time in range(episodes):
        chosen = max(order, key=lambda policy: _bound(seen[policy], seen, time))
        earned = earn(chosen, time)
        seen[chosen].append(earned)
        trials.append(Trial(chosen, earned, _regret(seen)))
    return trials


def _bound(returns: Sequence[float], seen: dict[int, list[float]], time: int) -> float:
    if not returns:
        return math.inf
    every = [value for values in seen.values() for value in values]
    return float(np.mean(returns)) + (max(every) - min(every)) * math.sqrt(2.0 * math.log(time) / len(returns))


def _regret(seen: dict[int, list[float]]) -> float:
    tried = [values for values in seen.values() if values]
    best = max(float(np.mean(values)) for values in tried)
    return sum(len(values) * best - sum(values) for values in tried)


def try_out(
    policies: Sequence[Policy],
    order: Sequence[int],
    environment: str,
    episodes: int,
    *,
    seed: int = 0,
    max_episode_steps: int = 0,
) -> Trials:
    """Let policies act, one episode at a time, greedily, each episode from initial states of its own.

    Args:
        policies: of one seed each.
        order: those to try, the best guess first.
        environment: a Gymnasium id.
        episodes: how many in all.
        seed: picks the initial states.
        max_episode_steps: cut episodes there; 0 leaves the environment's own limit.

    Raises:
        RequestError: the environment can't be made, or an episode doesn't end.
        SpaceMismatchError: its spaces are not those of a policy.
    """

    def earn(policy: int, time: int) -> float:
        starts = Starts(Purpose.TRIAL, (time,), seed)
        found = evaluate(policies[policy], environment, 1, starts, max_episode_steps=max_episode_steps)
        return float(found.returns[0, 0])

    left_out = tuple(policy for policy in range(len(policies)) if policy not in order)
    return Trials(environment, left_out, tuple(bandit(order, episodes, earn)))
