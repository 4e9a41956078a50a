"""`estimate`: what a policy would earn, by the estimators that are asked for, and how sure each is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from offrl.errors import RequestError
from offrl.off_policy import intervals
from offrl.off_policy.bootstrap import resample, resample_means
from offrl.off_policy.diagnostics import effective_sample_sizes, largest_weight_shares, over_steps
from offrl.off_policy.episode_log import Array, EpisodeLog
from offrl.off_policy.estimator import (
    MINIMUM_EFFECTIVE_SAMPLE_SIZE,
    Clipping,
    Estimate,
    Estimator,
    Question,
    Reliability,
    few_episodes,
    find_estimator,
)
from offrl.off_policy.intervals import BOUNDED, Bounds, Interval, IntervalKind
from offrl.off_policy.requirements import check_interval, require_one_step, usable_with
from offrl.off_policy.weighted_sums import WeightedSum

Answer = TypeVar("Answer")
LEAST_RESAMPLES = 50
WEIGHT_DEVIATIONS = 5.0
"""How many standard errors the mean weight may lie from 1."""


def estimate(
    log: EpisodeLog,
    names: Sequence[str],
    *,
    confidence: float = 0.95,
    interval: IntervalKind | None = "bootstrap-bca",
    resamples: int = 1_000,
    seed: int = 0,
    clip: float | None = None,
    switch: float | None = None,
    bounds: Bounds | None = None,
    minimum_effective_sample_size: float = MINIMUM_EFFECTIVE_SAMPLE_SIZE,
) -> list[Estimate]:
    """What the target policy would earn in an episode, by each of the estimators named.

    Where the log can't tell, the value is None or `reliable` is "no", and the warnings say why; so they do where an
    estimator's own computation fails, which takes none of the others along. Intervals are over episodes: what was
    fitted (values, estimated probabilities) is taken as it is, and has to be fitted to other episodes than it is used
    on. MAGIC's is WDR's, for no interval of its own is known to hold; values that nothing corrects have none.

    Args:
        log: the episodes.
        names: of estimators; `offrl.plugins.estimators` has them.
        confidence: nominal coverage.
        interval: how it is made, or None for none. The bootstrap computes self-normalized estimates anew for each
            resample, all of them on the same resamples; its intervals and "t" are right for many episodes. "hoeffding"
            and "bernstein" hold for every number of them, need `bounds`, and are for unbiased estimators only.
        resamples: of the bootstrap.
        seed: of its drawing.
        clip: cut weights to this; reported with the bias that it brings.
        switch: threshold of switch-dr; √N where left out. `clipped` cuts at √N where `clip` is left out.
        bounds: of reward and weight.
        minimum_effective_sample_size: below it, an estimate isn't reliable.

    Raises:
        RequestError: an unknown name or option; what an estimator needs isn't there; an interval doesn't suit one.
        DataError: the log breaks the bounds.
        PluginError: another package's estimator can't be had.
    """
    _check_options(confidence, resamples, {"clip": clip, "switch": switch})
    records = {name: find_estimator(name) for name in names}
    usable = usable_with(log)
    for name, record in records.items():
        if record.one_step:
            require_one_step(log, name, usable)
    check_interval(interval, records, clip, bounds, usable)
    ask = Question(log, clip, switch, confidence, interval, resamples, seed)
    found = {name: _or_withheld(name, partial(record.answer, ask)) for name, record in records.items()}
    sums = {name: item for name, item in found.items() if isinstance(item, WeightedSum)}
    bootstrap = _Bootstrap(log, resamples, seed)
    all_of_them = interval is not None and interval.startswith("bootstrap")
    resampled = {
        name: item for name, item in sums.items() if records[name].blend or (all_of_them and records[name].has_interval)
    }
    method = _Method(interval, bounds, bootstrap, bootstrap.draws(resampled), minimum_effective_sample_size)

    def answered(name: str) -> Estimate:
        item = found[name]
        return replace(item, name=name) if isinstance(item, Estimate) else method.answer(name, records[name], item, ask)

    return [_in_numbers(_or_withheld(name, partial(answered, name))) for name in records]


def _or_withheld(name: str, compute: Callable[[], Answer]) -> Answer | Estimate:
    """What is computed, or an estimate without a value that says why: one estimator takes no other along."""
    try:
        with np.errstate(all="ignore"):
            return compute()
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        why = f"There is no estimate: its computation fails on these weights ({str(error) or type(error).__name__})."
        return Estimate(name, None, np.empty(0), reliable=Reliability.NO, warnings=(why,))


def _in_numbers(answer: Estimate) -> Estimate:
    """The same without what is NaN or infinite, and then a warning in its place."""
    ends = () if answer.interval is None else (answer.interval.low, answer.interval.high)
    if answer.value is not None and not math.isfinite(answer.value):
        why = "There is no estimate: it is too large for a number."
        return Estimate(answer.name, None, np.empty(0), reliable=Reliability.NO, warnings=(why, *answer.warnings))
    if not np.isfinite([answer.standard_error or 0.0, *ends]).all():
        why = "There is no interval: an end of it is too large for a number."
        unknown = replace(answer, contributions=np.empty(0), interval=None, reliable=Reliability.NO)
        return replace(unknown, warnings=(*answer.warnings, why))
    return answer


@dataclass(frozen=True)
class _Bootstrap:
    """How episodes are drawn."""

    log: EpisodeLog
    resamples: int
    seed: int

    def draws(self, sums: Mapping[str, WeightedSum]) -> dict[str, Array]:
        """Resampled values [B] of each sum that has one."""
        wanted = {name: item for name, item in sums.items() if item.value is not None and self.log.episodes > 1}
        distinct = {id(item): item for item in wanted.values()}
        if not distinct:
            return {}
        drawn = resample(list(distinct.values()), self.log.longest_first, resamples=self.resamples, seed=self.seed)
        by_sum = dict(zip(distinct, drawn.T, strict=True))
        return {name: by_sum[id(item)] for name, item in wanted.items()}

    def errors(self, contributions: Array) -> Array:
        """Standard errors of the mean of resampled contributions, on the same resamples as `draws`, [B]."""
        centered = (contributions - contributions.mean())[self.log.longest_first]
        # Over the largest: the square of what heavy weights contribute may be too large for a number.
        largest = max(float(np.abs(centered).max()), np.finfo(np.float64).tiny)
        centered /= largest
        columns = np.column_stack([centered, centered**2])
        first, second = resample_means(columns, resamples=self.resamples, seed=self.seed).T
        return np.asarray(largest * np.sqrt(np.maximum(second - first**2, 0.0) / (len(contributions) - 1)))


@dataclass(frozen=True)
class _Method:
    """How sums become estimates with intervals.

    Attributes:
        interval, bounds: as `estimate` takes them.
        bootstrap, draws: resampled values of the sums that need them.
        least: effective sample size of what is reliable.
    """

    interval: IntervalKind | None
    bounds: Bounds | None
    bootstrap: _Bootstrap
    draws: Mapping[str, Array]
    least: float

    def answer(self, name: str, record: Estimator, item: WeightedSum, ask: Question) -> Estimate:
        """A sum's estimate, with its interval."""
        answer, kind = _without_interval(name, record, item, ask, self.least), self.interval
        if len(answer.contributions) < 2:
            return answer
        if kind in BOUNDED and self.bounds is not None:
            answer = _bounded(answer, record, kind, ask.confidence, ask.log, self.bounds)
        elif kind == "t":
            answer = _by_t(answer, ask.confidence)
        elif kind is not None:
            answer = _bootstrapped(answer, kind, ask.confidence, self.draws[name], self.bootstrap)
        return answer if record.blend is None else record.blend(answer, item, self.draws[name], ask)


def _without_interval(name: str, record: Estimator, item: WeightedSum, ask: Question, least: float) -> Estimate:
    contributions = item.contributions if record.has_interval else np.empty(0)
    answer = Estimate(name, item.value, contributions, clipping=_clipping(record, item, ask))
    warnings, reliable = _warnings(record, ask), True
    if item.weights is not None:
        if record.per_step:
            size, share = over_steps(item.weights, ask.log.discount)
        else:
            size, share = float(effective_sample_sizes(item.weights)[0]), float(largest_weight_shares(item.weights)[0])
        answer = replace(answer, effective_sample_size=size, largest_weight_share=share)
        doubts = _doubts(ask, size, least)
        warnings, reliable = [*doubts, *warnings], not doubts
    if item.value is None:
        vanishing = item.weights is not None and item.weights.vanish
        why = (
            "from some step on, every logged episode holds an action that the target policy never takes"
            if vanishing
            else "a weight is too large for a number"
        )
        warnings, reliable = [f"There is no estimate: {why}.", *warnings], False
    return replace(answer, reliable=Reliability.YES if reliable else Reliability.NO, warnings=tuple(warnings))


def _doubts(ask: Question, size: float, least: float) -> list[str]:
    """Why an estimate by these weights shouldn't be used."""
    doubts = []
    if size < least:
        doubts.append(few_episodes(size, ask.log.episodes, least))
    mean, error = ask.mean_weight
    if mean is None or (error is not None and abs(mean - 1.0) > WEIGHT_DEVIATIONS * error + 1e-6):
        found = "too large for a number" if mean is None else f"{mean:.3g} ± {error:.2g}"
        doubts.append(
            f"The episodes' weights average {found}, where 1 is expected: the behavior's probabilities are wrong, or "
            "it never does what the target policy often does."
        )
    return doubts


def _warnings(record: Estimator, ask: Question) -> list[str]:
    log, warnings = ask.log, []
    if log.broken_off.any() and "values" not in record.needs:
        warnings.append(
            f"{int(log.broken_off.sum())} of {log.episodes} episodes were truncated before the horizon; what they "
            "would have earned later is missing."
        )
    if log.episodes == 1:
        blend = "" if record.blend is None else ", and nothing is blended"
        warnings.append(f"One episode gives no interval{blend}.")
    return [*warnings, record.caveat] if record.caveat else warnings


def _clipping(record: Estimator, item: WeightedSum, ask: Question) -> Clipping | None:
    """What was cut, and the estimate less the one without."""
    threshold = record.threshold(ask)
    if threshold is None or item.weights is None:
        return None
    uncut = record.answer(ask.uncut)
    assert isinstance(uncut, WeightedSum)
    assert uncut.weights is not None
    share = float(np.mean(uncut.weights.log_weight > np.log(threshold)))
    return Clipping(threshold, share, None if item.value is None or uncut.value is None else item.value - uncut.value)


def _bounded(
    answer: Estimate, record: Estimator, kind: str, confidence: float, log: EpisodeLog, bounds: Bounds
) -> Estimate:
    """With an interval that holds for every number of episodes, cut to the range of the return."""
    ends = bounds.of_contribution(log, with_values="values" in record.needs)
    bounds.check(log, answer.contributions, ends)
    low, high = np.clip(BOUNDED[kind](answer.contributions, *ends, confidence), *bounds.of_return(log))
    return replace(answer, interval=Interval(float(low), float(high), confidence, kind))


def _by_t(answer: Estimate, confidence: float) -> Estimate:
    return replace(answer, interval=Interval(*intervals.student_t(answer.contributions, confidence), confidence, "t"))


def _bootstrapped(answer: Estimate, kind: str, confidence: float, drawn: Array, bootstrap: _Bootstrap) -> Estimate:
    usable = np.isfinite(drawn)
    if lost := int(np.sum(~usable)):
        text = f"{lost} of {len(drawn)} resamples held no episode of any weight at some step, or too large a number"
        much = lost > len(drawn) / 2
        text += ": there is no interval." if much else ", and don't count."
        answer = replace(answer, warnings=(*answer.warnings, text), reliable=Reliability.NO)
        if much:
            return answer
    values = drawn[usable]
    if kind == "bootstrap-percentile":
        ends = intervals.percentile(values, confidence)
    elif kind == "bootstrap-bca":
        ends = intervals.bca(answer.contributions, values, confidence)
    else:
        errors = bootstrap.errors(answer.contributions)[usable]
        ends = intervals.studentized(answer.contributions, values, errors, confidence)
    return replace(answer, interval=Interval(*ends, confidence, kind))


def _check_options(confidence: float, resamples: int, thresholds: dict[str, float | None]) -> None:
    if not 0.0 < confidence < 1.0:
        raise RequestError(f"the confidence is {confidence}", hint="give one between 0 and 1, as 0.95")
    if resamples < LEAST_RESAMPLES:
        raise RequestError(f"{resamples} resamples are too few for quantiles", hint=f"give at least {LEAST_RESAMPLES}")
    for name, value in thresholds.items():
        if value is not None and not 0.0 < value < math.inf:
            raise RequestError(f"{name} is {value}", hint="give the largest weight to keep: a number above 0")
