"""From a log and policies to their values: what can be estimated, what can't and why, and who is best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from offrl.errors import DataError, RequestError, SpaceMismatchError
from offrl.off_policy import intervals
from offrl.off_policy.behavior_policy import BehaviorConfig, BehaviorEstimate, estimate_behavior
from offrl.off_policy.bounds import Bounds
from offrl.off_policy.dataset import Logged
from offrl.off_policy.diagnostics import diagnose
from offrl.off_policy.doubts import divided, never_logged, unsettled
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimate import BOUNDED, IntervalKind, estimate
from offrl.off_policy.estimates import Estimate, Interval
from offrl.off_policy.estimators import ESTIMATORS
from offrl.off_policy.fqe import FittedValues, FQEConfig, fit_q
from offrl.off_policy.marginalized import MARGINALISED, marginal_estimate
from offrl.off_policy.ranking import Ranking, agreement, rank
from offrl.off_policy.results import BehaviorResult, Evaluation, PolicyResult, Truth
from offrl.off_policy.target_policies import DRAWS, TargetPolicy
from offrl.off_policy.transitions import Choices, Steps

FQE, DIRECT = "fqe", "dm"
"""Fitted Q evaluation is the direct method with its values."""
SEQUENTIAL_DEFAULTS = ("is", "wis", "pdis", "wpdis", "dr", "wdr", "magic", FQE)
ONE_STEP_DEFAULTS = ("ips", "snips", "dr", "switch-dr", FQE)
RANKING_PREFERENCE = (
    *("wdr", FQE, DIRECT, "magic", "dr", "snips", "wpdis", "wis", "switch-dr"),
    *(*MARGINALISED, "pdis", "ips", "is", "clipped"),
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
        estimators: keys of `ESTIMATORS`, "fqe", or some of `MARGINALISED`; None takes all usual ones that the log and
            the policies allow.
        discount: γ, per step.
        horizon: steps of an episode that count; None for all.
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


def evaluate(logged: Logged, policies: Sequence[Target | TargetPolicy], plan: Plan | None = None) -> Evaluation:
    """Estimate what each policy would earn in an episode, and rank several.

    Args:
        logged: the log.
        policies: themselves, or what they do at the log's rows.
        plan: what is asked for; None for the defaults.

    Raises:
        RequestError: an estimator that is named needs what isn't there: probabilities of the logged actions, a density
            of the policy's, or what it does at each state.
    """
    if len(logged.lengths) == 1:
        raise DataError(
            "the log is a single episode: nothing tells how far off an estimate from it is",
            where=logged.name,
            hint="name a log of more episodes",
        )
    plan = plan or Plan()
    targets = [_target(logged, policy, plan) for policy in policies]
    names, notes = _names(logged, targets, plan)
    behavior = _behavior(logged, names, plan)
    values = _values(logged, targets, names, plan)
    results = tuple(
        _result(logged, target, names, plan, behavior, None if values is None else values.of(position))
        for position, target in enumerate(targets)
    )
    ranking = _ranking(results, plan, notes)
    truths = [result.truth for result in results]
    known = [truth.value for truth in truths if truth is not None]
    return Evaluation(
        dataset=logged.name,
        episodes=len(logged.lengths),
        steps=len(logged.reward),
        discount=plan.discount,
        horizon=plan.horizon,
        confidence=plan.confidence,
        clip=plan.clip,
        behavior=_behavior_result(logged, names, plan, behavior),
        policies=results,
        ranking=ranking,
        agreement=None if ranking is None or len(known) < len(results) else agreement(ranking, known),
        notes=tuple(notes),
    )


def _target(logged: Logged, policy: Target | TargetPolicy, plan: Plan) -> Target:
    if isinstance(policy, Target):
        return policy
    return Target(policy.name, policy.choices(logged, draws=DRAWS, seed=plan.seed))


def needs_weights(name: str) -> bool:
    """Whether an estimator divides by the probabilities of the logged actions."""
    return name not in (FQE, DIRECT, *MARGINALISED)


def needs_choices(name: str) -> bool:
    """Whether an estimator needs what a policy does at each state, besides the logged actions' probabilities."""
    return name in MARGINALISED or needs_values(name)


def needs_values(name: str) -> bool:
    """Whether an estimator needs fitted values."""
    return name == FQE or (name in ESTIMATORS and ESTIMATORS[name].values)


def _names(logged: Logged, targets: Sequence[Target], plan: Plan) -> tuple[tuple[str, ...], list[str]]:
    """The estimators to use, and what is left out for want of something."""
    one_step = bool((logged.lengths == 1).all())
    known = (*ESTIMATORS, FQE, *MARGINALISED)
    unknown = [name for name in plan.estimators or () if name not in known]
    if unknown:
        raise RequestError(f"there is no estimator '{unknown[0]}'", hint=f"choose among {', '.join(known)}")
    wanted = tuple(plan.estimators or (ONE_STEP_DEFAULTS if one_step else SEQUENTIAL_DEFAULTS))
    if plan.estimators is None and plan.interval in BOUNDED:
        wanted = tuple(name for name in wanted if name != FQE and ESTIMATORS[name].unbiased)
    kept, notes = wanted, []
    for needs, lack in ((needs_weights, _no_weights(logged, targets, plan)), (needs_choices, _no_values(targets))):
        left_out = [name for name in kept if needs(name)]
        if lack is None or not left_out:
            continue
        if plan.estimators is not None:
            raise lack
        notes.append(f"Left out {', '.join(left_out)}: {lack.what}. To have them, {lack.hint}.")
        kept = tuple(name for name in kept if not needs(name))
    if not kept:
        raise _no_weights(logged, targets, plan) or RequestError("no estimator is left", hint="name one: --estimators")
    return kept, notes


def _no_weights(logged: Logged, targets: Sequence[Target], plan: Plan) -> RequestError | None:
    """Why there are no weights."""
    without = [target.name for target in targets if target.choices.log_prob is None]
    if without:
        return SpaceMismatchError(
            f"{without[0]} is deterministic, and its continuous actions have no density to weigh the log by",
            hint="choose --estimators fqe, smooth its actions with --kernel-bandwidth 0.2, or value the policy that "
            "samples with --stochastic",
        )
    if logged.behavior_log_prob is None and not plan.may_estimate_behavior:
        return RequestError(
            "the log doesn't say how probable its actions were (no column behavior_log_prob)",
            where=logged.name,
            hint="allow to estimate it with --estimate-behavior, or convert the log with --map behavior_prob=COLUMN",
        )
    return None


def _no_values(targets: Sequence[Target]) -> RequestError | None:
    """Why no values can be fitted."""
    without = [t.name for t in targets if t.choices.probabilities is None and t.choices.actions is None]
    if not without:
        return None
    return RequestError(
        f"values can't be fitted for {without[0]}: of its actions only the logged ones' probabilities are known",
        hint="give a column of the probabilities of all actions, or the policy itself",
    )


def _behavior(logged: Logged, names: Sequence[str], plan: Plan) -> BehaviorEstimate | NDArray[np.float64] | None:
    """Log-probabilities of the logged actions: the log's own, or an estimate; None where nobody needs them."""
    if not any(map(needs_weights, names)):
        return None
    if logged.behavior_log_prob is not None:
        return logged.behavior_log_prob
    return estimate_behavior(logged, plan.behavior, plan.seed)


def _behavior_result(
    logged: Logged, names: Sequence[str], plan: Plan, behavior: BehaviorEstimate | NDArray[np.float64] | None
) -> BehaviorResult:
    unweighted = np.zeros(len(logged.reward))
    returns = _episode_log(logged, unweighted, unweighted, plan, None).returns
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


def _values(logged: Logged, targets: Sequence[Target], names: Sequence[str], plan: Plan) -> _AllValues | None:
    """Fitted for all policies at once; None where nobody needs them."""
    if not any(map(needs_values, names)):
        return None
    smoothed = [position for position, target in enumerate(targets) if target.unsmoothed is not None]
    before = [target.unsmoothed for target in targets if target.unsmoothed is not None]
    everything = [target.choices for target in targets] + before
    fitted = fit_q(logged.steps(plan.discount, plan.horizon), _same_draws(everything), plan.fqe, plan.seed)
    first = np.cumsum(logged.lengths) - logged.lengths
    return _AllValues(fitted, first, {position: len(targets) + i for i, position in enumerate(smoothed)})


def _same_draws(choices: Sequence[Choices]) -> list[Choices]:
    """As many drawn actions of each policy: those that draw none repeat theirs."""
    most = max((len(each.actions) for each in choices if each.actions is not None), default=1)
    return [
        each
        if each.actions is None or len(each.actions) == most
        else dataclasses.replace(each, actions=np.broadcast_to(each.actions[:1], (most, *each.actions.shape[1:])))
        for each in choices
    ]


def _result(
    logged: Logged,
    target: Target,
    names: Sequence[str],
    plan: Plan,
    behavior: BehaviorEstimate | NDArray[np.float64] | None,
    values: _Values | None,
) -> PolicyResult:
    unweighted = np.zeros(len(logged.reward))
    weighted = behavior is not None
    acted = behavior.log_prob if isinstance(behavior, BehaviorEstimate) else behavior
    taken = target.choices.log_prob if weighted else unweighted
    assert taken is not None
    log = _episode_log(logged, unweighted if acted is None else acted, taken, plan, values)
    steps = logged.steps(plan.discount, plan.horizon) if set(names) & set(MARGINALISED) else None
    named = {} if steps is None else _solved(steps, target.choices, names, plan)
    others = [name for name in dict.fromkeys(names) if name not in MARGINALISED]
    if others:
        named |= zip(others, _estimates(log, others, plan), strict=True)
    return PolicyResult(
        name=target.name,
        estimates=tuple(named[name] for name in dict.fromkeys(names)),
        diagnostics=diagnose(log) if weighted else None,
        truth=None if target.true_returns is None else _truth(target.true_returns),
        spread=None if values is None else values.spread,
        smoothing_bias=None if values is None else values.smoothing_bias,
        warnings=tuple(_warnings(logged, target, plan, values)),
    )


def _estimates(log: EpisodeLog, names: Sequence[str], plan: Plan) -> list[Estimate]:
    """By those of `ESTIMATORS`, and "fqe"."""
    found = estimate(
        log,
        [DIRECT if name == FQE else name for name in names],
        confidence=plan.confidence,
        interval=plan.interval,
        resamples=plan.resamples,
        seed=plan.seed,
        clip=plan.clip,
        bounds=plan.bounds,
    )
    return [dataclasses.replace(each, name=name) for name, each in zip(names, found, strict=True)]


def _solved(steps: Steps, choices: Choices, names: Sequence[str], plan: Plan) -> dict[str, Estimate]:
    """By those of `MARGINALISED`."""
    return {
        name: marginal_estimate(
            steps,
            choices,
            name,
            confidence=plan.confidence,
            interval=plan.interval,
            resamples=plan.resamples,
            seed=plan.seed,
        )
        for name in names
        if name in MARGINALISED
    }


def _episode_log(
    logged: Logged, behavior: NDArray[Any], target: NDArray[Any], plan: Plan, values: _Values | None
) -> EpisodeLog:
    ends = np.cumsum(logged.lengths)
    return EpisodeLog(
        reward=logged.reward,
        behavior_log_prob=behavior,
        target_log_prob=target,
        offsets=np.concatenate([[0], ends]),
        terminated=logged.terminated[ends - 1],
        truncated=logged.truncated[ends - 1],
        discount=plan.discount,
        horizon=plan.horizon,
        q=None if values is None else values.q,
        v=None if values is None else values.v,
        v_final=None if values is None else values.v_final,
        density=logged.actions is None,
    )


def _truth(returns: NDArray[np.float64]) -> Truth:
    count = len(returns)
    error = float(returns.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    return Truth(float(returns.mean()), error, count)


def _warnings(logged: Logged, target: Target, plan: Plan, values: _Values | None) -> list[str]:
    warnings = never_logged(logged, target.choices, target.name)
    if values is not None:
        first = np.cumsum(logged.lengths) - logged.lengths
        warnings += divided(float(values.v[first].mean()), values.spread, target.name)
        warnings += unsettled(logged, plan.discount, plan.horizon, plan.fqe)
    return warnings


def _ranking(results: Sequence[PolicyResult], plan: Plan, notes: list[str]) -> Ranking | None:
    if len(results) < 2:
        return None
    there = [each.name for each in results[0].estimates]
    if plan.rank_by is not None and plan.rank_by not in there:
        raise RequestError(
            f"the policies can't be ranked by {plan.rank_by}: it isn't among the estimators", hint="add it to them"
        )
    for name in [plan.rank_by] if plan.rank_by else RANKING_PREFERENCE:
        estimates = [result.estimate(name) for result in results]
        whole = [each for each in estimates if each is not None and each.value is not None]
        # By default an estimator that is reliable for all policies; where there is none, fitted values need no weights.
        if len(whole) == len(results) and (plan.rank_by or all(each.reliable for each in whole)):
            sure = name not in (FQE, DIRECT)
            if not sure:
                notes.append(
                    "The ranking's intervals are over first states; they know nothing of errors in the values."
                )
            return rank(whole, confidence=plan.confidence, resamples=plan.resamples, seed=plan.seed, sure=sure)
    if plan.rank_by:
        raise RequestError(f"not all policies have a value by {plan.rank_by}", hint="rank by another estimator")
    notes.append("The policies aren't ranked: no estimator is reliable for all of them.")
    return None
