"""`offrl ope`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import offrl
from offrl.errors import RequestError
from offrl.printable import in_one_line
from offrl_cli.errors import command
from offrl_cli.names import ESTIMATORS
from offrl_cli.output import AsJson, note, number, print_json, print_pairs, print_table, say, working
from offrl_cli.runs import Checkpoint

if TYPE_CHECKING:
    from offrl.off_policy.estimator import Estimate
    from offrl.off_policy.intervals import Interval
    from offrl.off_policy.results import Evaluation, PolicyResult


VERDICTS = {True: "yes", False: "no", None: "-"}


class IntervalMethod(StrEnum):
    """How intervals are made."""

    percentile = "bootstrap-percentile"
    bca = "bootstrap-bca"
    studentized = "bootstrap-studentized"
    t = "t"
    hoeffding = "hoeffding"
    bernstein = "bernstein"


@command
def ope(
    policies: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Run directories that offrl train left, or ONNX files.", show_default=False),
    ] = None,
    dataset: Annotated[
        str, typer.Option(metavar="NAME|PATH", help="The log to value them from.", show_default=False)
    ] = "",
    estimators: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=f"{ESTIMATORS}, or one that a package adds. Default: the usual ones that the log allows.",
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(metavar="C", help="Of the intervals.")] = 0.95,
    interval: Annotated[IntervalMethod, typer.Option(help="How intervals are made.")] = IntervalMethod.bca,
    discount: Annotated[float, typer.Option(min=0.0, max=1.0, metavar="G", help="Per step.")] = 0.99,
    horizon: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Steps of an episode that count. Default: the environment's time limit, or all."
        ),
    ] = None,
    clip: Annotated[
        float | None, typer.Option(metavar="W", help="Cut weights to W; the bias that it brings is told.")
    ] = None,
    may_estimate_behavior: Annotated[
        bool,
        typer.Option("--estimate-behavior", help="Estimate the logged actions' probabilities where the log has none."),
    ] = False,
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help="Value the policies that sample, in place of the greedy ones.")
    ] = False,
    epsilon: Annotated[
        float, typer.Option(min=0.0, max=1.0, metavar="E", help="Share of random actions, among discrete ones.")
    ] = 0.0,
    kernel_bandwidth: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="H",
            help="Noise on continuous greedy actions, which gives them a density; in units of half their range.",
        ),
    ] = 0.0,
    target_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Value the policy whose probabilities are in a column of the log."),
    ] = None,
    checkpoint: Checkpoint = None,
    seed_index: Annotated[
        int | None, typer.Option(min=0, metavar="K", help="Only the K-th seed's policy of each run, from 0.")
    ] = None,
    rank_by: Annotated[
        str | None, typer.Option(metavar="NAME", help="The estimator that several policies are ranked by.")
    ] = None,
    truth: Annotated[
        str | None, typer.Option(metavar="ENV", help="Let the policies act in this environment, to compare.")
    ] = None,
    truth_episodes: Annotated[int, typer.Option(min=2, metavar="N", help="Episodes of each policy.")] = 100,
    max_episode_steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --truth: cut episodes after so many steps.")
    ] = None,
    reward_bounds: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Of a reward; for hoeffding and bernstein.")
    ] = None,
    weight_bound: Annotated[
        float | None, typer.Option(metavar="W", help="Of an episode's weight; for hoeffding and bernstein.")
    ] = None,
    fqe_steps: Annotated[int, typer.Option(min=1, metavar="N", help="Gradient steps of fitted Q evaluation.")] = 5_000,
    resamples: Annotated[int, typer.Option(metavar="N", help="Of the bootstrap.")] = 1_000,
    seed: Annotated[int, typer.Option(min=0, metavar="K", help="Of the bootstrap and of what is fitted.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write PATH.png and PATH.html: pictures, and a report.")
    ] = None,
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
    _print(evaluation, kernel_bandwidth)
    print_pairs(files)


def _bounds(reward: str | None, weight: float | None) -> tuple[float, float] | None:
    if reward is None and weight is None:
        return None
    try:
        low, high = map(float, (reward or "").split(","))
    except ValueError:
        raise RequestError(f"'{reward or ''}' is not a pair of bounds", hint="write --reward-bounds 0,1") from None
    return low, high


def _print(evaluation: Evaluation, bandwidth: float) -> None:
    behavior = evaluation.behavior
    print_pairs(
        {
            "log": f"{evaluation.dataset}: {evaluation.episodes:,} episodes, {evaluation.steps:,} steps",
            "value": f"discounted return of an episode, discount {evaluation.discount:g}, "
            + (f"{evaluation.horizon} steps" if evaluation.horizon else "all steps"),
            "logged return": f"{number(behavior.value)} ({_span(behavior.interval)})",
            "probabilities of logged actions": _source(evaluation),
            "weights cut at": evaluation.clip,
        }
    )
    for policy in evaluation.policies:
        say()
        _print_policy(policy, bandwidth)
    _print_ranking(evaluation)
    _print_warnings(evaluation)


def _source(evaluation: Evaluation) -> str | None:
    behavior = evaluation.behavior
    if behavior.estimated is None:
        return "from the log" if behavior.probabilities == "logged" else None
    found = behavior.estimated
    return (
        f"estimated in {found.folds} folds; calibration error {number(found.calibration_error)}, log-likelihood "
        f"{number(found.held_out_log_likelihood)} per step (average policy: {number(found.baseline_log_likelihood)})"
    )


def _print_policy(policy: PolicyResult, bandwidth: float) -> None:
    title = policy.name
    if policy.truth is not None:
        error = policy.truth.standard_error
        title += f": truth {number(policy.truth.value)}" + (f" ± {number(error)}" if error is not None else "")
        title += f" ({policy.truth.episodes} episodes)"
    say(in_one_line(title))
    rows = [
        [
            each.name,
            each.value,
            each.standard_error,
            each.interval and each.interval.low,
            each.interval and each.interval.high,
            each.effective_sample_size,
            each.largest_weight_share,
            each.reliable,
        ]
        for each in policy.estimates
    ]
    columns = ["estimator", "value", "error", "low", "high", "effective episodes", "largest weight", "reliable"]
    print_table(columns, rows)
    for each in policy.estimates:
        if each.clipping is not None:
            bias = "unknown" if each.clipping.bias is None else number(each.clipping.bias)
            say(
                f"{each.name}: {each.clipping.share:.1%} of the weights were cut to {number(each.clipping.threshold)}, "
                f"estimated bias {bias}"
            )
    if bandwidth:
        say(_smoothing(policy, bandwidth))


def _smoothing(policy: PolicyResult, bandwidth: float) -> str:
    """What the kernel does to the value."""
    known = policy.smoothing_bias
    bias = "add fqe to the estimators to have it estimated" if known is None else f"estimated as {number(known)} by fqe"
    return (
        f"kernel: actions have Gaussian noise of {bandwidth:g} half-ranges, and this policy is what is valued; its "
        f"value differs from the greedy one's by a bias of the order of {bandwidth:g}²: {bias}"
    )


def _print_warnings(evaluation: Evaluation) -> None:
    """Each once, with the policies and estimators that it is about, unless that is all of them."""
    about: dict[str, list[str]] = {}
    for policy in evaluation.policies:
        for text in [*policy.warnings, *_warnings(policy.estimates)]:
            about.setdefault(text, []).append(policy.name)
    estimated = evaluation.behavior.estimated
    for text in [] if estimated is None else estimated.warnings:
        note(f"Warning: {text}")
    for text, names in about.items():
        note("Warning: " + (text if len(names) == len(evaluation.policies) else f"{', '.join(names)}: {text}"))
    for text in evaluation.notes:
        note(f"Note: {text}")


def _warnings(estimates: tuple[Estimate, ...]) -> list[str]:
    """Each once, with the estimators that it is about."""
    about: dict[str, list[str]] = {}
    for each in estimates:
        for text in each.warnings:
            about.setdefault(text, []).append(each.name)
    return [f"{', '.join(names)}: {text}" for text, names in about.items()]


def _print_ranking(evaluation: Evaluation) -> None:
    ranking = evaluation.ranking
    if ranking is None:
        return
    together = f"; the intervals hold together with confidence {ranking.confidence:g}" if ranking.has_intervals else ""
    say(f"\nRanked by {ranking.estimator}{together}")
    rows = []
    for position, place in enumerate(ranking.places, start=1):
        policy = evaluation.policies[place.policy]
        row = [position, policy.name, place.value, place.low, place.high, VERDICTS[place.may_be_best]]
        rows.append([*row, None if policy.truth is None else policy.truth.value])
    print_table(["rank", "policy", "value", "low", "high", "may be best", "truth"], rows)
    found = evaluation.agreement
    if found is not None:
        correlation = "none: all are equal" if found.rank_correlation is None else number(found.rank_correlation)
        regrets = {f"regret@{k}": number(regret) for k, regret in enumerate(found.regret, start=1)}
        print_pairs({"rank correlation (Spearman)": correlation, **regrets})


def _span(interval: Interval | None) -> str:
    if interval is None:
        return "no interval"
    return f"{interval.confidence:.0%} interval {number(interval.low)} to {number(interval.high)}, {interval.method}"
