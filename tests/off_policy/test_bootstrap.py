"""The bootstrap: in blocks of any size, by any number of threads, and in float32 only where that is harmless."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from offrl.off_policy import bootstrap as resampling
from offrl.off_policy.bootstrap import Resampler, counts, resample, resample_means, single_will_do
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimators import ESTIMATORS, Question
from offrl.off_policy.weighted_sums import WeightedSum
from tests.off_policy.logs import random_log

WEIGHTED = ("wis", "wpdis", "wdr")


def sums_of(log: EpisodeLog, names: tuple[str, ...] = ("is", "pdis", *WEIGHTED)) -> list[WeightedSum]:
    question = Question(log)
    return [ESTIMATORS[name].build(question) for name in names]


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
