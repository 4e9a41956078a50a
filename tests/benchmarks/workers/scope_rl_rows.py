"""scope-rl: its importance sampling estimators with their bootstrap intervals.

Its intervals resample each estimator's terms as they are; ours compute the weighted estimators anew for each resample.
"""

from __future__ import annotations

from measuring import (
    LOG_DISCOUNT,
    LOGGED_EPISODES,
    LOGGED_STEPS,
    RESAMPLES,
    SHORT_EPISODES,
    Window,
    main,
    median_seconds,
    synthetic_choices,
)
from scope_rl.ope.discrete import (
    PerDecisionImportanceSampling,
    SelfNormalizedPDIS,
    SelfNormalizedTIS,
    TrajectoryWiseImportanceSampling,
)


def importance_sampling(window: Window, episodes: int) -> float:
    """Seconds for the values and the intervals of the four estimators."""
    data = synthetic_choices(episodes)
    pscore = data.behavior[range(LOGGED_STEPS), data.action]
    estimators = [
        TrajectoryWiseImportanceSampling(),
        PerDecisionImportanceSampling(),
        SelfNormalizedTIS(),
        SelfNormalizedPDIS(),
    ]

    def work() -> None:
        for estimator in estimators:
            log = {
                "step_per_trajectory": LOGGED_STEPS // episodes,
                "action": data.action,
                "reward": data.reward,
                "pscore": pscore,
                "evaluation_policy_action_dist": data.target,
                "gamma": LOG_DISCOUNT,
            }
            estimator.estimate_policy_value(**log)
            estimator.estimate_interval(**log, n_bootstrap_samples=RESAMPLES, random_state=0)

    return median_seconds(window, work)


if __name__ == "__main__":
    rows = {
        "ope-long": lambda window: importance_sampling(window, LOGGED_EPISODES),
        "ope-short": lambda window: importance_sampling(window, SHORT_EPISODES),
    }
    main(rows, "scope-rl")
