"""Whether the rewards in a dataset tell anything."""

from __future__ import annotations

from offrl import plugins
from offrl.agents.algorithm import Algorithm
from offrl.data.schema import REWARD, TERMINATED
from offrl.data.trajectories import Trajectories
from offrl.feeds.problem import Problem


def reward_doubts(problem: Problem) -> list[str]:
    """A sentence where an algorithm learns by rewards, and those of the data make no action better than another.

    They are all 0, as where a source has none; or all the same, and no episode terminates, so that none is cut short.
    """
    data = problem.data
    if data is None or not problem.algorithm.reads_rewards:
        return []
    reward = data.column_statistics([REWARD])[REWARD]
    if not reward.count or reward.min != reward.max or (reward.min and _any_terminates(data)):
        return []
    what = f"is {reward.min:g}" + (", and no episode terminates" if reward.min else "")
    return [
        f"Every reward in '{problem.recipe.dataset}' {what}: nothing tells {problem.recipe.algo} which actions are "
        f"good. Clone them ({', '.join(plugins.algorithms.able(_clones))}), or give the data rewards (offrl convert "
        "--map reward=COLUMN, offrl relabel)."
    ]


def _any_terminates(data: Trajectories) -> bool:
    last = data.episodes.first_row + data.episodes.length - 1
    return bool(data.gather(TERMINATED, last).any())


def _clones(algorithm: Algorithm) -> bool:
    """Whether it learns from a dataset alone, and what was done in it is all that it needs."""
    return not algorithm.reads_rewards and any(plugins.feeds[name].holds_out for name in algorithm.feeds)
