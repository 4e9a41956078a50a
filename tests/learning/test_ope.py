"""Off-policy evaluation ranks policies as they turn out to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from offrl.config.recipe import recipe_from_dict
from offrl.off_policy.evaluate_runs import Acting, Trial, evaluate_policies
from offrl.off_policy.plan import Plan
from offrl.training.run_training import train

pytestmark = pytest.mark.learning

STEPS = (256, 512, 1_024, 2_048, 12_288)


def test_policies_of_cartpole_are_ranked_from_the_logs_of_another(tmp_path: Path) -> None:
    """Five PPO runs cut off early and late, valued from what a DQN tried out while it learned."""
    paths = []
    for steps in STEPS:
        ppo = {
            "algo": "ppo",
            "env": "CartPole-v1",
            "steps": steps,
            "agent": {
                "rollout_steps": 32,
                "minibatch_size": 64,
                "actor_learning_rate": 1e-3,
                "critic_learning_rate": 1e-3,
            },
            "online": {"environments": 8},
            "evaluation": {"every": 0, "final_episodes": 1},
        }
        paths.append(train(recipe_from_dict(ppo), tmp_path / f"ppo-{steps}").path)
    plan = Plan(estimators=["wdr", "fqe"], rank_by="fqe", may_estimate_behavior=True)
    found = evaluate_policies(paths, "cartpole-replay", plan, Acting(stochastic=True), trial=Trial("CartPole-v1", 50))
    assert found.agreement is not None
    assert found.agreement.rank_correlation is not None
    assert found.agreement.rank_correlation > 0.79
    for policy in found.policies:
        estimate = policy.estimate("fqe")
        assert estimate is not None
        assert policy.truth is not None
        assert estimate.value == pytest.approx(policy.truth.value, rel=0.2)
