"""From a log and policies to their values: what can be estimated, what can't and why, and who is best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from offrl.errors import DataError, RequestError
from offrl.off_policy import intervals
from offrl.off_policy.behavior_policy import BehaviorEstimate, estimate_behavior
from offrl.off_policy.diagnostics import diagnose, divided, never_logged, unsettled
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimate import estimate
from offrl.off_policy.estimator import Estimate, Estimator, Need, Reliability
from offrl.off_policy.fqe import FittedValues, fit_q
from offrl.off_policy.intervals import Interval
from offrl.off_policy.plan import Plan, Target
from offrl.off_policy.ranking import Ranking, agreement, rank
from offrl.off_policy.requirements import choose_estimators
from offrl.off_policy.results import BehaviorResult, Evaluation, PolicyResult, Truth
from offrl.off_policy.target_policies import DRAWS, TargetPolicy

RANKING_PREFERENCE = (
    *("wdr", "fqe", "dm", "magic", "dr", "snips", "wpdis", "wis", "switch-dr"),
    *("lstd", "mql", "mwl", "dice", "pdis", "ips", "is", "clipped"),
)


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
    records, notes = choose_estimators(log, targets, plan)
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
    warnings = _warnings(valued, target)
    doubted = [_doubted(each, records[each.name], valued, target, plan, behavior, values) for each in found]
    return PolicyResult(
        name=target.name,
        estimates=tuple(each.doubted() if warnings else each for each in doubted),
        diagnostics=None if behavior is None else diagnose(valued),
        truth=None if target.true_returns is None else _truth(target.true_returns),
        spread=None if values is None else values.spread,
        smoothing_bias=None if values is None else values.smoothing_bias,
        warnings=tuple(warnings),
    )


def _truth(returns: NDArray[np.float64]) -> Truth:
    count = len(returns)
    error = float(returns.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    return Truth(float(returns.mean()), error, count)


def _warnings(valued: EpisodeLog, target: Target) -> list[str]:
    """What makes every estimate of a policy doubtful."""
    warnings = never_logged(valued, target.name)
    if valued.broken_off.all():
        warnings.append(
            f"All {valued.episodes} episodes were truncated before the horizon: the log shows no end, and what follows "
            f"is missing or extrapolated (--horizon {int(valued.lengths.min())} values what all of them have)."
        )
    return warnings


def _doubted(
    each: Estimate,
    record: Estimator,
    valued: EpisodeLog,
    target: Target,
    plan: Plan,
    behavior: BehaviorEstimate | NDArray[np.float64] | None,
    values: _Values | None,
) -> Estimate:
    """With what makes this one doubtful: a bad estimate of the behavior, or of values that nothing corrects."""
    if isinstance(behavior, BehaviorEstimate) and behavior.warnings and "behavior" in record.needs:
        each = each.doubted()
    if values is None or "values" not in record.needs or "behavior" in record.needs:
        return each
    assert valued.v is not None
    mean = float(valued.v[valued.offsets[:-1]].mean())
    warnings = divided(mean, values.spread, target.name) + unsettled(valued, plan.fqe)
    return each.doubted(*warnings) if warnings else each


def _ranking(
    results: Sequence[PolicyResult], records: Mapping[str, Estimator], plan: Plan, notes: list[str]
) -> Ranking | None:
    if len(results) < 2:
        return None
    if plan.rank_by is not None and plan.rank_by not in records:
        raise RequestError(
            f"the policies can't be ranked by {plan.rank_by}: it isn't among the estimators", hint="add it to them"
        )
    found = {name: [result.estimate(name) for result in results] for name in records}
    whole = {
        name: [each for each in estimates if each is not None and each.value is not None]
        for name, estimates in found.items()
    }
    whole = {name: estimates for name, estimates in whole.items() if len(estimates) == len(results)}
    name = plan.rank_by or _preferred(whole)
    if plan.rank_by is not None and plan.rank_by not in whole:
        others = f"rank by {', '.join(whole)}" if whole else "no estimator gives all of them one"
        raise RequestError(f"not all policies have a value by {plan.rank_by}", hint=others)
    if name is None:
        notes.append("The policies aren't ranked: no estimator is reliable for all of them.")
        return None
    if caveat := records[name].caveat:
        notes.append(f"The ranking is by {name}. {caveat}")
    return rank(whole[name], confidence=plan.confidence, resamples=plan.resamples, seed=plan.seed, sure=not caveat)


def _preferred(whole: Mapping[str, Sequence[Estimate]]) -> str | None:
    """The first usual estimator that is reliable for all policies, or else that is unreliable for none."""
    in_order = [name for name in dict.fromkeys([*RANKING_PREFERENCE, *whole]) if name in whole]
    for allowed in ({Reliability.YES}, {Reliability.YES, Reliability.UNKNOWN}):
        for name in in_order:
            if {each.reliable for each in whole[name]} <= allowed:
                return name
    return None
