"""What values are fitted to: every observation, action and reward of a log, and what a policy would do there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.errors import DataError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Steps:
    """R steps in N whole episodes, and their R + N observations: T + 1 rows for each episode of T steps.

    Attributes:
        features: float32 [R + N, F]; the observations as vectors, on a common scale.
        action: int64 [R], from 0, of `actions` discrete ones; or float32 [R, A], components within [-1, 1] where the
            action space is bounded.
        reward: float64 [R].
        terminated: bool [R]; where it is true, nothing follows. A truncated episode would have gone on.
        lengths: int64 [N], T of each episode.
        discount: γ, per step.
        horizon: values are of the first so many steps of an episode; None counts all that follow.
        actions: how many discrete actions there are; None where they are continuous.

    Raises:
        DataError: the arrays don't belong together, or a number isn't finite.
    """

    features: NDArray[np.float32]
    action: NDArray[Any]
    reward: Floats
    terminated: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    discount: float
    horizon: int | None = None
    actions: int | None = None

    def __post_init__(self) -> None:
        steps, episodes = int(self.lengths.sum()), len(self.lengths)
        shapes = {len(self.action), len(self.reward), len(self.terminated)}
        if shapes != {steps} or len(self.features) != steps + episodes:
            raise DataError(
                f"{episodes} episodes of {steps} steps in all don't go with {len(self.features)} observations, "
                f"{len(self.action)} actions and {len(self.reward)} rewards",
                hint="give one observation more than actions for each episode",
            )
        for name in ("features", "action", "reward"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f"the log's {name} hold NaN or infinity", hint="offrl datasets validate says where")

    @cached_property
    def episode(self) -> NDArray[np.int64]:
        """Each step's episode, [R]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """The row of each step's observation, [R]; what it led to is in the next one."""
        return np.arange(len(self.reward)) + self.episode

    @cached_property
    def first_row(self) -> NDArray[np.int64]:
        """The row of each episode's first observation, [N]."""
        return np.cumsum(self.lengths + 1) - (self.lengths + 1)

    @cached_property
    def final_row(self) -> NDArray[np.int64]:
        """The row of each episode's last observation, [N]."""
        return self.first_row + self.lengths

    @cached_property
    def time(self) -> NDArray[np.int64]:
        """Steps since the start of the episode, for each row, [R + N]."""
        rows = len(self.features)
        return np.arange(rows) - np.repeat(self.first_row, self.lengths + 1)

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """Whether something that counts follows a step, [R]: neither termination nor the horizon ends the sum there."""
        if self.horizon is None:
            return ~self.terminated
        return ~self.terminated & (self.time[self.row] + 1 < self.horizon)

    def value_bounds(self) -> tuple[float, float]:
        """The least and greatest value that rewards within the logged range allow."""
        low, high = float(self.reward.min()), float(self.reward.max())
        longest = self.horizon or int(self.lengths.max())
        if self.discount < 1.0:
            geometric = (1.0 - self.discount ** (self.horizon or np.inf)) / (1.0 - self.discount)
        else:
            geometric = float(longest)
        # Where no episode ever ends, all rewards count; else some sums are of one reward only.
        ends = bool(self.terminated.any()) or self.horizon is not None
        least = min(low, low * geometric) if ends else low * geometric
        greatest = max(high, high * geometric) if ends else high * geometric
        return least, greatest


@dataclass(frozen=True)
class Choices:
    """What a policy does at each of the rows of a log.

    Attributes:
        probabilities: float32 [R + N, A], of every discrete action; or None.
        actions: float32 [K, R + N, A], K continuous actions drawn for each row (one, if it draws none at random); or
            None.
        log_prob: float64 [R]; log π(a | s) of the logged actions, −∞ where the policy never takes one; None where it
            has no density.
    """

    probabilities: NDArray[np.float32] | None = None
    actions: NDArray[np.float32] | None = None
    log_prob: NDArray[np.float64] | None = None
