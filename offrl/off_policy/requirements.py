"""What estimators need that a log or a policy may lack: what is left out or refused, and what would work instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import gymnasium as gym

from offrl import plugins
from offrl.errors import RequestError, SpaceMismatchError
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimator import Estimator, Need, find_estimator
from offrl.off_policy.intervals import BOUNDED, INTERVALS, Bounds
from offrl.off_policy.plan import Plan, Target

SEQUENTIAL_DEFAULTS = ("is", "wis", "pdis", "wpdis", "dr", "wdr", "magic", "fqe")
ONE_STEP_DEFAULTS = ("ips", "snips", "dr", "switch-dr", "fqe")


class _Lack(NamedTuple):
    """What is missing: which needs it leaves unmet, why, and what could be done about it but naming others."""

    needs: set[Need]
    kind: type[RequestError]
    why: str
    where: str
    ways: list[str]


def choose_estimators(log: EpisodeLog, targets: Sequence[Target], plan: Plan) -> tuple[dict[str, Estimator], list[str]]:
    """Those to use, by name, and what is left out for want of something.

    Raises:
        RequestError: one that is named can't be used, or none is left; the hint names what can.
    """
    lacks = [lack for lack in (_density(log, targets, plan), _behavior(log, plan), _policy(targets)) if lack]
    unmet = {need for lack in lacks for need in lack.needs}
    usual = {name: find_estimator(name) for name in (ONE_STEP_DEFAULTS if log.is_one_step else SEQUENTIAL_DEFAULTS)}
    if plan.interval in BOUNDED:
        usual = {name: record for name, record in usual.items() if record.unbiased}
    usable = [name for name, record in usual.items() if not unmet & set(record.needs)]
    named = None if plan.estimators is None else {name: find_estimator(name) for name in plan.estimators}
    records, notes = named or usual, []
    for name, record in records.items():
        if record.one_step:
            require_one_step(log, name, usable)
    for lack in lacks:
        left_out = [name for name, record in records.items() if lack.needs & set(record.needs)]
        if not left_out:
            continue
        if named is not None or not usable:
            raise lack.kind(lack.why, where=lack.where, hint=_hint(lack.ways, usable))
        notes.append(f"Left out {', '.join(left_out)}: {lack.why}. To have them, {_hint(lack.ways, [])}.")
        records = {name: record for name, record in records.items() if name not in left_out}
    check_interval(plan.interval, records, plan.clip, plan.bounds, usable)
    return dict(records), notes


def require_one_step(log: EpisodeLog, name: str, usable: Sequence[str]) -> None:
    """Refuse logs of longer episodes.

    Args:
        log: the episodes.
        name: an estimator for single decisions.
        usable: estimators that the log is enough for.

    Raises:
        RequestError: an episode has more than one step.
    """
    if not log.is_one_step:
        raise RequestError(
            f"{name} is for logs of single decisions, and these episodes have up to {int(log.lengths.max())} steps",
            hint=_hint([], usable),
        )


def usable_with(log: EpisodeLog) -> list[str]:
    """offrl's own estimators that a log is enough for as it is, by name."""
    there: dict[Need, bool] = {
        "density": log.target_log_prob is not None,
        "behavior": log.behavior_log_prob is not None,
        "policy": log.choices is not None and log.choices.known_at_states,
        "values": log.v is not None,
    }
    records = {name: find_estimator(name) for name in plugins.estimators.own}
    return [
        name
        for name, record in records.items()
        if all(there[need] for need in record.needs) and (log.is_one_step or not record.one_step)
    ]


def check_interval(
    kind: str | None, records: Mapping[str, Estimator], clip: float | None, bounds: Bounds | None, usable: Sequence[str]
) -> None:
    """Refuse an interval that doesn't suit an estimator.

    Args:
        kind: of interval; None for none.
        records: the estimators, by name.
        clip: what weights are cut to.
        bounds: of reward and weight.
        usable: estimators that could be asked for in their place.

    Raises:
        RequestError: there is no such interval, it is for unbiased estimators, or it needs bounds.
    """
    if kind is not None and kind not in INTERVALS:
        raise RequestError(f"there is no interval {kind!r}", hint=f"one of {', '.join(INTERVALS)}")
    if kind not in BOUNDED:
        return
    if biased := [name for name, record in records.items() if clip is not None or not record.unbiased]:
        why = "cut weights are" if clip is not None else f"{', '.join(biased)} {'is' if len(biased) == 1 else 'are'}"
        fit = [name for name in usable if find_estimator(name).unbiased]
        ways = [f"ask for {', '.join(fit)}{' without clipping' if clip is not None else ''}"] if fit else []
        raise RequestError(
            f"the interval {kind!r} bounds the mean of unbiased estimators, and {why} biased",
            hint=_hint([*ways, "choose another one: --interval bootstrap-bca"], []),
        )
    if bounds is None:
        raise RequestError(
            f"the interval {kind!r} needs to know what an episode can contribute at most",
            hint="give the bounds of a reward and of an episode's weight (--reward-bounds LOW,HIGH --weight-bound W); "
            "the log alone can't tell them",
        )


def _hint(ways: Sequence[str], usable: Sequence[str]) -> str:
    """The ways out that there are, and estimators that would work."""
    every = [*ways, *([f"choose --estimators {','.join(usable)}"] if usable else [])]
    if not every:
        return "name another log or another policy"
    return every[0] if len(every) == 1 else f"{', '.join(every[:-1])}, or {every[-1]}"


def _density(log: EpisodeLog, targets: Sequence[Target], plan: Plan) -> _Lack | None:
    """Why the policies give logged actions no probability."""
    without = [target for target in targets if target.choices.log_prob is None]
    if not without:
        return None
    continuous = isinstance(log.spec.action_space, gym.spaces.Box)
    behavior = _behavior(log, plan)
    ways = []
    if continuous and (behavior is None or behavior.ways):
        estimate = "" if behavior is None else " and --estimate-behavior"
        ways.append(f"smooth its actions with --kernel-bandwidth 0.2{estimate}")
    if all(target.could_sample for target in without):
        ways.append("value the policy that samples with --stochastic")
    what = "continuous actions have" if continuous else "actions in several components have"
    why = f"{without[0].name} is deterministic, and its {what} no density to weigh the log by"
    return _Lack({"density"}, SpaceMismatchError, why, "", ways)


def _behavior(log: EpisodeLog, plan: Plan) -> _Lack | None:
    """Why it isn't known how probable the logged actions were."""
    possible = isinstance(log.spec.action_space, gym.spaces.Discrete | gym.spaces.Box)
    if log.behavior_log_prob is not None or (plan.may_estimate_behavior and possible):
        return None
    why = "the log doesn't say how probable its actions were (no column behavior_log_prob)"
    if plan.may_estimate_behavior:
        why += f", and of actions in {log.spec.action_space} that can't be estimated"
    ways = ["allow to estimate it with --estimate-behavior"] if possible else []
    converted = "convert the log with --map behavior_prob=COLUMN where its source has one"
    return _Lack({"behavior"}, RequestError, why, log.name, [*ways, converted])


def _policy(targets: Sequence[Target]) -> _Lack | None:
    """Why no values can be fitted."""
    without = [target.name for target in targets if not target.choices.known_at_states]
    if not without:
        return None
    why = f"values can't be fitted for {without[0]}: of its actions only the logged ones' probabilities are known"
    ways = ["give a column of the probabilities of all actions, or the policy itself"]
    return _Lack({"policy", "values"}, RequestError, why, "", ways)
