"""One-step estimators beside those of `obp` (0.5.7), where that package is installed."""

from __future__ import annotations

import numpy as np
import pytest

from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimate import estimate

theirs = pytest.importorskip("obp.ope")


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_obp_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rounds, actions, threshold = 2_000, 5, 3.0
    behavior, target = (rng.dirichlet(np.ones(actions), rounds) + 0.02 for _ in range(2))
    behavior /= behavior.sum(axis=1, keepdims=True)
    target /= target.sum(axis=1, keepdims=True)
    action = np.array([rng.choice(actions, p=row) for row in behavior])
    reward = rng.normal(size=rounds)
    values = rng.normal(size=(rounds, actions))
    at = np.arange(rounds), action
    log = EpisodeLog.one_step(
        reward,
        np.log(behavior[at]),
        np.log(target[at]),
        q=values[at],
        v=np.sum(target * values, axis=1),
    )
    ours = estimate(log, ["ips", "snips", "dm", "dr", "switch-dr"], interval=None, switch=threshold)
    found = {answer.name: answer.value for answer in ours}
    arguments = {
        "reward": reward,
        "action": action,
        "pscore": behavior[at],
        "action_dist": target[:, :, np.newaxis],
        "position": np.zeros(rounds, dtype=int),
        "estimated_rewards_by_reg_model": values[:, :, np.newaxis],
    }
    expected = {
        "ips": theirs.InverseProbabilityWeighting(),
        "snips": theirs.SelfNormalizedInverseProbabilityWeighting(),
        "dm": theirs.DirectMethod(),
        "dr": theirs.DoublyRobust(),
        "switch-dr": theirs.SwitchDoublyRobust(threshold),
    }
    for name, estimator in expected.items():
        assert found[name] == pytest.approx(estimator.estimate_policy_value(**arguments), abs=1e-6), name
