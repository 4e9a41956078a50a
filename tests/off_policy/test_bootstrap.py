"""The bootstrap: in blocks of any size, by any number of threads, and in float32 only where that is harmless."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from offrl.off_policy import bootstrap as resampling
from offrl.off_policy.bootstrap import Resampler, counts, draw_counts, resample, resample_means
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimator import Question, find_estimator
from offrl.off_policy.weighted_sums import WeightedSum, single_will_do
from tests.off_policy.logs import random_log

WEIGHTED = ("wis", "wpdis", "wdr")


def sums_of(log: EpisodeLog, names: tuple[str, ...] = ("is", "pdis", *WEIGHTED)) -> list[WeightedSum]:
    question = Question(log)
    return [find_estimator(name).answer(question) for name in names]


def both(log: EpisodeLog, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimates in float32 and in float64."""
    single, double = (
        Resampler(sums_of(log), log.longest_first, dtype).estimates(drawn) for dtype in (torch.float32, torch.float64)
    )
    return single, double


def test_what_is_drawn_does_not_depend_on_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "DRAWS_AT_ONCE", 700)
    found = []
    for threads in (1, 5):
        monkeypatch.setattr(resampling.os, "cpu_count", lambda threads=threads: threads)
        found.append(np.concatenate(list(counts(200, 50, 3))))
    np.testing.assert_array_equal(*found)
    assert len({row.tobytes() for row in found[0]}) == 50


@pytest.mark.parametrize("longest", [1, 9])
def test_sizes_of_blocks_change_nothing(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log = random_log(1, episodes=60, longest=longest, cut=True)
    drawn = np.concatenate(list(counts(60, 30, 0)))
    expected = Resampler(sums_of(log), log.longest_first, torch.float64).estimates(drawn)
    for name, size in (("EPISODES_AT_ONCE", 7), ("COLUMNS_AT_ONCE", 5), ("NARROW", 2)):
        monkeypatch.setattr(resampling, name, size)
        found = Resampler(sums_of(log), log.longest_first, torch.float64).estimates(drawn)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_means_are_those_of_the_same_resamples() -> None:
    log = random_log(2)
    item = sums_of(log, ("pdis",))[0]
    drawn = resample([item], log.longest_first, resamples=70, seed=4)
    means = resample_means(item.contributions[log.longest_first, np.newaxis], resamples=70, seed=4)
    np.testing.assert_allclose(drawn, means, rtol=1e-5, atol=1e-6)


def test_equal_episodes_have_nothing_to_resample() -> None:
    log = EpisodeLog.one_step(np.full(30, 2.0), np.zeros(30), np.zeros(30))
    np.testing.assert_array_equal(resample(sums_of(log, ("is", "wis")), log.longest_first, resamples=50, seed=0), 2.0)


def far_off(log: EpisodeLog) -> EpisodeLog:
    return replace(log, reward=log.reward + 1e7)


def rising(log: EpisodeLog) -> EpisodeLog:
    return replace(log, reward=log.reward + 50.0 * log.episode / log.episodes)


def sometimes_impossible(log: EpisodeLog) -> EpisodeLog:
    target = log.target_log_prob.copy()
    target[log.offsets[:-1][::2]] = -np.inf
    return replace(log, target_log_prob=target)


@pytest.mark.parametrize("change", [None, far_off, rising, sometimes_impossible])
def test_float32_loses_far_less_than_the_estimates_differ_by(
    change: Callable[[EpisodeLog], EpisodeLog] | None,
) -> None:
    log = random_log(3, episodes=30_000, longest=6, cut=True)
    log = log if change is None else change(log)
    assert all(map(single_will_do, sums_of(log)))
    single, double = both(log, np.concatenate(list(counts(log.episodes, 60, 0))))
    assert (np.abs(single - double).max(axis=0) < 1e-3 * double.std(axis=0)).all()


def spread(log: EpisodeLog, nats: float) -> EpisodeLog:
    """The first half of the episodes weighs so much less than the others do."""
    target = log.target_log_prob.copy()
    target[log.offsets[: log.episodes // 2]] -= nats
    return replace(log, target_log_prob=target)


def test_it_is_float64_where_weights_are_too_far_apart_for_float32() -> None:
    log = random_log(4, episodes=20, longest=1)
    for nats, enough in ((10.0, True), (60.0, False), (1_000.0, False)):
        wide = spread(log, nats)
        assert all(map(single_will_do, sums_of(wide, WEIGHTED))) is enough
        # Of a resample without heavy episodes: the light ones alone.
        drawn = np.zeros((1, 20), np.uint8)
        drawn[0, :10] = 2
        found = Resampler(sums_of(wide, ("wis",)), wide.longest_first).estimates(drawn)[0, 0]
        light = np.exp(log.target_log_prob - log.behavior_log_prob)[:10]
        assert found == pytest.approx(light @ log.reward[:10] / light.sum(), rel=1e-6)


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e6, 1e40])
def test_the_unit_of_the_reward_does_not_matter(factor: float) -> None:
    log = random_log(5)
    expected = resample(sums_of(log, ("pdis", "wpdis")), log.longest_first, resamples=60, seed=0)
    scaled = replace(log, reward=factor * log.reward)
    found = resample(sums_of(scaled, ("pdis", "wpdis")), log.longest_first, resamples=60, seed=0)
    np.testing.assert_allclose(found / factor, expected, rtol=1e-4, atol=1e-5)


def test_it_is_float64_where_steps_cancel() -> None:
    log = random_log(6, episodes=300, longest=2)
    log = replace(log, target_log_prob=log.behavior_log_prob, horizon=None)
    two = log.offsets[:-1][log.lengths == 2]
    for size, enough in ((1.0, True), (1e5, False)):
        noise = size * np.random.default_rng(0).normal(size=len(two))
        reward = log.reward.copy()
        reward[two] += noise
        reward[two + 1] -= noise / log.discount
        (item,) = sums_of(replace(log, reward=reward), ("wpdis",))
        assert single_will_do(item) is enough


def test_resamples_without_weight_are_no_number_in_either() -> None:
    log = random_log(7, episodes=20, longest=1)
    target = np.full(20, -np.inf)
    target[3] = log.target_log_prob[3]
    drawn = np.ones((2, 20), np.uint8)
    drawn[1, 3] = 0
    for dtype in (torch.float32, torch.float64):
        items = sums_of(replace(log, target_log_prob=target), ("wis",))
        found = Resampler(items, log.longest_first, dtype).estimates(drawn)[:, 0]
        assert found[0] == pytest.approx(log.reward[3], rel=1e-6)
        assert np.isnan(found[1])


def drawn(resamples: int, things: int, seed: int = 0) -> np.ndarray:
    counts = np.empty((resamples, things), np.uint8)
    draw_counts(counts, (seed, 0))
    return counts


@pytest.mark.parametrize("things", [1, 2, 9, 257, 4_000, 300_000])
def test_every_row_sums_to_the_number_of_draws(things: int) -> None:
    counts = drawn(max(4, 20_000 // things), things)
    assert (counts.sum(axis=1, dtype=np.int64) == things).all()


@pytest.mark.parametrize("deviations", [0.5, resampling.DEVIATIONS, 30.0])
def test_rows_are_multinomial(deviations: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are drawn again (half of them at 0.5), and however much of a row is filled up (all at 30)."""
    monkeypatch.setattr(resampling, "DEVIATIONS", deviations)
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
    table = resampling._poisson(mean)
    whole = np.diff(table.thresholds.astype(np.float64), prepend=0.0) / 2.0**16
    left = 1.0 - table.thresholds[-1] / 2.0**16
    chances = left * np.diff(table.rest, prepend=0.0, append=1.0)
    chances[: len(whole)] += whole
    np.testing.assert_allclose(chances, stats.poisson.pmf(np.arange(len(chances)), mean), atol=1e-15)


def test_the_seed_alone_decides() -> None:
    np.testing.assert_array_equal(drawn(20, 500), drawn(20, 500))
    assert (drawn(20, 500) != drawn(20, 500, seed=1)).any()
