"""From a log and policies to their values: what can be estimated, what can't and why, and who is best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from offrl.errors import DataError, RequestError, SpaceMismatchError
from offrl.off_policy import intervals
from offrl.off_policy.behavior_policy import BehaviorConfig, BehaviorEstimate, estimate_behavior
from offrl.off_policy.choices import Choices
from offrl.off_policy.diagnostics import diagnose, divided, never_logged, unsettled
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimate import estimate
from offrl.off_policy.estimator import Estimator, Need, find_estimator
from offrl.off_policy.fqe import FittedValues, FQEConfig, fit_q
from offrl.off_policy.intervals import BOUNDED, Bounds, Interval, IntervalKind
from offrl.off_policy.ranking import Ranking, agreement, rank
from offrl.off_policy.results import BehaviorResult, Evaluation, PolicyResult, Truth
from offrl.off_policy.target_policies import DRAWS, TargetPolicy

SEQUENTIAL_DEFAULTS = ("is", "wis", "pdis", "wpdis", "dr", "wdr", "magic", "fqe")
ONE_STEP_DEFAULTS = ("ips", "snips", "dr", "switch-dr", "fqe")
RANKING_PREFERENCE = (
    *("wdr", "fqe", "dm", "magic", "dr", "snips", "wpdis", "wis", "switch-dr"),
    *("lstd", "mql", "mwl", "dice", "pdis", "ips", "is", "clipped"),
)


@dataclass(frozen=True)
class Target:
    """A policy to be valued.

    Attributes:
        name: what results call it.
        choices: what it does at the log's rows.
        unsmoothed: of a policy smoothed by a kernel, what it did before.
        true_returns: discounted returns of episodes in which it acted itself, float64 [n]; None where nobody tried.
    """

    name: str
    choices: Choices
    unsmoothed: Choices | None = None
    true_returns: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        estimators: names in `offrl.plugins.estimators`; None takes all usual ones that the log and the policies allow.
        discount, horizon: see `EpisodeLog`; they hold in place of the log's.
        confidence, interval, resamples, seed, clip, bounds: see `offrl.off_policy.estimate.estimate`.
        may_estimate_behavior: whether the probabilities of logged actions may be estimated where the log has none.
        rank_by: the estimator that several policies are ranked by; None takes the first usual one there is.
        fqe: how values are fitted.
        behavior: how the behavior policy is.
    """

    estimators: Sequence[str] | None = None
    discount: float = 0.99
    horizon: int | None = None
    confidence: float = 0.95
    interval: IntervalKind | None = "bootstrap-bca"
    resamples: int = 1_000
    seed: int = 0
    clip: float | None = None
    bounds: Bounds | None = None
    may_estimate_behavior: bool = False
    rank_by: str | None = None
    fqe: FQEConfig = field(default_factory=FQEConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)


def evaluate(log: EpisodeLog, policies: Sequence[Target | TargetPolicy], plan: Plan | None = None) -> Evaluation:
    """Estimate what each policy would earn in an episode, and rank several.

    Args:
        log: a dataset's, not cut to a horizon.
        policies: themselves, or what they do at the log's rows.
        plan: what is asked for; None for the defaults.

    Raises:
        RequestError: an estimator that is named needs what isn't there: probabilities of the logged actions, a density
            of the policy's, or what it does at each state.
    """
    if log.episodes == 1:
        raise DataError(
            "the log is a single episode: nothing tells how far off an estimate from it is",
            where=log.name,
            hint="name a log of more episodes",
        )
    plan = plan or Plan()
    targets = [_target(log, policy, plan) for policy in policies]
    records, notes = _estimators(log, targets, plan)
    behavior = _behavior(log, records, plan)
    values = _values(log, targets, records, plan)
    results = tuple(
        _result(log, target, records, plan, behavior, None if values is None else values.of(position))
        for position, target in enumerate(targets)
    )
    ranking = _ranking(results, records, plan, notes)
    truths = [result.truth for result in results]
    known = [truth.value for truth in truths if truth is not None]
    return Evaluation(
        dataset=log.name,
        episodes=log.episodes,
        steps=log.steps,
        discount=plan.discount,
        horizon=plan.horizon,
        confidence=plan.confidence,
        clip=plan.clip,
        behavior=_behavior_result(log, plan, behavior),
        policies=results,
        ranking=ranking,
        agreement=None if ranking is None or len(known) < len(results) else agreement(ranking, known),
        notes=tuple(notes),
    )


def _target(log: EpisodeLog, policy: Target | TargetPolicy, plan: Plan) -> Target:
    if isinstance(policy, Target):
        return policy
    return Target(policy.name, policy.choices(log, draws=DRAWS, seed=plan.seed))


def _any_needs(records: Mapping[str, Estimator], need: Need) -> bool:
    return any(need in record.needs for record in records.values())


def _estimators(log: EpisodeLog, targets: Sequence[Target], plan: Plan) -> tuple[dict[str, Estimator], list[str]]:
    """Those to use, by name, and what is left out for want of something."""
    usual = ONE_STEP_DEFAULTS if log.is_one_step else SEQUENTIAL_DEFAULTS
    records = {name: find_estimator(name) for name in plan.estimators or usual}
    if plan.estimators is None and plan.interval in BOUNDED:
        records = {name: record for name, record in records.items() if record.unbiased}
    no_density, no_behavior, no_policy = _no_density(targets), _no_behavior(log, plan), _no_policy(targets)
    lacks: list[tuple[set[Need], RequestError | None]] = [
        ({"density"}, no_density),
        ({"behavior"}, no_behavior),
        ({"policy", "values"}, no_policy),
    ]
    notes: list[str] = []
    for needs, lack in lacks:
        left_out = [name for name, record in records.items() if needs & set(record.needs)]
        if lack is None or not left_out:
            continue
        if plan.estimators is not None:
            raise lack
        notes.append(f"Left out {', '.join(left_out)}: {lack.what}. To have them, {lack.hint}.")
        records = {name: record for name, record in records.items() if name not in left_out}
    if not records:
        raise no_density or no_behavior or RequestError("no estimator is left", hint="name one: --estimators")
    return records, notes


def _no_density(targets: Sequence[Target]) -> RequestError | None:
    """Why the policies give logged actions no probability."""
    without = [target.name for target in targets if target.choices.log_prob is None]
    if not without:
        return None
    return SpaceMismatchError(
        f"{without[0]} is deterministic, and its continuous actions have no density to weigh the log by",
        hint="choose --estimators fqe, smooth its actions with --kernel-bandwidth 0.2, or value the policy that "
        "samples with --stochastic",
    )


def _no_behavior(log: EpisodeLog, plan: Plan) -> RequestError | None:
    """Why it isn't known how probable the logged actions were."""
    if log.behavior_log_prob is not None or plan.may_estimate_behavior:
        return None
    return RequestError(
        "the log doesn't say how probable its actions were (no column behavior_log_prob)",
        where=log.name,
        hint="allow to estimate it with --estimate-behavior, or convert the log with --map behavior_prob=COLUMN",
    )


def _no_policy(targets: Sequence[Target]) -> RequestError | None:
    """Why no values can be fitted."""
    without = [target.name for target in targets if not target.choices.known_at_states]
    if not without:
        return None
    return RequestError(
        f"values can't be fitted for {without[0]}: of its actions only the logged ones' probabilities are known",
        hint="give a column of the probabilities of all actions, or the policy itself",
    )


def _behavior(
    log: EpisodeLog, records: Mapping[str, Estimator], plan: Plan
) -> BehaviorEstimate | NDArray[np.float64] | None:
    """Log-probabilities of the logged actions: the log's own, or an estimate; None where nobody needs them."""
    if not _any_needs(records, "behavior"):
        return None
    if log.behavior_log_prob is not None:
        return log.behavior_log_prob
    return estimate_behavior(log, plan.behavior, plan.seed)


def _behavior_result(
    log: EpisodeLog, plan: Plan, behavior: BehaviorEstimate | NDArray[np.float64] | None
) -> BehaviorResult:
    returns = dataclasses.replace(log, discount=plan.discount, horizon=plan.horizon).returns
    source: Literal["logged", "estimated", "none"] = "none"
    if behavior is not None:
        source = "estimated" if isinstance(behavior, BehaviorEstimate) else "logged"
    low, high = intervals.student_t(returns, plan.confidence)
    return BehaviorResult(
        probabilities=source,
        value=float(returns.mean()),
        interval=Interval(low, high, plan.confidence, "t"),
        estimated=behavior if isinstance(behavior, BehaviorEstimate) else None,
    )


@dataclass(frozen=True)
class _Values:
    """One policy's: q and v [R], v_final [N], how far the networks differ, and the bias of smoothing."""

    q: NDArray[np.float64]
    v: NDArray[np.float64]
    v_final: NDArray[np.float64]
    spread: float
    smoothing_bias: float | None


@dataclass(frozen=True)
class _AllValues:
    """Of all policies, and behind them of the smoothed ones as they were before."""

    fitted: FittedValues
    first: NDArray[np.int64]
    unsmoothed: dict[int, int]

    def of(self, position: int) -> _Values:
        """One policy's."""
        fitted, bias = self.fitted, None
        if position in self.unsmoothed:
            plain = fitted.v[self.unsmoothed[position], self.first]
            bias = float((fitted.v[position, self.first] - plain).mean())
        return _Values(
            fitted.q[position], fitted.v[position], fitted.v_final[position], float(fitted.spread[position]), bias
        )


def _values(
    log: EpisodeLog, targets: Sequence[Target], records: Mapping[str, Estimator], plan: Plan
) -> _AllValues | None:
    """Fitted for all policies at once; None where nobody needs them."""
    if not _any_needs(records, "values"):
        return None
    smoothed = [position for position, target in enumerate(targets) if target.unsmoothed is not None]
    before = [target.unsmoothed for target in targets if target.unsmoothed is not None]
    everything = [target.choices for target in targets] + before
    fitted = fit_q(log, everything, plan.fqe, plan.seed, discount=plan.discount, horizon=plan.horizon)
    return _AllValues(fitted, log.offsets[:-1], {position: len(targets) + i for i, position in enumerate(smoothed)})


def _result(
    log: EpisodeLog,
    target: Target,
    records: Mapping[str, Estimator],
    plan: Plan,
    behavior: BehaviorEstimate | NDArray[np.float64] | None,
    values: _Values | None,
) -> PolicyResult:
    valued = log.towards(
        target.choices,
        behavior_log_prob=behavior.log_prob if isinstance(behavior, BehaviorEstimate) else behavior,
        discount=plan.discount,
        horizon=plan.horizon,
        q=None if values is None else values.q,
        v=None if values is None else values.v,
        v_final=None if values is None else values.v_final,
    )
    found = estimate(
        valued,
        list(records),
        confidence=plan.confidence,
        interval=plan.interval,
        resamples=plan.resamples,
        seed=plan.seed,
        clip=plan.clip,
        bounds=plan.bounds,
    )
    return PolicyResult(
        name=target.name,
        estimates=tuple(found),
        diagnostics=None if behavior is None else diagnose(valued),
        truth=None if target.true_returns is None else _truth(target.true_returns),
        spread=None if values is None else values.spread,
        smoothing_bias=None if values is None else values.smoothing_bias,
        warnings=tuple(_warnings(log, target, plan, values)),
    )


def _truth(returns: NDArray[np.float64]) -> Truth:
    count = len(returns)
    error = float(returns.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    return Truth(float(returns.mean()), error, count)


def _warnings(log: EpisodeLog, target: Target, plan: Plan, values: _Values | None) -> list[str]:
    warnings = never_logged(log, target.choices, target.name)
    if values is not None:
        warnings += divided(float(values.v[log.offsets[:-1]].mean()), values.spread, target.name)
        warnings += unsettled(log, plan.discount, plan.horizon, plan.fqe)
    return warnings


def _ranking(
    results: Sequence[PolicyResult], records: Mapping[str, Estimator], plan: Plan, notes: list[str]
) -> Ranking | None:
    if len(results) < 2:
        return None
    if plan.rank_by is not None and plan.rank_by not in records:
        raise RequestError(
            f"the policies can't be ranked by {plan.rank_by}: it isn't among the estimators", hint="add it to them"
        )
    preferred = [name for name in dict.fromkeys([*RANKING_PREFERENCE, *records]) if name in records]
    for name in [plan.rank_by] if plan.rank_by else preferred:
        estimates = [result.estimate(name) for result in results]
        whole = [each for each in estimates if each is not None and each.value is not None]
        # By default an estimator that is reliable for all policies; where there is none, fitted values need no weights.
        if len(whole) == len(results) and (plan.rank_by or all(each.reliable for each in whole)):
            if caveat := records[name].caveat:
                notes.append(f"The ranking is by {name}. {caveat}")
            return rank(whole, confidence=plan.confidence, resamples=plan.resamples, seed=plan.seed, sure=not caveat)
    if plan.rank_by:
        raise RequestError(f"not all policies have a value by {plan.rank_by}", hint="rank by another estimator")
    notes.append("The policies aren't ranked: no estimator is reliable for all of them.")
    return None
