"""What is refused for want of something, and hints that name what would work in its place."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from offrl.errors import RequestError
from offrl.off_policy.choices import Choices
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.evaluate import evaluate
from offrl.off_policy.plan import Plan, Target
from offrl.off_policy.target_policies import ActionPolicy, TablePolicy
from offrl.types import Spec
from tests.off_policy.tabular import BEHAVIOR, TARGET, TabularMDP
from tests.off_policy.test_behavior_policy import gaussian_log

PLAN = Plan(discount=0.9, horizon=5, resamples=60)


@pytest.fixture(scope="module")
def logged() -> EpisodeLog:
    return TabularMDP.random(seed=1, limit=5).log(BEHAVIOR, 40)


def target(logged: EpisodeLog) -> Target:
    return Target("target", TablePolicy(TARGET).choices(logged, draws=1, seed=0))


def hint(log: EpisodeLog, targets: list[Target], **changes: object) -> str:
    with pytest.raises(RequestError) as refused:
        evaluate(log, targets, dataclasses.replace(PLAN, **changes))  # type: ignore[arg-type]
    return refused.value.hint or ""


def test_hints_name_what_would_work_for_this_log_and_these_policies(logged: EpisodeLog) -> None:
    column = Target("column", Choices(log_prob=target(logged).choices.log_prob))
    assert hint(logged, [column], estimators=["dr"]).endswith("choose --estimators is,wis,pdis,wpdis")
    silent = dataclasses.replace(logged, behavior_log_prob=None)
    assert hint(silent, [target(silent)], estimators=["dr"]).endswith("or choose --estimators fqe")
    assert "--estimators" not in hint(silent, [column], estimators=["is"])
    assert "fqe" not in hint(silent, [column], estimators=["fqe"])

    continuous = gaussian_log(20, scale=1.0)
    half = ActionPolicy(lambda seen: seen / 2, name="half").choices(continuous, draws=1, seed=0)
    plain = hint(continuous, [Target("half", half)], estimators=["wis"])
    assert "--kernel-bandwidth 0.2 and --estimate-behavior" in plain
    assert "--stochastic" not in plain
    assert "--stochastic" in hint(continuous, [Target("half", half, could_sample=True)], estimators=["wis"])
    assert hint(logged, [target(logged)], estimators=["snips"]).startswith("choose --estimators is,wis")


def test_estimators_for_single_decisions_are_refused_before_anything_is_fitted(
    logged: EpisodeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offrl.off_policy.evaluate.fit_q", None)
    with pytest.raises(RequestError, match="single decisions"):
        evaluate(logged, [target(logged)], dataclasses.replace(PLAN, estimators=["switch-dr"]))
    with pytest.raises(RequestError, match="wdr is biased"):
        evaluate(logged, [target(logged)], dataclasses.replace(PLAN, estimators=["wdr"], interval="hoeffding"))


def test_behavior_of_several_choices_at_once_cannot_be_estimated() -> None:
    space = gym.spaces.MultiDiscrete([2, 2])
    count = 40
    log = EpisodeLog(
        np.ones(count),
        None,
        None,
        np.arange(count + 1),
        np.ones(count, bool),
        np.zeros(count, bool),
        spaces=Spec(gym.spaces.Box(-1, 1, (1,)), space),
        observations=np.zeros((2 * count, 1), np.float32),
        taken=np.zeros((count, 2), np.int64),
    )
    logits = Target("joint", Choices(log_prob=np.zeros(count)))
    told = hint(log, [logits], estimators=["ips"], may_estimate_behavior=True)
    assert "--map behavior_prob" in told
    assert "--estimate" not in told
