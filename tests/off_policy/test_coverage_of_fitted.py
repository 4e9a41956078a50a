"""Coverage of what users run: `evaluate`, with values, and where wanted the behavior, fitted to each log anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from offrl.off_policy.behavior_policy import BehaviorConfig
from offrl.off_policy.estimator import Estimate
from offrl.off_policy.evaluate import evaluate
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.plan import Plan
from tests.off_policy.finite_mdps import FiniteMDP

HORIZON = 4
DISTRACTORS = 6
"""Enough for networks to learn the training episodes by heart: in-sample values then leave nothing to correct."""
PLAN = Plan(
    estimators=("dr", "wdr", "magic", "fqe"),
    discount=0.95,
    horizon=HORIZON,
    resamples=400,
    may_estimate_behavior=True,
    fqe=FQEConfig(hidden=(32,), steps=250, batch_size=64, learning_rate=1e-2, target_rate=0.1),
    behavior=BehaviorConfig(hidden=(16,), steps=240, batch_size=64, learning_rate=5e-3, check_every=20),
)


def mdp(share: float, horizon: int = HORIZON) -> FiniteMDP:
    """Episodes of up to four steps; `share` of the target's actions is in the behavior's, the rest is its own."""
    rng = np.random.default_rng(5)
    states, actions = 4, 3
    target, other = rng.dirichlet(np.full(actions, 3.0), states), rng.dirichlet(np.ones(actions), states)
    behavior = share * target + (1.0 - share) * (0.8 * other + 0.2 / actions)
    transition = rng.dirichlet(np.ones(states), (states, actions))
    transition *= 0.8 + 0.2 * rng.random((states, actions, 1))
    reward = rng.normal(0.5, 1.0, (states, actions))
    return FiniteMDP(rng.dirichlet(np.ones(states)), transition, reward, behavior, target, 0.95, horizon)


LIGHT, HEAVY = mdp(0.75), mdp(0.0)
"""Of 200 episodes, the weights are worth about 190 and 30."""


@dataclass
class Tally:
    """What one estimator's intervals did."""

    reliable: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("yes", "no", "unknown"), 0))
    with_interval: int = 0
    covered: int = 0
    trusted: int = 0
    trusted_covered: int = 0

    def add(self, answer: Estimate, truth: float) -> None:
        self.reliable[answer.reliable] += 1
        if answer.interval is not None:
            covers = answer.interval.low <= truth <= answer.interval.high
            self.with_interval, self.covered = self.with_interval + 1, self.covered + covers
            if answer.reliable == "yes":
                self.trusted, self.trusted_covered = self.trusted + 1, self.trusted_covered + covers


def coverage(model: FiniteMDP, episodes: int, logs: int, plan: Plan, *, estimated: bool) -> dict[str, Tally]:
    """How often intervals hold the truth, over logs of their own, by estimator."""
    tallies: dict[str, Tally] = {}
    for seed in range(logs):
        log = model.recorded(episodes, 1_000 + seed, distractors=DISTRACTORS)
        log = replace(log, behavior_log_prob=None) if estimated else log
        (policy,) = evaluate(log, [model.target_policy()], replace(plan, seed=seed)).policies
        for answer in policy.estimates:
            tallies.setdefault(answer.name, Tally()).add(answer, model.value)
    return tallies


def test_doubly_robust_intervals_cover_where_networks_learn_episodes_by_heart() -> None:
    """By networks that have seen the episodes 29 of 40 do; where 95% do, fewer than 34 have a chance of 1%."""
    tallies = coverage(LIGHT, 50, 40, replace(PLAN, estimators=("dr", "wdr", "fqe")), estimated=False)
    for name in ("dr", "wdr"):
        assert tallies[name].reliable["yes"] == 40
        assert 34 <= tallies[name].covered <= 40, name
    assert tallies["fqe"].with_interval == 0
    assert tallies["fqe"].reliable["unknown"] == 40


@pytest.mark.slow
@pytest.mark.parametrize("estimated", [False, True], ids=["logged", "estimated"])
@pytest.mark.parametrize("weights", ["light", "heavy"])
@pytest.mark.parametrize("episodes", [50, 200])
def test_intervals_cover_or_are_withheld_or_marked(
    episodes: int, weights: str, estimated: bool, record_property: Callable[[str, object], None]
) -> None:
    """200 logs: a share is right to 1.5%."""
    model = {"light": LIGHT, "heavy": HEAVY}[weights]
    tallies = coverage(model, episodes, 200, PLAN, estimated=estimated)
    for name, tally in tallies.items():
        print(f"n={episodes} {weights} {'estimated' if estimated else 'logged'} {name}: {tally}")
        record_property(name, str(tally))
        if name == "fqe":
            assert (tally.with_interval, tally.reliable["yes"]) == (0, 0)
        elif (episodes, weights) == (200, "light"):
            assert 0.90 <= tally.covered / tally.with_interval <= 0.99, (name, tally)
            assert tally.with_interval == 200
            assert estimated or tally.trusted >= 180, (name, tally)
        elif tally.trusted:
            # Less the standard error of such a share: where few are called reliable, some more may miss by chance.
            least = 0.90 - np.sqrt(0.90 * 0.10 / tally.trusted)
            assert tally.trusted_covered / tally.trusted >= least, (name, tally)


@pytest.mark.slow
def test_one_step_intervals_cover() -> None:
    model = mdp(0.5, horizon=1)
    plan = replace(PLAN, estimators=("dr", "switch-dr", "fqe"), horizon=1)
    for name, tally in coverage(model, 200, 200, plan, estimated=False).items():
        print(name, tally)
        if name != "fqe":
            assert tally.trusted == 200
            assert 0.90 <= tally.trusted_covered / 200 <= 0.99, (name, tally)
