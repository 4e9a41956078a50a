"""What a policy would do at the rows of a log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Choices:
    """What a policy does at each of the R + N rows of a log of R steps in N episodes.

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

    @property
    def known_at_states(self) -> bool:
        """Whether it is known what the policy does at each row, rather than of the logged actions alone."""
        return self.probabilities is not None or self.actions is not None

    def at(self, rows: NDArray[Any], steps: NDArray[Any]) -> Choices:
        """The part at some of the rows, and of the actions of some of the steps."""
        return Choices(
            None if self.probabilities is None else self.probabilities[rows],
            None if self.actions is None else self.actions[:, rows],
            None if self.log_prob is None else self.log_prob[steps],
        )
