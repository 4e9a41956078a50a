"""The log: what it derives, how it cuts, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from offrl.errors import DataError, OffrlError, RequestError
from offrl.off_policy.choices import Choices
from offrl.off_policy.episode_log import EpisodeLog, tensor
from offrl.types import Spec


def log(**changes: Any) -> EpisodeLog:
    """Two episodes, of three steps and of two."""
    values: dict[str, Any] = {
        "reward": np.array([1.0, 2.0, 4.0, 8.0, 16.0]),
        "behavior_log_prob": np.log(np.full(5, 0.5)),
        "target_log_prob": np.log(np.full(5, 0.25)),
        "offsets": np.array([0, 3, 5]),
        "terminated": np.array([True, False]),
        "truncated": np.array([False, True]),
        "discount": 0.5,
    }
    return EpisodeLog(**values | changes)


def test_what_it_derives() -> None:
    item = log()
    assert (item.steps, item.episodes, item.is_one_step) == (5, 2, False)
    np.testing.assert_array_equal(item.lengths, [3, 2])
    np.testing.assert_array_equal(item.episode, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(item.step, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(item.discounted(np.ones(5)), [1.0, 0.5, 0.25, 1.0, 0.5])
    np.testing.assert_array_equal(item.returns, [3.0, 16.0])
    np.testing.assert_array_equal(item.broken_off, [False, True])
    np.testing.assert_array_equal(item.longest_first, [0, 1])


def test_float32_and_lists_are_taken() -> None:
    item = log(reward=np.arange(5, dtype=np.float32), offsets=[0, 3, 5], terminated=[1, 0], truncated=[0, 1])
    assert item.reward.dtype == np.float64
    assert item.terminated.dtype == np.bool_


@pytest.mark.parametrize("horizon", [1, 2, 3, 4])
def test_the_horizon_cuts_and_nothing_lies_behind_it(horizon: int) -> None:
    values = np.arange(5.0)
    item = log(horizon=horizon, q=values, v=values, v_final=np.array([7.0, 9.0]))
    np.testing.assert_array_equal(item.lengths, np.minimum([3, 2], horizon))
    kept = [row for row, step in enumerate([0, 1, 2, 0, 1]) if step < horizon]
    for name in ("q", "v"):
        np.testing.assert_array_equal(getattr(item, name), values[kept])
    np.testing.assert_array_equal(item.reward, log().reward[kept])
    np.testing.assert_array_equal(item.step, np.array([0, 1, 2, 0, 1])[kept])
    np.testing.assert_array_equal(item.terminated, [horizon >= 3, False])
    np.testing.assert_array_equal(item.broken_off, [False, horizon > 2])
    assert item.v_final is not None
    np.testing.assert_array_equal(item.v_final, [0.0, 9.0 if horizon > 2 else 0.0])
    np.testing.assert_array_equal(replace(item, horizon=horizon).reward, item.reward)


def test_the_horizon_cuts_what_was_seen_and_done_too() -> None:
    """A row more than steps is kept of each episode: where the cut left it."""
    rows, seen = np.arange(7), {"a": np.arange(7.0), "b": np.zeros((7, 2))}
    choices = Choices(np.eye(7, dtype=np.float32), log_prob=np.full(5, -1.0))
    item = log(
        horizon=2,
        spaces=Spec(gym.spaces.Discrete(7), gym.spaces.Discrete(7)),
        observations=rows,
        taken=np.arange(5),
        action_mask=np.eye(7, dtype=bool),
        columns={"step": np.arange(5), "row": rows},
        choices=choices,
    )
    kept, steps = [0, 1, 2, 4, 5, 6], [0, 1, 3, 4]
    np.testing.assert_array_equal(item.observation, kept)
    np.testing.assert_array_equal(item.action, steps)
    assert item.action_mask is not None
    assert item.columns is not None
    assert item.choices is not None
    np.testing.assert_array_equal(item.action_mask, np.eye(7, dtype=bool)[kept])
    np.testing.assert_array_equal(item.columns["step"], steps)
    np.testing.assert_array_equal(item.columns["row"], kept)
    np.testing.assert_array_equal(item.choices.probabilities, np.eye(7)[kept])
    np.testing.assert_array_equal(item.row, [0, 1, 3, 4])
    np.testing.assert_array_equal(item.final_row, [2, 5])
    nested = replace(log(), horizon=2, observations=seen, taken=np.arange(5)).observation
    assert isinstance(nested, dict)
    np.testing.assert_array_equal(nested["a"], kept)
    assert nested["b"].shape == (6, 2)


def test_what_a_log_lacks_is_told_when_it_is_asked_for() -> None:
    for lacking in ("behavior", "target"):
        with pytest.raises(RequestError, match=f"under the {lacking} policy"):
            _ = log(**{f"{lacking}_log_prob": None}).log_ratio
    for name in ("spec", "observation", "action", "features", "agent_action"):
        with pytest.raises(RequestError, match="the log holds no"):
            getattr(log(), name)


def test_probabilities_are_looked_at_where_weights_are_to_be_made_of_them() -> None:
    wrong = np.full(5, 0.2)
    unvalued = log(behavior_log_prob=wrong, target_log_prob=None)
    with pytest.raises(DataError, match="above 1"):
        unvalued.towards(Choices(log_prob=np.full(5, -1.0)))
    assert unvalued.towards(Choices()).target_log_prob is None


def test_one_step_logs() -> None:
    item = EpisodeLog.one_step([1, 2, 3], [-1.0, -2.0, -3.0], [-1.0, -1.0, -np.inf], q=[1, 1, 1], v=[2, 2, 2])
    assert item.is_one_step
    assert not item.broken_off.any()
    np.testing.assert_array_equal(item.returns, [1.0, 2.0, 3.0])


def test_densities_may_exceed_one() -> None:
    high = np.full(5, 3.0)
    assert log(behavior_log_prob=high, target_log_prob=high, density=True).density
    with pytest.raises(DataError, match="above 1"):
        log(target_log_prob=high)


def test_a_float32_probability_of_one_may_come_out_slightly_above() -> None:
    assert log(behavior_log_prob=np.full(5, 1e-7)).steps == 5


def changed(row: int, value: float, length: int = 5) -> np.ndarray:
    values = np.full(length, -1.0)
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("changes", "error", "texts"),
    [
        ({"reward": changed(4, np.nan)}, DataError, ["1 of 5", "reward", "episode 1, step 1"]),
        ({"reward": changed(2, np.inf)}, DataError, ["episode 0, step 2"]),
        ({"behavior_log_prob": changed(3, -np.inf)}, DataError, ["probability 0", "episode 1, step 0"]),
        ({"behavior_log_prob": changed(0, np.nan)}, DataError, ["behavior_log_prob", "NaN"]),
        ({"behavior_log_prob": changed(1, 0.2)}, DataError, ["above 1"]),
        ({"behavior_log_prob": changed(1, np.inf), "density": True}, DataError, ["infinite"]),
        ({"target_log_prob": changed(1, np.nan)}, DataError, ["target_log_prob"]),
        ({"offsets": np.array([0, 3, 3, 5])}, DataError, ["episode 1 has no rows"]),
        ({"offsets": np.array([0])}, DataError, ["no episode"]),
        ({"offsets": np.array([1, 5])}, DataError, ["offsets"]),
        ({"terminated": np.array([True])}, RequestError, ["terminated", "2 episodes"]),
        ({"target_log_prob": np.zeros(4)}, RequestError, ["target_log_prob", "5 rows"]),
        ({"discount": 1.5}, RequestError, ["discount"]),
        ({"discount": float("nan")}, RequestError, ["discount"]),
        ({"horizon": 0}, RequestError, ["horizon"]),
        ({"q": np.zeros(5)}, RequestError, ["v"]),
        ({"q": np.zeros(5), "v": np.zeros(5)}, RequestError, ["1 episodes were truncated", "v_final"]),
        ({"v": changed(1, np.nan), "v_final": np.zeros(2)}, DataError, ["v, first at episode 0, step 1"]),
        ({"v": np.zeros(5), "v_final": changed(1, np.nan, 2)}, DataError, ["v_final, first at episode 1"]),
    ],
)
def test_bad_logs_are_refused(changes: dict[str, Any], error: type[OffrlError], texts: list[str]) -> None:
    with pytest.raises(error) as caught:
        log(**changes)
    for text in texts:
        assert text in str(caught.value)
    assert caught.value.hint


def test_memory_is_shared_with_pytorch_unless_it_may_only_be_read() -> None:
    values = np.arange(3.0)
    assert np.shares_memory(tensor(values).numpy(), values)
    values.flags.writeable = False
    assert not np.shares_memory(tensor(values).numpy(), values)
    assert log(reward=np.broadcast_to(1.0, 5)).returns.tolist() == [1.75, 1.5]
