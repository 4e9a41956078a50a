"""Estimators by name: offrl's own, and other packages', which the documented example is enough for."""

from __future__ import annotations

import dataclasses
import doctest
import json
import math
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from offrl import plugins
from offrl.errors import PluginError, RequestError
from offrl.off_policy.choices import Choices
from offrl.off_policy.estimate import estimate
from offrl.off_policy.estimator import Estimate, Estimator, Question, Reliability, find_estimator
from offrl.off_policy.evaluate import evaluate
from offrl.off_policy.plan import Plan, Target
from offrl.off_policy.target_policies import TablePolicy
from tests.off_policy.logs import random_log
from tests.off_policy.tabular import BEHAVIOR, TARGET, TabularMDP

LOG = TabularMDP.random(seed=1, limit=5).log(BEHAVIOR, 60)
PLAN = Plan(discount=0.9, resamples=60)


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], None]:
    """Adds what a module of another package holds as `ESTIMATOR`, by an entry point of that name."""

    def adding(name: str, held: dict[str, Any]) -> None:
        module = ModuleType("the_package")
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, "the_package", module)
        entry = EntryPoint(name, "the_package:ESTIMATOR", "offrl.estimators")
        monkeypatch.setattr(plugins, "entries_of", lambda group: [entry] if group == entry.group else [])
        fresh = plugins.Table("estimator", "offrl.estimators", plugins.estimators.own)
        monkeypatch.setattr(plugins, "estimators", fresh)

    return adding


def documented() -> dict[str, Any]:
    """What the example in the record's docstring defines."""
    names: dict[str, Any] = {}
    for example in doctest.DocTestParser().get_examples(Estimator.__doc__ or ""):
        exec(example.source, names)
    return names


@pytest.mark.parametrize("name", list(plugins.estimators.own))
def test_each_of_ours_is_a_record_with_a_line_for_lists(name: str) -> None:
    record = find_estimator(name)
    assert record.summary
    assert "\n" not in record.summary
    assert set(record.needs) <= {"density", "behavior", "policy", "values"}


def test_the_documented_example_is_an_estimator_like_ours(add: Callable[[str, dict[str, Any]], None]) -> None:
    add("cut-ratios", documented())
    log = random_log(3)
    found, weighted = estimate(log, ["cut-ratios", "wis"])
    by_hand = 0.0
    for i in range(log.episodes):
        for t, row in enumerate(range(log.offsets[i], log.offsets[i + 1])):
            ratio = math.exp(log.target_log_prob[row]) / math.exp(log.behavior_log_prob[row])
            by_hand += min(ratio, 1.0) * 0.9**t * log.reward[row] / log.episodes
    assert found.value == pytest.approx(by_hand)
    assert (found.name, weighted.name) == ("cut-ratios", "wis")
    assert found.interval is not None
    assert found.interval.low < by_hand < found.interval.high
    (alone,) = estimate(log, ["wis"])
    assert alone.interval == weighted.interval


def test_another_package_s_estimator_goes_all_the_way(add: Callable[[str, dict[str, Any]], None]) -> None:
    add("cut-ratios", documented())
    policies = [TablePolicy(TARGET, "one"), TablePolicy(BEHAVIOR, "other")]
    plan = dataclasses.replace(PLAN, estimators=["cut-ratios"])
    found = evaluate(LOG, policies, plan)
    assert [each.name for policy in found.policies for each in policy.estimates] == ["cut-ratios"] * 2
    assert found.ranking is not None
    assert found.ranking.estimator == "cut-ratios"
    json.dumps(found.to_dict(), allow_nan=False)
    with pytest.raises(RequestError, match="doesn't say how probable"):
        evaluate(dataclasses.replace(LOG, behavior_log_prob=None), policies, plan)
    usual = evaluate(
        LOG, policies[:1], dataclasses.replace(PLAN, interval="t", fqe=dataclasses.replace(PLAN.fqe, steps=9))
    )
    assert "cut-ratios" not in [each.name for each in usual.policies[0].estimates]


def test_a_whole_estimate_is_an_answer_too_and_what_is_needed_is_asked_for(
    add: Callable[[str, dict[str, Any]], None],
) -> None:
    def first_action(question: Question) -> Estimate:
        choices = question.log.choices
        assert choices is not None
        assert choices.probabilities is not None
        shares = choices.probabilities[question.log.first_row, 0].astype(np.float64)
        return Estimate("whatever", float(shares.mean()), shares)

    add("first", {"ESTIMATOR": Estimator("the share of the first action", first_action, needs=("policy",))})
    plan = dataclasses.replace(PLAN, estimators=["first"])
    (policy,) = evaluate(LOG, [TablePolicy(np.array([0.3, 0.7]))], plan).policies
    assert policy.estimates[0].name == "first"
    assert policy.estimates[0].value == pytest.approx(0.3)
    assert policy.diagnostics is None
    with pytest.raises(RequestError, match="values can't be fitted for column"):
        evaluate(LOG, [Target("column", Choices(log_prob=LOG.behavior_log_prob))], plan)


def test_a_name_that_is_none_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean wpdis"):
        estimate(random_log(), ["wpdsi"])


def test_an_entry_that_is_no_estimator_is_told(add: Callable[[str, dict[str, Any]], None]) -> None:
    add("broken", {"ESTIMATOR": lambda rewards: rewards.mean()})
    with pytest.raises(PluginError, match="'broken' is a function, and not an Estimator"):
        estimate(random_log(), ["broken"])
    assert estimate(random_log(), ["is"])[0].name == "is"


@pytest.mark.parametrize(("reliable", "holds"), [("yes", True), ("no", False), ("unknown", False)])
def test_only_what_is_reliable_holds_as_a_condition(reliable: str, holds: bool) -> None:
    assert bool(Reliability(reliable)) is holds
    assert Reliability(reliable) == reliable
