"""Counts of draws: multinomial, to the last bit of the table that they are drawn by."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy import stats

from offrl.off_policy import draws
from offrl.off_policy.draws import draw_counts


def drawn(resamples: int, things: int, seed: int = 0) -> np.ndarray:
    counts = np.empty((resamples, things), np.uint8)
    draw_counts(counts, (seed, 0))
    return counts


@pytest.mark.parametrize("things", [1, 2, 9, 257, 4_000, 300_000])
def test_every_row_sums_to_the_number_of_draws(things: int) -> None:
    counts = drawn(max(4, 20_000 // things), things)
    assert (counts.sum(axis=1, dtype=np.int64) == things).all()


@pytest.mark.parametrize("deviations", [0.5, draws.DEVIATIONS, 30.0])
def test_rows_are_multinomial(deviations: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are drawn again (half of them at 0.5), and however much of a row is filled up (all at 30)."""
    monkeypatch.setattr(draws, "DEVIATIONS", deviations)
    things, resamples = 4, 200_000
    found = Counter(map(tuple, drawn(resamples, things).tolist()))
    outcomes = [row for row in product(range(things + 1), repeat=things) if sum(row) == things]
    expected = stats.multinomial.pmf(outcomes, things, [1.0 / things] * things) * resamples
    assert stats.chisquare([found[row] for row in outcomes], expected).pvalue > 0.001


@pytest.mark.parametrize("things", [30, 1_000])
def test_counts_are_binomial_each_and_covary_as_they_must(things: int) -> None:
    resamples = 3_000_000 // things
    counts = drawn(resamples, things, seed=1).astype(np.float64)
    groups = np.bincount(np.minimum(counts, 7).astype(np.int64).reshape(-1), minlength=8)
    chances = stats.binom.pmf(np.arange(8), things, 1.0 / things)
    chances[7] = 1.0 - chances[:7].sum()
    assert stats.chisquare(groups, chances * counts.size).pvalue > 0.001
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=4.5 / math.sqrt(resamples))
    assert counts.var() == pytest.approx(1.0 - 1.0 / things, abs=4.5 * math.sqrt(3.0 / counts.size))
    products = np.mean((counts[:, ::2] - 1.0) * (counts[:, 1::2] - 1.0))
    assert products == pytest.approx(-1.0 / things, abs=4.5 / math.sqrt(counts.size / 2))


def test_rows_and_places_are_independent_of_their_neighbors() -> None:
    counts = drawn(1_000, 1_000, seed=2).astype(np.float64) - 1.0
    for shift in (1, 2, 3, 4, 8):
        assert abs(np.mean(counts[:-shift] * counts[shift:])) < 4.5e-3
        assert abs(np.mean(counts[:, :-shift] * counts[:, shift:]) + 1e-3) < 4.5e-3


@pytest.mark.parametrize("mean", [1e-3, 0.05, 0.5, 0.7, 0.99])
def test_the_table_holds_the_poisson_distribution(mean: float) -> None:
    table = draws._poisson(mean)
    whole = np.diff(table.thresholds.astype(np.float64), prepend=0.0) / 2.0**16
    left = 1.0 - table.thresholds[-1] / 2.0**16
    chances = left * np.diff(table.rest, prepend=0.0, append=1.0)
    chances[: len(whole)] += whole
    np.testing.assert_allclose(chances, stats.poisson.pmf(np.arange(len(chances)), mean), atol=1e-15)


def test_the_seed_alone_decides() -> None:
    np.testing.assert_array_equal(drawn(20, 500), drawn(20, 500))
    assert (drawn(20, 500) != drawn(20, 500, seed=1)).any()
