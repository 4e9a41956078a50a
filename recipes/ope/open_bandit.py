"""Open Bandit logs: add what Thompson sampling would have shown to the table, and ask obp for its value.

    python open_bandit.py prepare table.csv    the uniformly random policy's log, with columns bts_0 … bts_79
    python open_bandit.py compare              what obp estimates, and what Thompson sampling earned in its own log

Needs obp, which ships the logs; README.md beside this file says how to install it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import obp
import pandas as pd
from obp.ope import (
    DirectMethod,
    DoublyRobust,
    InverseProbabilityWeighting,
    RegressionModel,
    SelfNormalizedInverseProbabilityWeighting,
)
from obp.policy import BernoulliTS
from sklearn.linear_model import LogisticRegression

POSITIONS, SIMULATIONS = 3, 100_000


def thompson_sampling(actions: int) -> np.ndarray:
    """Probability of each item at each position, [actions, positions]: it depends on nothing else."""
    policy = BernoulliTS(
        n_actions=actions, len_list=POSITIONS, is_zozotown_prior=True, campaign="all", random_state=12345
    )
    return policy.compute_batch_action_dist(n_sim=SIMULATIONS, n_rounds=1)[0]


def read(policy: str) -> pd.DataFrame:
    """The log of the uniformly random policy ("random") or of Thompson sampling ("bts")."""
    return pd.read_csv(Path(obp.__file__).parent / "dataset" / "obd" / policy / "all" / "all.csv", index_col=0)


def places(table: pd.DataFrame) -> np.ndarray:
    """Positions on the page, from 0."""
    return np.unique(table["position"], return_inverse=True)[1]


def prepare(destination: Path) -> None:
    """Write the log with the probabilities of all items at the position that was filled."""
    table = read("random")
    probabilities = thompson_sampling(int(table["item_id"].max()) + 1)[:, places(table)].T
    columns = [f"bts_{item}" for item in range(probabilities.shape[1])]
    pd.concat([table, pd.DataFrame(probabilities, table.index, columns)], axis=1).to_csv(destination, index=False)


def compare() -> None:
    """Print obp's estimates with their bootstrap intervals."""
    table, own = read("random"), read("bts")
    users = pd.get_dummies(table[[f"user_feature_{i}" for i in range(4)]]).to_numpy(float)
    actions = int(table["item_id"].max()) + 1
    data = {
        "reward": table["click"].to_numpy(),
        "action": table["item_id"].to_numpy(),
        "position": places(table),
    }
    weighted = {"pscore": table["propensity_score"].to_numpy()}
    model = RegressionModel(n_actions=actions, len_list=POSITIONS, base_model=LogisticRegression(max_iter=1000, C=100))
    values = model.fit_predict(context=users, **data, **weighted, n_folds=3, random_state=12345)
    fitted = {"estimated_rewards_by_reg_model": values}
    data["action_dist"] = np.tile(thompson_sampling(actions), (len(table), 1, 1))
    estimators = {
        "ips": (InverseProbabilityWeighting(), weighted),
        "snips": (SelfNormalizedInverseProbabilityWeighting(), weighted),
        "dm": (DirectMethod(), fitted),
        "dr": (DoublyRobust(), weighted | fitted),
    }
    for name, (estimator, more) in estimators.items():
        value = estimator.estimate_policy_value(**data, **more)
        interval = estimator.estimate_interval(**data, **more, n_bootstrap_samples=1000, random_state=12345)
        low, high = interval["95.0% CI (lower)"], interval["95.0% CI (upper)"]
        print(f"{name:<6} {value:.6f}  {low:.6f} to {high:.6f}")
    error = own["click"].std() / len(own) ** 0.5
    print(f"{'truth':<6} {own['click'].mean():.6f} ± {error:.6f}  (clicks in {len(own):,} rounds of its own log)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]:
        prepare(Path(sys.argv[2]))
    else:
        compare()
