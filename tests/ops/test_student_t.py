"""Quantiles of Student's t against SciPy's."""

from __future__ import annotations

import pytest
from scipy import stats

from offrl.ops.student_t import student_t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 7, 199, 100_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_quantiles_of_student_s_t(freedom: int, confidence: float) -> None:
    expected = stats.t.ppf((1.0 + confidence) / 2.0, freedom)
    assert student_t_quantile(freedom, confidence) == pytest.approx(expected, rel=1e-7)
