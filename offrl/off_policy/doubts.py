"""What speaks against an evaluation of a policy, whatever the estimator: one sentence each, or none."""

from __future__ import annotations

import math

import numpy as np

from offrl.off_policy.dataset import Logged
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.transitions import Choices

NEVER_LOGGED_LIMIT = 0.01
"""Probability of actions that occur nowhere in the log from which on it is warned of."""
SPREAD_LIMIT = 0.1
"""Fitted values whose networks differ by more than this share of the value are warned of."""
BACKUPS = 2.0
"""How often, for each step that values look ahead, the target networks should have moved all the way."""


def never_logged(logged: Logged, choices: Choices, name: str) -> list[str]:
    """Whether a policy takes discrete actions that occur nowhere in the log."""
    if choices.probabilities is None or logged.actions is None:
        return []
    never = np.bincount(logged.agent_action, minlength=logged.actions) == 0
    share = float(choices.probabilities[logged.row][:, never].sum(axis=1).mean())
    if share <= NEVER_LOGGED_LIMIT:
        return []
    return [
        f"{share:.0%} of what {name} does are actions that occur nowhere in the log: nothing is known of what they "
        "earn."
    ]


def divided(value: float, spread: float, name: str) -> list[str]:
    """Whether the networks of fitted Q evaluation disagree about the value."""
    if spread <= SPREAD_LIMIT * abs(value):
        return []
    return [
        f"The fitted values of {name} differ by {spread:.3g} from one network to the other: the log doesn't settle "
        "them."
    ]


def unsettled(logged: Logged, discount: float, horizon: int | None, config: FQEConfig) -> list[str]:
    """Whether the target networks of fitted Q evaluation move often enough to carry rewards as far as they count."""
    ahead = np.inf if discount == 1.0 else 1.0 / (1.0 - discount)
    ended = bool(logged.terminated[np.cumsum(logged.lengths) - 1].all())
    if horizon is not None or ended or discount == 1.0:
        ahead = min(ahead, horizon or int(logged.lengths.max()))
    if config.steps * config.target_rate >= BACKUPS * ahead:
        return []
    needed = math.ceil(BACKUPS * ahead / config.target_rate)
    return [
        f"Fitted values look about {ahead:.0f} steps ahead, too far for {config.steps:,} gradient steps: they may not "
        f"have settled (at least {needed:,} are wanted, --fqe-steps)."
    ]
