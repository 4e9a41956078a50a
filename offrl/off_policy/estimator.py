"""What an estimator is, what it is asked, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, TypeVar

from offrl import plugins
from offrl.errors import PluginError
from offrl.off_policy.episode_log import Array, EpisodeLog
from offrl.off_policy.intervals import Interval, IntervalKind, standard_error
from offrl.off_policy.weighted_sums import WeightedSum, WeightedTerms
from offrl.off_policy.weights import StepWeights

Need = Literal["density", "behavior", "policy", "values"]
Anything = TypeVar("Anything")
MINIMUM_EFFECTIVE_SAMPLE_SIZE = 20.0
"""Estimates from logs that are worth fewer episodes than this aren't reliable."""


@dataclass(frozen=True)
class Clipping:
    """What cutting the weights did.

    Attributes:
        threshold: no weight is above it.
        share: of the weights, how many were.
        bias: the clipped estimate less the one without clipping: an estimate of the bias that clipping brings, as
            noisy as the weights that it cuts. None where the estimate without clipping isn't a number.
    """

    threshold: float
    share: float
    bias: float | None


class Reliability(StrEnum):
    """Whether an estimate can be used: "yes", "no" or "unknown". As a condition only "yes" holds."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    def __bool__(self) -> bool:
        """Whether it is "yes": text would always be true."""
        return self is Reliability.YES


@dataclass(frozen=True, eq=False)
class Estimate:
    """One estimator's answer.

    Attributes:
        name: the estimator, as "wdr".
        value: the target policy's value; None where the log can't tell, and then `warnings` says why.
        contributions: [N], one term for each episode, whose mean is the value; of self-normalized estimators the value
            plus the linearized influence of the episode; of MAGIC, WDR's moved to its value. Empty where there is no
            value, and where the spread of such terms doesn't tell how far off the value is.
        interval: None where none can be given, and then `warnings` says why, if one was asked for.
        effective_sample_size: how many episodes of the target policy the weighted log is worth; None without weights.
        largest_weight_share: the share of all weight on the heaviest episode; None without weights.
        clipping: None where weights were not cut.
        reliable: "no" where the answer shouldn't be used, "unknown" where nothing tells whether it can be; "yes" only
            where there is nothing to be warned of.
        warnings: what the reader must know, one sentence each.
    """

    name: str
    value: float | None
    contributions: Array = field(repr=False)
    interval: Interval | None = None
    effective_sample_size: float | None = None
    largest_weight_share: float | None = None
    clipping: Clipping | None = None
    reliable: Reliability = Reliability.YES
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.warnings and self.reliable:
            object.__setattr__(self, "reliable", Reliability.UNKNOWN)

    @property
    def standard_error(self) -> float | None:
        """Of the value, from the spread of the contributions; None with fewer than two."""
        return standard_error(self.contributions) if len(self.contributions) > 1 else None

    def doubted(self, *warnings: str) -> Estimate:
        """The same, no longer reliable beyond doubt; with further warnings."""
        reliable = Reliability.UNKNOWN if self.reliable else self.reliable
        return replace(self, reliable=reliable, warnings=(*self.warnings, *warnings))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, none of them NaN or infinite; without the contributions."""
        return {
            "name": self.name,
            "value": self.value,
            "standard_error": self.standard_error,
            "interval": None if self.interval is None else vars(self.interval).copy(),
            "effective_sample_size": self.effective_sample_size,
            "largest_weight_share": self.largest_weight_share,
            "clipping": None if self.clipping is None else vars(self.clipping).copy(),
            "reliable": self.reliable.value,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class Question:
    """A log with the policy to be valued, and how; what several estimators need is computed once for all of them.

    Attributes:
        log: the episodes; longer ones than its horizon are cut.
        clip: no weight counts as more; None cuts none.
        switch: above it, switch-dr believes the model.
        confidence, interval, resamples, seed: see `offrl.off_policy.estimate.estimate`, which sees to them for an
            estimator that answers with a sum.
    """

    log: EpisodeLog
    clip: float | None = None
    switch: float | None = None
    confidence: float = 0.95
    interval: IntervalKind | None = "bootstrap-bca"
    resamples: int = 1_000
    seed: int = 0
    _known: dict[Callable[[Question], Any], Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, function: Callable[[Question], Anything]) -> Anything:
        """What a function says to this question, computed once."""
        if function not in self._known:
            self._known[function] = function(self)
        known: Anything = self._known[function]
        return known

    @cached_property
    def steps(self) -> StepWeights:
        """Weights up to each step."""
        return StepWeights.of(self.log, clip=self.clip)

    @cached_property
    def whole(self) -> StepWeights:
        """Weights of whole episodes."""
        unclipped = self.steps if self.clip is None else StepWeights.of(self.log)
        return unclipped.at_end(clip=self.clip)

    @cached_property
    def rewards(self) -> WeightedTerms:
        """Discounted rewards by the weights up to their steps."""
        return WeightedTerms(self.steps, self.log.discounted_reward)

    @cached_property
    def returns(self) -> WeightedTerms:
        """Returns by the weights of whole episodes."""
        return WeightedTerms(self.whole, self.log.returns)

    @cached_property
    def uncut(self) -> Question:
        """The same with no weight cut and the model never believed instead."""
        return replace(self, clip=math.inf, switch=math.inf)

    @property
    def mean_weight(self) -> tuple[float | None, float | None]:
        """Of whole episodes, nothing cut, and its standard error; None where they are no numbers."""
        return (self.whole if self.clip is None else self.uncut.whole).mean_final


@dataclass(frozen=True)
class Estimator:
    """One way to value a policy from a log: an entry of the table `offrl.plugins.estimators`, which gives it its name.

    Attributes:
        summary: its name in full; one line, for lists.
        answer: from the question to a sum over episodes, which the library gives its interval, by resampling episodes,
            and its warnings; or to a whole `Estimate`.
        needs: what must be there: "density", how probable the policy makes the logged actions; "behavior", how
            probable the one that acted made them; "policy", what the policy does at each row (`log.choices`); "values",
            what is fitted to the log: `log.q`, `log.v` and `log.v_final`.
        per_step: whether each step has a weight of its own; else one holds for the whole episode.
        unbiased: whether its expectation is the policy's value where the behavior's probabilities are right.
        one_step: whether it is for logs of single decisions only.
        endless: whether it values all that follows, and takes no horizon.
        caveat: an error that the spread over episodes knows nothing of, as a sentence: whether it is reliable is then
            unknown at best, and rankings by it say of no policy that it is worse than the first.
        has_interval: whether the spread over episodes tells enough of its error for an interval; else `caveat` says
            why not.
        threshold: where it cuts weights for a question; None where it doesn't.
        blend: makes the answer of the sum's estimate, the sum, and its resampled values, [B].

    Example:
        An estimator is a function of the log's arrays. One that weighs each reward by its own step's ratio alone, which
        is cut at 1:

        >>> import numpy as np
        >>> from offrl.off_policy.estimator import Estimator, Question
        >>> from offrl.off_policy.weighted_sums import WeightedSum
        >>> def cut_ratios(question: Question) -> WeightedSum:
        ...     log = question.log  # R steps in N episodes
        ...     ratio = np.exp(np.minimum(log.log_ratio, 0.0))  # [R], π(a | s) / μ(a | s)
        ...     terms = np.add.reduceat(ratio * log.discounted_reward, log.offsets[:-1])
        ...     return WeightedSum(terms)  # [N]; their mean is the value
        >>> ESTIMATOR = Estimator("rewards by their own steps' ratios, cut at 1", cut_ratios)

        A package that names it in its pyproject.toml adds it, as `--estimators cut-ratios`:

            [project.entry-points."offrl.estimators"]
            cut-ratios = "the_package.the_module:ESTIMATOR"
    """

    summary: str
    answer: Callable[[Question], WeightedSum | Estimate]
    needs: tuple[Need, ...] = ("density", "behavior")
    per_step: bool = True
    unbiased: bool = False
    one_step: bool = False
    endless: bool = False
    caveat: str = ""
    has_interval: bool = True
    threshold: Callable[[Question], float | None] = lambda ask: ask.clip
    blend: Callable[[Estimate, WeightedSum, Array, Question], Estimate] | None = None


def few_episodes(size: float, episodes: int, least: float = MINIMUM_EFFECTIVE_SAMPLE_SIZE) -> str:
    """The warning of a log that is worth fewer episodes of the target policy than `least`."""
    return f"The weighted log is worth {size:.1f} episodes of {episodes}, less than {least:g}."


def find_estimator(name: str) -> Estimator:
    """The estimator of a name, offrl's own or another package's.

    Raises:
        RequestError: there is none; the message names the nearest.
        PluginError: another package's is none, or can't be imported.
    """
    found = plugins.estimators[name]
    if not isinstance(found, Estimator):
        raise PluginError(
            f"the estimator {name!r} is a {type(found).__name__}, and not an Estimator",
            where=plugins.estimators.origin(name),
            hint="update or uninstall that package",
        )
    return found
