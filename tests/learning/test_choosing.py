"""What is chosen by a log alone earns more than a random candidate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import offrl
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.plan import Plan
from offrl.off_policy.select_runs import select_policies

SEED = 40
FQE = FQEConfig(hidden=(64, 64), batch_size=64, steps=1_000, target_rate=0.2)


@pytest.mark.learning
def test_the_chosen_checkpoint_swings_up_where_most_candidates_do_not(tmp_path: Path) -> None:
    """Three checkpoints of a clone and three of IQL: the chosen one is among the better half of what they earn."""
    common = {"dataset": "pendulum-replay", "env": "none", "seeds": [SEED], "steps": 3_000, "progress": False}
    for algo, agent in (("bc", {}), ("iql", {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3})):
        offrl.train(
            algo,
            out=tmp_path / algo,
            agent={"hidden": [64, 64], **agent},
            checkpoint_every=1_000,
            checkpoints_kept=3,
            **common,  # type: ignore[arg-type]
        )
    selection = select_policies([tmp_path / "bc", tmp_path / "iql"], "pendulum-replay", Plan(fqe=FQE))
    earned = {
        each.name: offrl.evaluate(each.run, 20, checkpoint=each.checkpoint, env="Pendulum-v1")["mean_return"]
        for each in selection.candidates
    }
    assert earned[selection.chosen.name] > np.mean(list(earned.values())) + 50.0, earned
