"""The range of one episode's contribution, which intervals that hold for every number of episodes need to know."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from offrl.errors import DataError, RequestError
from offrl.off_policy.episode_log import Array, EpisodeLog
from offrl.off_policy.intervals import Ends


@dataclass(frozen=True)
class Bounds:
    """What is known before looking at the log.

    Attributes:
        reward: the lowest and the highest that a step can earn.
        weight: the largest that the product of an episode's ratios can be after any number of its steps; with logs of
            discrete actions (1 / the behavior's lowest probability) to the power of the horizon will do.
    """

    reward: tuple[float, float]
    weight: float

    def __post_init__(self) -> None:
        low, high = self.reward
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise RequestError(
                f"the bounds of the reward are {low} and {high}", hint="give the lowest, then the highest"
            )
        if not (math.isfinite(self.weight) and self.weight >= 1.0):
            raise RequestError(
                f"the bound of the weight is {self.weight}", hint="give at least 1: weights average 1, so one is above"
            )

    def of_return(self, log: EpisodeLog) -> Ends:
        """The range of Σ_t γ^t r_t, given that an episode may end at any step.

        Raises:
            RequestError: without a horizon and with γ = 1 there is none.
        """
        steps = _discounted_steps(log)
        low, high = self.reward
        return min(0.0, low) * steps, max(0.0, high) * steps

    def of_contribution(self, log: EpisodeLog, *, with_values: bool) -> Ends:
        """The range of an episode's term in IS or PDIS, or in DR.

        A weighted return lies between the weight's bound times the return's. In DR, V̂ and Q̂ have to lie within the
        return's range, and δ = r + γ V̂ - Q̂ then does in one that follows from theirs.

        Raises:
            RequestError: without a horizon and with γ = 1 there is none.
            DataError: a value lies outside of the return's range.
        """
        low, high = self.of_return(log)
        if not with_values:
            return self.weight * low, self.weight * high
        for name, values in (("v", log.v), ("q", log.q), ("v_final", log.v_final)):
            assert values is not None
            _require_within(values, low, high, name, "clip the values to the range of the return")
        steps = self.weight * _discounted_steps(log)
        least = self.reward[0] + log.discount * low - high
        most = self.reward[1] + log.discount * high - low
        return low + steps * least, high + steps * most

    def check(self, log: EpisodeLog, contributions: Array, ends: Ends) -> None:
        """Refuse bounds that the log itself breaks.

        Raises:
            DataError: a reward or a contribution lies outside.
        """
        _require_within(log.reward, *self.reward, "reward", "give the reward's true bounds")
        _require_within(contributions, *ends, "weight", "give the weight's true bound")


def _discounted_steps(log: EpisodeLog) -> float:
    """Σ_{t < horizon} γ^t; 1 where every episode is a single decision."""
    if log.is_one_step:
        return 1.0
    if log.discount < 1.0:
        cut = 0.0 if log.horizon is None else log.discount**log.horizon
        return (1.0 - cut) / (1.0 - log.discount)
    if log.horizon is not None:
        return float(log.horizon)
    raise RequestError(
        "the return has no bounds: nothing is discounted, and no horizon ends the episodes",
        where="horizon",
        hint="give a horizon, or a discount below 1",
    )


def _require_within(values: Array, low: float, high: float, name: str, hint: str) -> None:
    slack = 1e-9 * max(abs(low), abs(high), 1.0)
    if outside := int(np.sum((values < low - slack) | (values > high + slack))):
        raise DataError(
            f"{outside} of {len(values)} values go beyond the bounds that were given for them", where=name, hint=hint
        )
