"""What is said of a ranking, and that its intervals hold together on the whole path that users run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from offrl.off_policy.estimator import Estimate
from offrl.off_policy.evaluate import evaluate
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.intervals import Interval
from offrl.off_policy.plan import Plan
from offrl.off_policy.ranking import Place, Ranking
from offrl.off_policy.results import BehaviorResult, Evaluation, PolicyResult
from offrl.off_policy.selection import GUESS, Candidate, Selection, findings, ranked, told_apart
from offrl.off_policy.trials import Trial, Trials
from tests.off_policy.test_coverage_of_fitted import DISTRACTORS, LIGHT

NAMES = ("a", "b", "c")


def ranking(*may_be_best: bool | None, estimator: str = "wdr") -> Ranking:
    places = [
        Place(i, 3.0 - i, None if each is None else 2.5 - i, None if each is None else 3.5 - i, each)
        for i, each in enumerate(may_be_best)
    ]
    return Ranking(estimator, 0.95, tuple(places))


def evaluation(logged: float = 0.0, size: float | None = 50.0, spread: float = 0.1) -> Evaluation:
    """Of three policies with values 3, 2 and 1."""
    policies = [
        PolicyResult(
            name,
            (
                Estimate("wis", 3.0 - i, np.empty(0), effective_sample_size=size),
                Estimate("fqe", 3.0 - i, np.empty(0)),
            ),
            None,
            None,
            spread,
            None,
            (),
        )
        for i, name in enumerate(NAMES)
    ]
    behavior = BehaviorResult("logged", logged, Interval(logged, logged, 0.95, "t"), None)
    return Evaluation("log", 100, 1_000, 0.99, None, 0.95, None, behavior, tuple(policies), None, None, ())


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        ((True, False, False), "a is better than all others, with confidence 0.95."),
        ((True, True, False), "These 2 can't be told apart: a, b. The others are worse."),
        ((True, True, True), "The log can't tell any of the 3 candidates apart from the best."),
    ],
)
def test_who_may_be_best_is_told_in_words(verdicts: tuple[bool, ...], told: str) -> None:
    assert told_apart(NAMES, ranking(*verdicts)) == told
    assert findings(evaluation(), ranking(*verdicts), True) == (told,)


def test_weights_that_are_worth_little_are_told() -> None:
    (_, weights) = findings(evaluation(size=2.0), ranking(True, True, True), True)
    assert weights.startswith("Nobody's value is known by weights: they are worth 2 of 100 episodes at most")


def test_a_first_that_the_log_does_not_show_to_be_better_is_told() -> None:
    (_, beside) = findings(evaluation(logged=2.8), ranking(True, True, True), True)
    assert "doesn't show that the first is better than the policy that acted" in beside


def test_fitted_values_are_compared_with_how_far_their_networks_differ() -> None:
    by_values = ranking(None, None, None, estimator="fqe")
    (far,) = findings(evaluation(spread=0.1), by_values, True)
    (near,) = findings(evaluation(spread=0.6), by_values, True)
    assert far == "Fitted values have no interval: their own error is unknown."
    assert near.endswith(
        "1 of the others differ from the first by less than networks that were fitted to other episodes do: b."
    )


def test_what_no_estimator_stands_behind_is_called_a_guess() -> None:
    guessed, reliable = ranked(evaluation())
    assert not reliable
    assert (guessed.estimator, [place.policy for place in guessed.places]) == ("fqe", [0, 1, 2])
    assert findings(evaluation(), guessed, reliable)[0] == GUESS
    whole = dataclasses.replace(evaluation(), ranking=ranking(True, False, False))
    assert ranked(whole) == (ranking(True, False, False), True)


def test_trials_go_before_the_ranking() -> None:
    candidates = tuple(Candidate(name, f"runs/{name}", "last", 0) for name in NAMES)
    selection = Selection("log", candidates, ranking(True, True, False), ())
    assert selection.chosen.name == "a"
    tried = selection.with_trials(Trials("CartPole-v1", (2,), (Trial(0, 1.0, 0.0), Trial(1, 2.0, 1.0))))
    assert tried.chosen.name == "b"
    assert tried.to_dict()["chosen"]["run"] == "runs/b"


def test_intervals_hold_together_where_values_are_fitted_to_the_log() -> None:
    """Of 40 logs all four candidates' intervals hold their values in at least 32: 90% do, fewer have a chance of 2%."""
    behavior, target = LIGHT.behavior, LIGHT.target
    models = [dataclasses.replace(LIGHT, target=w * target + (1.0 - w) * behavior) for w in (1.0, 0.7, 0.3, 0.0)]
    truth = np.array([model.value for model in models])
    fqe = FQEConfig(hidden=(16,), steps=150, batch_size=64, learning_rate=1e-2, target_rate=0.1)
    plan = Plan(estimators=("wdr",), discount=0.95, horizon=LIGHT.horizon, resamples=200, confidence=0.9, fqe=fqe)
    whole = right = 0
    for seed in range(40):
        log = LIGHT.recorded(100, 2_000 + seed, distractors=DISTRACTORS)
        found = evaluate(log, [model.target_policy(str(i)) for i, model in enumerate(models)], plan)
        order, reliable = ranked(found, seed=seed)
        assert reliable
        held = [place.low <= truth[place.policy] <= place.high for place in order.places]  # type: ignore[operator]
        whole += all(held)
        best = {place.policy for place in order.places if place.may_be_best}
        right += int(truth.argmax()) in best
    assert 32 <= whole <= 40
    assert right >= 36
