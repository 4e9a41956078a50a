"""An off-policy evaluation, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offrl.printable import in_one_line
from offrl_cli.output import note, number, print_pairs, print_table, say

if TYPE_CHECKING:
    from offrl.off_policy.estimator import Estimate
    from offrl.off_policy.intervals import Interval
    from offrl.off_policy.results import Evaluation, PolicyResult

VERDICTS = {True: "yes", False: "no", None: "-"}


def print_evaluation(evaluation: Evaluation, bandwidth: float) -> None:
    """The log, each policy's estimates, how they rank, and what to doubt.

    Args:
        evaluation: what `offrl.ope` found.
        bandwidth: of the kernel on greedy actions; 0 where there is none.
    """
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
