"""`offrl ope`."""

from __future__ import annotations

import offrl
from offrl.errors import RequestError
from offrl_cli import ope_options as options
from offrl_cli.errors import command
from offrl_cli.ope_report import print_evaluation
from offrl_cli.output import AsJson, print_json, print_pairs, working
from offrl_cli.runs import Checkpoint


@command
def ope(
    policies: options.Policies = None,
    dataset: options.Log = "",
    estimators: options.Estimators = None,
    confidence: options.Confidence = 0.95,
    interval: options.IntervalKind = options.IntervalMethod.bca,
    discount: options.Discount = 0.99,
    horizon: options.Horizon = None,
    clip: options.Clip = None,
    may_estimate_behavior: options.EstimateBehavior = False,
    stochastic: options.Stochastic = False,
    epsilon: options.Epsilon = 0.0,
    kernel_bandwidth: options.KernelBandwidth = 0.0,
    target_column: options.TargetColumn = None,
    checkpoint: Checkpoint = None,
    seed_index: options.SeedIndex = None,
    rank_by: options.RankBy = None,
    truth: options.Truth = None,
    truth_episodes: options.TruthEpisodes = 100,
    max_episode_steps: options.MaxEpisodeSteps = None,
    reward_bounds: options.RewardBounds = None,
    weight_bound: options.WeightBound = None,
    fqe_steps: options.FqeSteps = 5_000,
    resamples: options.Resamples = 1_000,
    seed: options.Seed = 0,
    plot: options.Plot = None,
    as_json: AsJson = False,
) -> None:
    """Value policies from a log that others made, with intervals.

    Values are of an episode's discounted return. Several runs, or seeds of one,
    are ranked.

    Example: offrl ope runs/dqn-cartpole --dataset cartpole-replay --estimate-behavior
    """
    if not dataset:
        raise RequestError("no log is named", hint="add --dataset NAME")
    with working("Evaluating"):
        evaluation = offrl.ope(
            policies or (),
            dataset=dataset,
            estimators=None if estimators is None else [name.strip() for name in estimators.split(",")],
            confidence=confidence,
            interval=interval.value,
            discount=discount,
            horizon=horizon,
            clip=clip,
            estimate_behavior=may_estimate_behavior,
            stochastic=stochastic,
            epsilon=epsilon,
            kernel_bandwidth=kernel_bandwidth,
            target_column=target_column,
            checkpoint=checkpoint,
            seed_index=seed_index,
            rank_by=rank_by,
            truth=truth,
            truth_episodes=truth_episodes,
            max_episode_steps=max_episode_steps or 0,
            reward_bounds=_bounds(reward_bounds, weight_bound),
            weight_bound=weight_bound,
            fqe_steps=fqe_steps,
            resamples=resamples,
            seed=seed,
        )
        files = {}
        if plot is not None:
            drawn = offrl.plot(evaluation, plot)
            files = {"picture": drawn.path, "page": drawn.page}
    if as_json:
        print_json({**evaluation.to_dict(), "kernel_bandwidth": kernel_bandwidth or None, **files})
        return
    print_evaluation(evaluation, kernel_bandwidth)
    print_pairs(files)


def _bounds(reward: str | None, weight: float | None) -> tuple[float, float] | None:
    if reward is None and weight is None:
        return None
    try:
        low, high = map(float, (reward or "").split(","))
    except ValueError:
        raise RequestError(f"'{reward or ''}' is not a pair of bounds", hint="write --reward-bounds 0,1") from None
    return low, high
