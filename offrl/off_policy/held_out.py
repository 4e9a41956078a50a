"""Runs compared by their losses on episodes that they weren't trained on, where a log has no rewards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl import plugins
from offrl.data.trajectories import Trajectories
from offrl.envs.policy import Policy
from offrl.envs.spaces import check_spaces
from offrl.errors import RequestError
from offrl.feeds.materials import sampling_options
from offrl.feeds.problem import chosen_episodes
from offrl.off_policy.estimator import Estimate
from offrl.off_policy.plan import Plan
from offrl.off_policy.ranking import Ranking, rank
from offrl.replay.frame_stack import StackedFrames
from offrl.replay.sampler import ReplaySampler, split_by_episode
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.types import Validates

NAME = "held-out loss"
MOST_EPISODES = 200
TRANSITIONS = 256
"""Of each episode."""


def rank_by_held_out_loss(
    places: Sequence[tuple[Run, str]], store: Any, plan: Plan, seed_index: int | None = None
) -> Ranking:
    """Policies by the negative mean loss over episodes, each counted alike, with simultaneous intervals.

    Args:
        places: runs and their checkpoints; each has one policy for each seed.
        store: the log. Of one that the runs were trained on, what their recipes held out is taken.
        plan: the intervals' confidence, resamples and seed.
        seed_index: only the policy of each run's so-manieth seed; None for all.

    Raises:
        RequestError: losses can't be compared: they are of several algorithms, or none has one, or no episode is held
            out.
    """
    algorithms = sorted({run.recipe.algo for run, _ in places})
    if len(algorithms) > 1 or not plugins.algorithms[algorithms[0]].can(Validates):
        why = "losses of several can't be compared" if len(algorithms) > 1 else "it has no loss to compare"
        raise RequestError(
            f"the log has no rewards (all are 0), and of {', '.join(algorithms)} {why}",
            where=store.metadata.name or "",
            hint="name a log with rewards, or runs of one algorithm with a held-out loss, such as bc",
        )
    losses: list[NDArray[np.float64]] = []
    held_out = _unseen(places, store)
    for run, checkpoint in places:
        policy, _ = load_policy(run, checkpoint)
        shown = StackedFrames(held_out, policy.frame_stack) if policy.frame_stack > 1 else held_out
        check_spaces(policy.agent.spec, shown.spec, f"the log '{store.metadata.name}'")
        found = _losses(run, policy, shown, plan.seed)
        losses += list(found if seed_index is None else found[[seed_index]])
    estimates = [Estimate(NAME, -float(each.mean()), -each) for each in losses]
    return rank(estimates, confidence=plan.confidence, resamples=plan.resamples, seed=plan.seed)


def _unseen(places: Sequence[tuple[Run, str]], store: Any) -> Trajectories:
    """Episodes that none of the runs was trained on."""
    trained = [run for run, checkpoint in places if load_policy(run, checkpoint)[1]["fingerprint"] == store.fingerprint]
    if not trained:
        return store[:MOST_EPISODES]  # type: ignore[no-any-return]
    data = trained[0].recipe.data
    splits = {
        (run.recipe.data.validation_fraction, run.recipe.data.episodes, run.recipe.data.top_fraction) for run in trained
    }
    if len(splits) > 1 or data.validation_fraction == 0.0:
        raise RequestError(
            "the log has no rewards, and no episode of it is one that none of the runs was trained on",
            where=store.metadata.name or "",
            hint="name another log, or train all runs with the same data.validation_fraction, such as 0.1",
        )
    alone = dataclasses.replace(trained[0].recipe, data=dataclasses.replace(data, frame_stack=1))
    chosen = chosen_episodes(store, alone)
    return split_by_episode(chosen, data.validation_fraction, seed=0)[1][:MOST_EPISODES]


def _losses(run: Run, policy: Policy, episodes: Trajectories, seed: int) -> NDArray[np.float64]:
    """The mean loss of each seed's policy in each episode, [S, N]."""
    agent: Any = policy.agent
    options = sampling_options(run.recipe, policy)
    size = max(1, TRANSITIONS // (options["window"] or 1))
    found = []
    for number in range(episodes.num_episodes):
        sampler = ReplaySampler([episodes[[number]]], batch_size=size, seeds=[seed], **options)
        found.append(agent.validation_loss(policy.state, sampler.batches(1)[0].repeat_seeds(policy.seeds)).cpu())
    return np.stack(found, axis=1).astype(np.float64)
