"""Quantiles of Student's t, without SciPy."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(64)


@cache
def student_t_quantile(freedom: int, confidence: float) -> float:
    """The t with P(|T| ≤ t) = confidence for `freedom` degrees of freedom."""
    low, high = 0.0, math.pi / 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _central_mass(freedom, middle) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _central_mass(freedom: int, angle: float) -> float:
    """P(|T| ≤ √ν tan(angle)): with t = √ν tan θ the density becomes proportional to cos^{ν-1} θ."""
    log_scale = math.lgamma((freedom + 1) / 2.0) - math.lgamma(freedom / 2.0) - math.log(math.pi) / 2.0
    angles = (_NODES + 1.0) * angle / 2.0
    mass = np.sum(_NODE_WEIGHTS * np.exp((freedom - 1) * np.log(np.cos(angles)) + log_scale)) * angle
    return float(mass)
