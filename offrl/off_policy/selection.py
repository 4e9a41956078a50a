"""Which of several policies a log speaks for, and what it can't tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from offrl.off_policy.estimator import MINIMUM_EFFECTIVE_SAMPLE_SIZE
from offrl.off_policy.evaluate import RANKING_PREFERENCE
from offrl.off_policy.ranking import Ranking, rank
from offrl.off_policy.results import Evaluation, PolicyResult
from offrl.off_policy.trials import Trials

GUESS = "No estimator is reliable for all candidates: the order is the best guess that the log allows."


@dataclass(frozen=True)
class Candidate:
    """A policy that could be chosen.

    Attributes:
        name: what tables call it.
        run: the directory of its run.
        checkpoint: as `--checkpoint` takes it.
        seed: the training seed.
    """

    name: str
    run: str
    checkpoint: str
    seed: int


@dataclass(frozen=True)
class Selection:
    """Policies from best to worst as far as a log can tell, and what it can't.

    Attributes:
        dataset: the log's name.
        candidates: in the order in which they were named.
        ranking: of them; its estimator is "held-out loss" (negative: more is better) where the log has no rewards.
        findings: what the log tells and doesn't, as sentences.
        evaluation: all estimates behind it; None where the log has no rewards.
        trials: what episodes in an environment added; None where nobody tried.

    Example:
        >>> selection = offrl.select(["runs/iql", "runs/td3"], dataset="hopper-medium-replay")
        >>> selection.chosen.run, selection.chosen.checkpoint
    """

    dataset: str
    candidates: tuple[Candidate, ...]
    ranking: Ranking
    findings: tuple[str, ...]
    evaluation: Evaluation | None = None
    trials: Trials | None = None

    @property
    def chosen(self) -> Candidate:
        """The one that earned most in trials, or else that is ranked first."""
        best = self.ranking.places[0].policy if self.trials is None else self.trials.best
        return self.candidates[best]

    def with_trials(self, trials: Trials) -> Selection:
        """The same with what episodes in an environment added."""
        return replace(self, trials=trials)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "dataset": self.dataset,
            "chosen": vars(self.chosen).copy(),
            "candidates": [vars(each).copy() for each in self.candidates],
            "ranking": self.ranking.to_dict(),
            "findings": list(self.findings),
            "trials": None if self.trials is None else self.trials.to_dict(),
            "evaluation": None if self.evaluation is None else self.evaluation.to_dict(),
        }


def ranked(evaluation: Evaluation, *, resamples: int = 1_000, seed: int = 0) -> tuple[Ranking, bool]:
    """A ranking of an evaluation's policies, and whether an estimator stands behind it.

    Where none is reliable for all of them, it is by the first usual one that gives all of them a value, without a word
    on who may be best.

    Args:
        evaluation: of two policies or more.
        resamples: of the bootstrap.
        seed: of its drawing.
    """
    if evaluation.ranking is not None:
        return evaluation.ranking, True
    first = [each.name for each in evaluation.policies[0].estimates]
    for name in sorted(first, key=_preference):
        found = [policy.estimate(name) for policy in evaluation.policies]
        whole = [
            replace(each, contributions=each.contributions[:0]) for each in found if each and each.value is not None
        ]
        if len(whole) == len(found):
            return rank(whole, confidence=evaluation.confidence, resamples=resamples, seed=seed, sure=False), False
    raise AssertionError("fitted values always exist")


def _preference(name: str) -> int:
    """Of estimators that aren't reliable, values that are bounded by the rewards go before weights."""
    order = ("fqe", *RANKING_PREFERENCE)
    return order.index(name) if name in order else len(order)


def findings(evaluation: Evaluation, ranking: Ranking, reliable: bool) -> tuple[str, ...]:
    """What the log tells of the candidates and what it doesn't, most important first."""
    texts = [] if reliable else [GUESS]
    texts += _told_apart(evaluation, ranking)
    texts += _worth_of_weights(evaluation.policies, evaluation.episodes)
    texts += _beside_behavior(evaluation, ranking)
    return tuple(texts)


def told_apart(names: Sequence[str], ranking: Ranking) -> str:
    """Who may be best, by intervals that hold together."""
    equals = [place for place in ranking.places if place.may_be_best]
    if len(equals) == 1:
        return f"{names[equals[0].policy]} is better than all others, with confidence {ranking.confidence:g}."
    if len(equals) == len(names):
        return f"The log can't tell any of the {len(names)} candidates apart from the best."
    several = ", ".join(names[place.policy] for place in equals)
    return f"These {len(equals)} can't be told apart: {several}. The others are worse."


def _told_apart(evaluation: Evaluation, ranking: Ranking) -> list[str]:
    names = [policy.name for policy in evaluation.policies]
    if ranking.places[0].may_be_best is not None:
        return [told_apart(names, ranking)]
    first = ranking.places[0]
    spread = evaluation.policies[first.policy].spread
    if ranking.estimator != "fqe" or spread is None:
        return []
    near = [
        names[place.policy]
        for place in ranking.places[1:]
        if first.value - place.value <= spread + (evaluation.policies[place.policy].spread or 0.0)
    ]
    unknown = "Fitted values have no interval: their own error is unknown."
    if not near:
        return [unknown]
    return [
        f"{unknown} {len(near)} of the others differ from the first by less than networks that were fitted to other "
        f"episodes do: {', '.join(near)}."
    ]


def _worth_of_weights(policies: Sequence[PolicyResult], episodes: int) -> list[str]:
    """Where no candidate does what was logged, weights say nothing of any."""
    weighted = [(policy.estimate("wis"), policy.estimate("snips")) for policy in policies]
    sizes = [each.effective_sample_size for pair in weighted for each in pair if each is not None]
    known = [size for size in sizes if size is not None]
    if not known or max(known) >= MINIMUM_EFFECTIVE_SAMPLE_SIZE:
        return []
    return [
        f"Nobody's value is known by weights: they are worth {max(known):.2g} of {episodes:,} episodes at most, for no "
        "candidate does for long what was logged."
    ]


def _beside_behavior(evaluation: Evaluation, ranking: Ranking) -> list[str]:
    """Whether the first is known to be better than what was logged."""
    first, logged = ranking.places[0], evaluation.behavior.value
    sure = first.may_be_best is not None and first.low is not None
    least = first.low if sure and first.low is not None else first.value
    if least > logged:
        return []
    return [f"The log doesn't show that the first is better than the policy that acted, which earned {logged:.4g}."]
