"""Rankings: their intervals hold together, and what is said beside the truth."""

from __future__ import annotations

import numpy as np
import pytest

from offrl.errors import RequestError
from offrl.off_policy.estimator import Estimate
from offrl.off_policy.ranking import agreement, rank, rank_correlation


def of(*contributions: np.ndarray) -> list[Estimate]:
    return [Estimate("wdr", float(each.mean()), each) for each in contributions]


def test_the_best_is_first_and_the_hopeless_are_told() -> None:
    generator = np.random.default_rng(0)
    shared = generator.standard_normal(200)
    ranking = rank(of(shared, shared + 0.001 * generator.standard_normal(200), shared - 1.0), confidence=0.95)
    assert ranking.places[-1].policy == 2
    assert [place.may_be_best for place in ranking.places] == [True, True, False]
    assert all(place.low < place.value < place.high for place in ranking.places)


def test_intervals_hold_together() -> None:
    """Five independent means: all five intervals hold the truth in about 90% of the logs, each alone in more."""
    generator = np.random.default_rng(1)
    whole, single, repetitions = 0, 0, 300
    for repetition in range(repetitions):
        rows = generator.standard_normal((5, 60))
        ranking = rank(of(*rows), confidence=0.9, resamples=200, seed=repetition)
        held = [place.low <= 0.0 <= place.high for place in ranking.places]
        whole += all(held)
        single += sum(held)
    assert 0.83 <= whole / repetitions <= 0.95
    assert single / (5 * repetitions) > 0.95


def test_unsure_estimators_do_not_say_who_may_be_best() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 10))
    assert [place.may_be_best for place in rank(of(*rows), confidence=0.9, sure=False).places] == [None, None]


def test_equal_contributions_give_no_width() -> None:
    ranking = rank(of(np.ones(5), np.full(5, 2.0)), confidence=0.9)
    assert [(place.low, place.high) for place in ranking.places] == [(2.0, 2.0), (1.0, 1.0)]


def test_agreement_with_the_truth() -> None:
    ranking = rank(of(np.array([1.0, 1.2]), np.array([3.0, 3.2]), np.array([2.0, 2.2])), confidence=0.9)
    found = agreement(ranking, [5.0, 7.0, 9.0])
    assert found.rank_correlation == pytest.approx(0.5)
    assert found.regret == (2.0, 0.0, 0.0)
    assert found.to_dict() == {"rank_correlation": pytest.approx(0.5), "regret": {"1": 2.0, "2": 0.0, "3": 0.0}}


def test_rank_correlation_is_spearmans() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    one, other = generator.integers(0, 5, (2, 30)).astype(float)
    assert rank_correlation(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert rank_correlation(np.ones(3), np.arange(3.0)) is None


def test_policies_without_a_value_are_refused() -> None:
    with pytest.raises(RequestError, match="can't be ranked by wdr"):
        rank([*of(np.ones(3)), Estimate("wdr", None, np.empty(0))], confidence=0.9)


def test_values_without_contributions_are_ordered_alone() -> None:
    estimates = [Estimate("fqe", value, np.empty(0), warnings=("No interval.",)) for value in (1.0, 3.0, 2.0)]
    ranking = rank(estimates, confidence=0.9)
    assert [(place.policy, place.value) for place in ranking.places] == [(1, 3.0), (2, 2.0), (0, 1.0)]
    assert not ranking.has_intervals


def test_intervals_of_values_whose_squares_are_no_numbers() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 50))
    one, other = (rank(of(*(scale * rows)), confidence=0.9) for scale in (1.0, 1e200))
    for place, scaled in zip(one.places, other.places, strict=True):
        assert (scaled.low, scaled.high) == pytest.approx((1e200 * place.low, 1e200 * place.high))  # type: ignore[operator]
