"""From a log and policies to values: beside exact ones, and what is left out or refused and why."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from offrl.errors import DataError, RequestError, SpaceMismatchError
from offrl.off_policy.behavior_policy import BehaviorConfig
from offrl.off_policy.choices import Choices
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.evaluate import evaluate
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.plan import Plan, Target
from offrl.off_policy.target_policies import ActionPolicy, Smoothed, TablePolicy
from tests.off_policy.tabular import BEHAVIOR, TARGET, TabularMDP
from tests.off_policy.test_behavior_policy import gaussian_log

MDP = TabularMDP.random(seed=1, limit=5)
PLAN = Plan(
    discount=0.9,
    horizon=5,
    resamples=200,
    fqe=FQEConfig(hidden=(32,), steps=800, learning_rate=3e-3),
    behavior=BehaviorConfig(folds=2, hidden=(32,), steps=400, learning_rate=3e-3),
)
WEIGHTED = ("is", "wis", "pdis", "wpdis")


@pytest.fixture(scope="module")
def logged() -> EpisodeLog:
    return MDP.log(BEHAVIOR, 400)


def target(logged: EpisodeLog, table: np.ndarray = TARGET, name: str = "target") -> Target:
    return Target(name, TablePolicy(table).choices(logged, draws=1, seed=0))


def truth(table: np.ndarray = TARGET) -> float:
    return float(MDP.start @ MDP.values(table, 0.9, 5)[1])


def test_every_usual_estimator_is_near_the_exact_value(logged: EpisodeLog) -> None:
    found = evaluate(logged, [target(logged)], PLAN)
    (policy,) = found.policies
    assert [each.name for each in policy.estimates] == ["is", "wis", "pdis", "wpdis", "dr", "wdr", "magic", "fqe"]
    for each in policy.estimates:
        assert each.value == pytest.approx(truth(), abs=0.5), each.name
        assert each.reliable == ("unknown" if each.name == "fqe" else "yes")
        assert (each.interval is None) == (each.name == "fqe")
    assert found.behavior.probabilities == "logged"
    assert found.behavior.value == pytest.approx(truth(BEHAVIOR), abs=0.3)
    assert policy.diagnostics is not None
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["policies"][0]["estimates"][0]["name"] == "is"


def test_probabilities_are_estimated_where_that_is_allowed(logged: EpisodeLog) -> None:
    without = dataclasses.replace(logged, behavior_log_prob=None)
    wanted = dataclasses.replace(PLAN, estimators=["wis"])
    with pytest.raises(RequestError, match=r"doesn't say how probable(.|\n)*--estimate-behavior"):
        evaluate(without, [target(logged)], wanted)
    left = evaluate(without, [target(logged)], PLAN)
    assert [each.name for each in left.policies[0].estimates] == ["fqe"]
    assert left.behavior.probabilities == "none"
    assert left.policies[0].diagnostics is None
    assert "Left out is, wis" in left.notes[0]
    allowed = evaluate(without, [target(logged)], dataclasses.replace(wanted, may_estimate_behavior=True))
    assert allowed.behavior.probabilities == "estimated"
    assert allowed.behavior.estimated is not None
    assert allowed.policies[0].estimates[0].value == pytest.approx(truth(), abs=0.5)
    json.dumps(allowed.to_dict(), allow_nan=False)


def test_values_that_cannot_have_settled_are_warned_of(logged: EpisodeLog) -> None:
    def warnings(**changes: object) -> str:
        plan = dataclasses.replace(PLAN, estimators=["fqe"], fqe=FQEConfig(hidden=(4,), steps=60), **changes)  # type: ignore[arg-type]
        (fitted,) = evaluate(logged, [target(logged)], plan).policies[0].estimates
        assert fitted.reliable == "unknown"
        return " ".join(fitted.warnings)

    assert "look about 5 steps ahead" in warnings()
    assert "at least 200 are wanted" in warnings()
    assert "look about 10 steps ahead" in warnings(horizon=None)
    assert "steps ahead" not in warnings(discount=0.2, horizon=1)


def test_the_direct_method_beside_fitted_q_evaluation_is_the_same(logged: EpisodeLog) -> None:
    plan = dataclasses.replace(PLAN, estimators=["fqe", "dm"], fqe=FQEConfig(hidden=(4,), steps=60), interval="t")
    one, other = evaluate(logged, [target(logged)], plan).policies[0].estimates
    assert (one.name, other.name) == ("fqe", "dm")
    assert (one.value, one.interval, one.warnings) == (other.value, other.interval, other.warnings)


def test_policies_may_be_given_as_they_are(logged: EpisodeLog) -> None:
    plan = dataclasses.replace(PLAN, estimators=["wis"])
    one, other = evaluate(logged, [TablePolicy(TARGET), target(logged, name="same")], plan).policies
    assert (one.name, other.name) == ("table", "same")
    assert one.estimates[0].value == other.estimates[0].value


def test_a_deterministic_policy_over_continuous_actions() -> None:
    action = np.random.default_rng(0).uniform(-1, 1, (1_000, 1)).astype(np.float32)
    log = dataclasses.replace(
        gaussian_log(100, scale=1.0),
        taken=action,
        reward=-np.square(action[:, 0]).astype(np.float64),
        behavior_log_prob=np.full(1_000, -np.log(2.0)),
    )
    policy = ActionPolicy(lambda seen: seen / 2, name="half")
    plain = policy.choices(log, draws=1, seed=0)
    with pytest.raises(SpaceMismatchError, match=r"no density(.|\n)*--kernel-bandwidth"):
        evaluate(log, [Target("half", plain)], dataclasses.replace(PLAN, estimators=["wis"]))
    found = evaluate(log, [Target("half", plain)], PLAN)
    assert [each.name for each in found.policies[0].estimates] == ["fqe"]
    smoothed = Smoothed(policy, 0.3).choices(log, draws=4, seed=0)
    both = evaluate(
        log, [Target("half", smoothed, unsmoothed=plain)], dataclasses.replace(PLAN, estimators=["wis", "fqe"])
    )
    # Noise of variance about 0.3² costs as much at each of the five steps: −0.09 (1 − 0.9⁵) / 0.1.
    assert both.policies[0].smoothing_bias == pytest.approx(-0.09 * 4.1, abs=0.12)


def test_a_column_alone_gives_no_values(logged: EpisodeLog) -> None:
    taken = target(logged).choices.log_prob
    column = Target("column", Choices(log_prob=taken))
    found = evaluate(logged, [column], PLAN)
    assert [each.name for each in found.policies[0].estimates] == list(WEIGHTED)
    assert "values can't be fitted for column" in found.notes[0]
    with pytest.raises(RequestError, match="values can't be fitted"):
        evaluate(logged, [column], dataclasses.replace(PLAN, estimators=["dr"]))


def test_a_policy_that_does_what_was_never_logged(logged: EpisodeLog) -> None:
    first_only = dataclasses.replace(
        logged, taken=np.zeros_like(logged.action), behavior_log_prob=np.zeros(len(logged.action))
    )
    plan = dataclasses.replace(PLAN, estimators=["wis", "fqe"], fqe=FQEConfig(hidden=(8,), steps=20))
    found = evaluate(first_only, [target(first_only, np.array([[0.0, 1.0]] * 4))], plan)
    (policy,) = found.policies
    assert "100% of what target does are actions that occur nowhere in the log" in policy.warnings[0]
    weighted = policy.estimates[0]
    assert (weighted.value, weighted.reliable) == (None, "no")
    assert "never takes" in weighted.warnings[0]
    assert policy.estimates[1].reliable == "unknown"
    json.dumps(found.to_dict(), allow_nan=False)


def test_several_policies_are_ranked_and_compared_with_the_truth(logged: EpisodeLog) -> None:
    best = np.eye(2)[MDP.values(TARGET, 0.9, 5)[0].argmax(axis=1)]
    mixtures = [share * best + (1 - share) * (1 - best) for share in (0.3, 0.5, 0.8)]
    generator = np.random.default_rng(0)
    targets = [
        dataclasses.replace(
            target(logged, table, str(position)), true_returns=truth(table) + 0.01 * generator.standard_normal(10)
        )
        for position, table in enumerate(mixtures)
    ]
    found = evaluate(logged, targets, dataclasses.replace(PLAN, estimators=["wis", "wdr"]))
    assert found.ranking is not None
    assert found.ranking.estimator == "wdr"
    assert [place.policy for place in found.ranking.places] == [2, 1, 0]
    assert found.agreement is not None
    assert found.agreement.rank_correlation == pytest.approx(1.0)
    by_other = evaluate(logged, targets, dataclasses.replace(PLAN, estimators=["wis", "wpdis"], rank_by="wis"))
    assert by_other.ranking is not None
    assert by_other.ranking.estimator == "wis"
    with pytest.raises(RequestError, match="isn't among the estimators"):
        evaluate(logged, targets, dataclasses.replace(PLAN, estimators=["wis"], rank_by="wdr"))


def test_a_single_episode_and_an_unknown_estimator_are_refused(logged: EpisodeLog) -> None:
    single = MDP.log(BEHAVIOR, 1)
    with pytest.raises(DataError, match="single episode"):
        evaluate(single, [target(single)], PLAN)
    with pytest.raises(RequestError, match="no estimator 'sorcery'"):
        evaluate(logged, [target(logged)], dataclasses.replace(PLAN, estimators=["sorcery"]))


def test_values_that_are_solved_for(logged: EpisodeLog) -> None:
    plan = dataclasses.replace(PLAN, estimators=["mwl", "wis", "lstd"], horizon=None)
    found = evaluate(logged, [target(logged)], plan)
    (policy,) = found.policies
    assert [each.name for each in policy.estimates] == ["mwl", "wis", "lstd"]
    solved = policy.estimates[0]
    everything = float(MDP.start @ MDP.values(TARGET, 0.9)[1])
    assert solved.interval is not None
    assert solved.interval.low <= everything <= solved.interval.high
    assert solved.reliable == "yes"
    student = evaluate(logged, [target(logged)], dataclasses.replace(plan, estimators=["lstd"], interval="t"))
    interval = student.policies[0].estimates[0].interval
    assert interval is not None
    assert interval.method == "t"
    with pytest.raises(RequestError, match="don't depend on time"):
        evaluate(logged, [target(logged)], dataclasses.replace(plan, horizon=5))
    with pytest.raises(RequestError, match="unbiased estimators"):
        evaluate(logged, [target(logged)], dataclasses.replace(plan, estimators=["lstd"], interval="hoeffding"))


@pytest.mark.parametrize(("wrong", "words"), [(0.5, "behavior_log_prob"), (-np.inf, "probability 0"), (np.nan, "NaN")])
def test_logged_probabilities_that_are_none(logged: EpisodeLog, wrong: float, words: str) -> None:
    assert logged.behavior_log_prob is not None
    probabilities = logged.behavior_log_prob.copy()
    probabilities[7] = wrong
    bad = dataclasses.replace(logged, behavior_log_prob=probabilities)
    with pytest.raises(DataError, match=words):
        evaluate(bad, [target(bad)], dataclasses.replace(PLAN, estimators=["wis"]))


def test_rewards_that_are_none(logged: EpisodeLog) -> None:
    reward = logged.reward.copy()
    reward[3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        dataclasses.replace(logged, reward=reward)


def test_values_that_are_linear_in_features_have_no_interval() -> None:
    log = gaussian_log(100, scale=1.0)
    policy = ActionPolicy(lambda seen: seen / 2, name="half")
    plan = dataclasses.replace(PLAN, estimators=["lstd", "mql", "mwl", "dice"], horizon=None)
    for each in evaluate(log, [policy], plan).policies[0].estimates:
        assert each.value is not None
        assert (each.interval, each.standard_error) == (None, None)
        assert each.reliable != "yes"
        assert "linear in features" in each.warnings[0]


def test_values_alone_rank_without_intervals(logged: EpisodeLog) -> None:
    targets = [target(logged, table, name) for name, table in (("one", TARGET), ("other", BEHAVIOR))]
    found = evaluate(logged, targets, dataclasses.replace(PLAN, estimators=["fqe"]))
    assert found.ranking is not None
    assert not found.ranking.has_intervals
    order = np.argsort([-policy.estimates[0].value for policy in found.policies]).tolist()  # type: ignore[operator]
    assert [place.policy for place in found.ranking.places] == order
    assert {(place.low, place.high, place.may_be_best) for place in found.ranking.places} == {(None, None, None)}
    assert any("no interval" in note for note in found.notes)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_reliable_estimator_ranks_before_one_that_nothing_is_known_of(logged: EpisodeLog) -> None:
    targets = [target(logged, table, name) for name, table in (("one", TARGET), ("other", BEHAVIOR))]
    by_weights = evaluate(logged, targets, dataclasses.replace(PLAN, estimators=["fqe", "is"]))
    assert by_weights.ranking is not None
    assert by_weights.ranking.estimator == "is"
    few = MDP.log(BEHAVIOR, 10)
    targets = [target(few, table, name) for name, table in (("one", TARGET), ("other", BEHAVIOR))]
    by_values = evaluate(few, targets, dataclasses.replace(PLAN, estimators=["fqe", "is"]))
    assert by_values.ranking is not None
    assert by_values.ranking.estimator == "fqe"


def test_a_log_whose_episodes_are_all_truncated_is_warned_of() -> None:
    log = dataclasses.replace(MDP.log(BEHAVIOR, 100), terminated=np.zeros(100, bool), truncated=np.ones(100, bool))
    (policy,) = evaluate(log, [target(log)], dataclasses.replace(PLAN, estimators=["is", "dr"], horizon=9)).policies
    assert "All 100 episodes were truncated before the horizon" in policy.warnings[0]
    assert {each.reliable for each in policy.estimates} == {"unknown"}
    shortest = int(log.lengths.min())
    assert f"--horizon {shortest} " in policy.warnings[0]
    within = dataclasses.replace(PLAN, estimators=["is"], horizon=shortest)
    assert evaluate(log, [target(log)], within).policies[0].warnings == ()


def test_a_bad_estimate_of_the_behavior_makes_what_it_weighs_doubtful(logged: EpisodeLog) -> None:
    without = dataclasses.replace(logged, behavior_log_prob=None)
    bad = dataclasses.replace(PLAN.behavior, steps=1, check_every=1, learning_rate=3.0)
    plan = dataclasses.replace(PLAN, estimators=["wis"], may_estimate_behavior=True, behavior=bad)
    found = evaluate(without, [target(without)], plan)
    assert found.behavior.estimated is not None
    assert found.behavior.estimated.warnings
    assert found.policies[0].estimates[0].reliable != "yes"
