"""Choosing among runs when all there is is a log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from offrl.api.judging import RunOrPath
from offrl.errors import RequestError
from offrl.runs.run import Run, path_of
from offrl.trust import allowing

if TYPE_CHECKING:
    from offrl.data.store import TrajectoryStore
    from offrl.off_policy.selection import Selection


def select(
    runs: RunOrPath | Sequence[RunOrPath],
    *,
    dataset: str | os.PathLike[str] | TrajectoryStore,
    confidence: float = 0.95,
    discount: float = 0.99,
    horizon: int | None = None,
    estimate_behavior: bool = False,
    stochastic: bool = False,
    kernel_bandwidth: float = 0.0,
    checkpoint: str | None = None,
    seed_index: int | None = None,
    rank_by: str | None = None,
    trials: int = 0,
    env: str | None = None,
    max_episode_steps: int = 0,
    fqe_steps: int = 5_000,
    resamples: int = 1_000,
    seed: int = 0,
) -> Selection:
    """Choose among runs, the checkpoints that they keep, and their seeds, by a log, and perhaps by a few episodes.

    Every kept checkpoint of every seed is a candidate of its own. All are valued by fitted Q evaluation, fitted in one
    stack, and by weighted estimators where the log tells, or may be used to estimate, how probable its actions were.
    They are ranked by an estimator that is reliable for all of them, weighted doubly robust before fitted values, with
    intervals that hold together (the bootstrap of the largest |t| over candidates; Romano & Wolf, 2005) where it has
    any; without rewards, by losses on episodes that the runs weren't trained on.

    Args:
        runs: runs or their directories; train with `checkpoints_kept=5` to choose among checkpoints.
        dataset: the log.
        confidence: of all intervals together.
        discount: γ, per step.
        horizon: steps of an episode that count; None for as many as the environment's time limit allows, or all where
            none is known.
        estimate_behavior: estimate the logged actions' probabilities where the log has none.
        stochastic: value the policies that sample, in place of the greedy ones; these have no trials.
        kernel_bandwidth: noise on continuous greedy actions, which gives them a density; in units of half their range.
        checkpoint: "last", "best" or a kept one ("step-5000") of each run, in place of all that are kept.
        seed_index: only the policy of each run's so-manieth seed, from 0; None for all.
        rank_by: the estimator to rank by, which is then computed alone beside fitted values.
        trials: episodes to spend on the candidates in `env`, each on the one of the highest upper confidence bound, in
            the order of the ranking at first; those that the log has ruled out aren't tried.
        env: a Gymnasium id, for `trials`.
        max_episode_steps: cut trials there; 0 leaves the environment's own limit.
        fqe_steps: gradient steps of fitted Q evaluation.
        resamples: of the bootstrap.
        seed: of the bootstrap, of what is fitted, and of where trials start.

    Raises:
        RequestError: there are fewer than two candidates, or nothing to compare them by.
        SpaceMismatchError: a policy is for other spaces than the log's.

    Example:
        >>> selection = offrl.select(["runs/iql", "runs/td3"], dataset="hopper-medium-replay")
        >>> policy = offrl.open_run(selection.chosen.run).policy(checkpoint=selection.chosen.checkpoint)
    """
    from offrl.config import fields as kinds
    from offrl.config.validation import require_kind
    from offrl.converters.catalog import name_of
    from offrl.off_policy.evaluate_runs import Acting
    from offrl.off_policy.fqe import FQEConfig
    from offrl.off_policy.plan import Plan
    from offrl.off_policy.select_runs import Deployments, select_policies

    require_kind(kinds.Count, fqe_steps=fqe_steps, resamples=resamples)
    require_kind(kinds.Count | None, horizon=horizon)
    require_kind(kinds.CountOrZero, seed=seed, trials=trials, max_episode_steps=max_episode_steps)
    require_kind(kinds.CountOrZero | None, seed_index=seed_index)
    require_kind(kinds.CheckpointKind | None, checkpoint=checkpoint)
    require_kind(kinds.Probability, discount=discount)
    require_kind(kinds.Share, confidence=confidence)
    require_kind(kinds.NonNegative, kernel_bandwidth=kernel_bandwidth)
    require_kind(str | None, rank_by=rank_by, env=env)
    if bool(trials) is not (env is not None):
        if trials:
            raise RequestError("no environment is named for the trials", hint="add --env ID")
        raise RequestError(f"there are no trials for {env} to be used in", hint="add --trials K")
    if trials and stochastic:
        raise RequestError("trials are of greedy policies", hint="leave out --stochastic, or --trials")
    named = [runs] if isinstance(runs, str | os.PathLike | Run) else list(runs)
    with allowing(env):
        return select_policies(
            [path_of(run) for run in named],
            name_of(dataset),
            Plan(
                estimators=None if rank_by is None else tuple(dict.fromkeys((rank_by, "fqe"))),
                discount=discount,
                horizon=horizon,
                confidence=confidence,
                resamples=resamples,
                seed=seed,
                may_estimate_behavior=estimate_behavior,
                rank_by=rank_by,
                fqe=FQEConfig(steps=fqe_steps),
            ),
            Acting(checkpoint, seed_index, stochastic, kernel_bandwidth=kernel_bandwidth),
            None if env is None else Deployments(env, trials, max_episode_steps),
        )
