"""What holds for every log."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.estimate import estimate
from tests.off_policy.logs import random_log, take

WEIGHTED = ("wis", "wpdis", "wdr")
SAMPLING = ("is", "wis", "pdis", "wpdis")
ALL = (*SAMPLING, "dm", "dr", "wdr")

logs = st.builds(
    random_log, st.integers(0, 10_000), episodes=st.integers(2, 30), longest=st.integers(1, 12), cut=st.booleans()
)


def values(log: EpisodeLog, names: tuple[str, ...] = ALL, **options: float) -> dict[str, float]:
    answers = estimate(log, names, interval=None, **options)  # type: ignore[arg-type]
    return {answer.name: answer.value for answer in answers if answer.value is not None}


@settings(max_examples=40, deadline=None)
@given(logs)
def test_of_the_behavior_itself_each_is_the_mean_return(log: EpisodeLog) -> None:
    same = replace(log, target_log_prob=log.behavior_log_prob)
    for name, value in values(same, SAMPLING).items():
        assert value == pytest.approx(log.returns.mean(), abs=1e-9), name


@settings(max_examples=40, deadline=None)
@given(logs, st.integers(0, 2**32 - 1))
def test_the_order_of_the_episodes_does_not_matter(log: EpisodeLog, seed: int) -> None:
    shuffled = take(log, np.random.default_rng(seed).permutation(log.episodes).tolist())
    assert values(shuffled) == pytest.approx(values(log), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(logs)
def test_every_episode_twice_changes_nothing(log: EpisodeLog) -> None:
    assert values(take(log, [*range(log.episodes)] * 2)) == pytest.approx(values(log), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(logs, st.floats(-5.0, 5.0), st.floats(-10.0, 10.0))
def test_scale_goes_through_and_where_weighted_a_constant_does(log: EpisodeLog, scale: float, constant: float) -> None:
    assert log.q is not None
    assert log.v is not None
    assert log.v_final is not None
    scaled = replace(log, reward=scale * log.reward, q=scale * log.q, v=scale * log.v, v_final=scale * log.v_final)
    before = values(log)
    assert values(scaled) == pytest.approx({name: scale * value for name, value in before.items()}, abs=1e-8)
    first = log.reward.copy()
    first[log.offsets[:-1]] += constant
    moved = values(replace(log, reward=first), ("wis", "wpdis"))
    assert moved == pytest.approx({name: before[name] + constant for name in moved}, abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(logs)
def test_wis_lies_within_the_returns(log: EpisodeLog) -> None:
    assert log.returns.min() - 1e-9 <= values(log, ("wis",))["wis"] <= log.returns.max() + 1e-9


@settings(max_examples=40, deadline=None)
@given(logs)
def test_values_of_zero_turn_dr_into_pdis(log: EpisodeLog) -> None:
    zero = np.zeros(log.steps)
    blind = replace(log, q=zero, v=zero, v_final=np.zeros(log.episodes))
    found = values(blind, ("pdis", "dr", "wpdis", "wdr"))
    assert found["dr"] == pytest.approx(found["pdis"], abs=1e-9)
    assert found["wdr"] == pytest.approx(found["wpdis"], abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(logs)
def test_where_the_values_fit_every_step_weights_do_not_matter(log: EpisodeLog) -> None:
    """With Q̂ = r + γ V̂(s'), all corrections vanish."""
    assert log.v is not None
    assert log.v_final is not None
    following = np.append(log.v[1:], 0.0)
    following[log.offsets[1:] - 1] = log.v_final
    fitted = replace(log, q=log.reward + log.discount * following)
    found = values(fitted, ("dm", "dr", "wdr", "magic"))
    assert list(found.values()) == pytest.approx([found["dm"]] * 4, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(logs)
def test_a_clip_that_nothing_reaches_changes_nothing(log: EpisodeLog) -> None:
    answers = estimate(log, ["is", "wpdis", "wdr"], interval=None, clip=1e9)
    assert {answer.name: answer.value for answer in answers} == pytest.approx(values(log, ("is", "wpdis", "wdr")))
    for answer in answers:
        assert answer.clipping is not None
        assert (answer.clipping.share, answer.clipping.bias) == (0.0, pytest.approx(0.0, abs=1e-9))
