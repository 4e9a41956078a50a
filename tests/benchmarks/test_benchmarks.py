"""The performance targets, measured side by side with the libraries whose environments are there."""

from __future__ import annotations

import statistics
from functools import lru_cache

import pytest

from tests.benchmarks.make_peers import default_root
from tests.benchmarks.rows import ROWS, Comparison, Row
from tests.benchmarks.run import Result, measure, why_absent

pytestmark = pytest.mark.benchmark

AGAINST_OTHERS = [
    pytest.param(row, comparison, id=f"{row.name}-{comparison.other.label}")
    for row in ROWS.values()
    for comparison in row.comparisons
    if comparison.target is not None
]
WITH_LIMIT = [pytest.param(row, id=row.name) for row in ROWS.values() if row.limit is not None]


@lru_cache
def measured(row: Row) -> Result:
    return measure(row, repeats=5, seconds=3.0, root=default_root())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("row", "comparison"), AGAINST_OTHERS)
def test_faster_than_the_other_by_the_target(row: Row, comparison: Comparison) -> None:
    if reason := why_absent(comparison.other, default_root()):
        pytest.skip(reason)
    ratios = measured(row).ratios(comparison)
    assert comparison.target is not None
    assert statistics.median(ratios) >= comparison.target, f"turn by turn: {ratios}"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("row", WITH_LIMIT)
def test_within_the_limit(row: Row) -> None:
    result = measured(row)
    ours = row.comparisons[0].ours
    assert row.limit is not None
    if row.less_is_better:
        assert result.median(ours) < row.limit, f"turn by turn: {result.figures[ours]}"
    else:
        assert result.median(ours) >= row.limit, f"turn by turn: {result.figures[ours]}"
