"""What an estimator answers: a value, how sure it is, and whether to believe it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offrl.off_policy.episode_log import Array


@dataclass(frozen=True)
class Interval:
    """Where the policy's value lies, with the confidence named.

    Attributes:
        low, high: its ends, in units of the return.
        confidence: nominal coverage, as 0.95.
        method: how it was made, as "bootstrap-bca".
    """

    low: float
    high: float
    confidence: float
    method: str


@dataclass(frozen=True)
class Clipping:
    """What cutting the weights did.

    Attributes:
        threshold: no weight is above it.
        share: of the weights, how many were.
        bias: the clipped estimate less the one without clipping: an estimate of the bias that clipping brings, as
            noisy as the weights that it cuts. None where the estimate without clipping isn't a number.
    """

    threshold: float
    share: float
    bias: float | None


@dataclass(frozen=True, eq=False)
class Estimate:
    """One estimator's answer.

    Attributes:
        name: the estimator, as "wdr".
        value: the target policy's value; None where the log can't tell, and then `warnings` says why.
        contributions: [N], one term for each episode, whose mean is the value; of self-normalized estimators the value
            plus the linearized influence of the episode; of MAGIC, WDR's moved to its value. Empty where there is no
            value.
        interval: None where none can be given.
        effective_sample_size: how many episodes of the target policy the weighted log is worth; None without weights.
        largest_weight_share: the share of all weight on the heaviest episode; None without weights.
        clipping: None where weights were not cut.
        reliable: False where the answer shouldn't be used; `warnings` says why.
        warnings: what the reader must know, one sentence each.
    """

    name: str
    value: float | None
    contributions: Array = field(repr=False)
    interval: Interval | None = None
    effective_sample_size: float | None = None
    largest_weight_share: float | None = None
    clipping: Clipping | None = None
    reliable: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def standard_error(self) -> float | None:
        """Of the value, from the spread of the contributions; None with fewer than two."""
        count = len(self.contributions)
        return float(np.std(self.contributions, ddof=1)) / math.sqrt(count) if count > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, none of them NaN or infinite; without the contributions."""
        return {
            "name": self.name,
            "value": self.value,
            "standard_error": self.standard_error,
            "interval": None if self.interval is None else vars(self.interval).copy(),
            "effective_sample_size": self.effective_sample_size,
            "largest_weight_share": self.largest_weight_share,
            "clipping": None if self.clipping is None else vars(self.clipping).copy(),
            "reliable": self.reliable,
            "warnings": list(self.warnings),
        }
