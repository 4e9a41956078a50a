"""What every format's values are checked for: finite, and within the spaces; padding is never looked at."""

from __future__ import annotations

from typing import Any, get_args

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from offrl.converters.chunk_checks import Checker
from offrl.converters.options import OutOfBounds
from offrl.converters.report import Chunk, Log
from offrl.data.block import EpisodeBlock
from offrl.errors import DataError
from offrl.types import Spec

LENGTHS = [2, 3]
FINAL = [2, 6]
"""Rows of the final observations of episodes of these lengths."""


def chunk(actions: list[Any], **changed: Any) -> Chunk:
    """Two episodes of seven rows in all."""
    columns = {
        "observation": np.zeros((7, 2)),
        "action": np.array(actions),
        "reward": np.zeros(7),
        "terminated": np.isin(np.arange(7), [1]),
        "truncated": np.isin(np.arange(7), [5]),
        **changed,
    }
    return Chunk(EpisodeBlock(columns, np.array(LENGTHS)), lambda row: f"row {row + 100}")


def check(
    action_space: gym.Space[Any],
    item: Chunk,
    out_of_bounds: OutOfBounds = "error",
    log: Log | None = None,
    observation_space: gym.Space[Any] | None = None,
) -> Chunk:
    spec = Spec(observation_space or spaces.Box(-np.inf, np.inf, (2,)), action_space)
    return Checker(spec, out_of_bounds, "log.csv", log or Log(dry_run=False)).check(item)


def boxed(*values: float) -> Chunk:
    """Actions with zero as padding."""
    return chunk([[value] for value in (*values[:2], 0.0, *values[2:], 0.0)])


AWAY = spaces.Box(1.0, 2.0, (1,), np.float64)
"""Zero, the padding, lies outside."""


def test_the_component_that_is_wrong_is_named_by_the_sources_own_column() -> None:
    keys = {"observation": "x,y", "action": "torque"}
    spec = Spec(spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1, 1, (1,), np.float64))
    log = Log(dry_run=True)
    checker = Checker(spec, "error", "log.csv", log, keys)
    observation = np.zeros((7, 2))
    observation[3, 1] = np.nan
    checker.check(chunk([[0.0], [0.0], [0.0], [0.0], [np.inf], [0.0], [0.0]], observation=observation))
    assert log.warnings == ["the observation holds NaN or infinity (1 in all, first at log.csv, row 103, column 'y')"]
    assert [(item.what[:19], item.where) for item in log.problems] == [
        ("the action is [inf]", "log.csv, row 104, column 'torque'")
    ]


def test_what_is_not_finite_in_an_info_is_kept_and_said() -> None:
    log = Log(dry_run=False)
    speed = np.array([0, np.nan, 0, 0, np.inf, 0, 0])
    checked = check(AWAY, chunk([[1.5], [1.5], [0], [1.5], [1.5], [1.5], [0]], **{"info.speed": speed}), log=log)
    np.testing.assert_array_equal(checked.block.columns["info.speed"], speed)
    assert [warning.partition(" (")[0] for warning in log.warnings] == ["the info.speed holds NaN or infinity"]


def test_whole_rewards_stay_what_they_are_or_are_refused() -> None:
    actions: list[Any] = [[1.5], [1.5], [0], [1.5], [1.5], [1.5], [0]]
    rewards = np.array([2**53, -(2**53), 0, 1, 2, 3, 0])
    checked = check(AWAY, chunk(actions, reward=rewards)).block.columns["reward"]
    assert checked.dtype == np.float64
    assert checked.tolist() == rewards.tolist()
    rewards[4] = 2**60 + 1
    with pytest.raises(DataError, match=f"the reward is {2**60 + 1}, which float64 can't hold") as raised:
        check(AWAY, chunk(actions, reward=rewards))
    assert "row 104" in raised.value.where


@pytest.mark.parametrize(("space", "most"), [(spaces.Discrete(3), 1.0), (spaces.Box(-1, 1, (1,), np.float64), 1e9)])
def test_probabilities_become_logarithms(space: gym.Space[Any], most: float) -> None:
    discrete = isinstance(space, spaces.Discrete)
    actions: list[Any] = [0] * 7 if discrete else [[0.0]] * 7
    probability = np.array([0.5, most, 0, 0.25, 1e-300, 1.0, 0])
    columns = check(space, chunk(actions, behavior_prob=probability)).block.columns
    assert "behavior_prob" not in columns
    expected = np.log(np.where(probability > 0, probability, 1.0))
    np.testing.assert_array_equal(columns["behavior_log_prob"], expected)
    for wrong in [0.0, -0.2, np.nan, np.inf] + [1.5] * discrete:
        with pytest.raises(DataError, match=rf"the behavior_prob is {wrong}, which can't be the probability") as raised:
            check(space, chunk(actions, behavior_prob=np.where(np.arange(7) == 3, wrong, probability)))
        assert "row 103, column 'behavior_prob'" in raised.value.where


@pytest.mark.parametrize("out_of_bounds", get_args(OutOfBounds))
def test_padding_is_no_action(out_of_bounds: OutOfBounds) -> None:
    log = Log(dry_run=False)
    checked = check(AWAY, boxed(1.0, 2.0, 1.5, 1.25, 1.75), out_of_bounds, log)
    assert checked.block.columns["action"][:, 0].tolist() == [1.0, 2.0, 0.0, 1.5, 1.25, 1.75, 0.0]
    assert log.warnings == []


def test_an_action_outside_is_refused_with_its_row_and_hints() -> None:
    with pytest.raises(DataError, match=r"the action \[2\.5\] lies outside Box.*2 such rows") as raised:
        check(AWAY, boxed(1.0, 2.0, 1.5, 2.5, 0.5))
    assert raised.value.where == "log.csv, row 104, column 'action'"
    for words in ("--env", "--action-bounds", "--out-of-bounds"):
        assert words in raised.value.hint


def test_an_action_outside_is_clipped_or_kept_and_counted() -> None:
    clipping, keeping = Log(dry_run=False), Log(dry_run=False)
    source = boxed(1.0, 9.0, 1.5, -3.0, 2.0)
    clipped = check(AWAY, source, "clip", clipping).block.columns["action"]
    kept = check(AWAY, source, "keep", keeping).block.columns["action"]
    assert clipped[:, 0].tolist() == [1.0, 2.0, 0.0, 1.5, 1.0, 2.0, 0.0]
    assert kept[:, 0].tolist() == [1.0, 9.0, 0.0, 1.5, -3.0, 2.0, 0.0]
    for log in (clipping, keeping):
        (warning,) = log.warnings
        assert "2 in all, first at log.csv, row 101" in warning


@pytest.mark.parametrize(("beyond", "fits"), [(5e-6, True), (5e-5, False)])
def test_bounds_may_be_off_by_their_rounding(beyond: float, fits: bool) -> None:
    item = boxed(1.0 - beyond, 2.0 + beyond, 1.5, 1.5, 1.5)
    if fits:
        assert check(AWAY, item).block.columns["action"][1, 0] == 2.0 + beyond
    else:
        with pytest.raises(DataError, match="outside"):
            check(AWAY, item)


def test_an_unbounded_space_takes_any_action() -> None:
    unbounded = spaces.Box(np.array([-np.inf, 0.0]), np.array([np.inf, 1.0]), dtype=np.float64)
    rows = [[-1e300, 0.5]] * 7
    rows[2] = rows[6] = [0.0, 0.0]
    assert check(unbounded, chunk(rows)).block.num_rows == 7
    rows[4] = [1e300, 1.5]
    with pytest.raises(DataError, match="outside") as raised:
        check(unbounded, chunk(rows))
    assert "row 104" in raised.value.where


@pytest.mark.parametrize(
    ("space", "right", "wrong"),
    [
        (spaces.Discrete(3), 2, 3),
        (spaces.Discrete(3), 0, -1),
        (spaces.Discrete(3, start=5), 7, 4),
        (spaces.MultiDiscrete([2, 4]), [1, 3], [2, 0]),
        (spaces.MultiDiscrete([2, 4]), [0, 0], [0, -1]),
        (spaces.MultiBinary(2), [1, 0], [0, 2]),
    ],
)
@pytest.mark.parametrize("out_of_bounds", get_args(OutOfBounds))
def test_a_choice_that_does_not_exist_is_refused_whatever_is_said(
    space: gym.Space[Any], right: Any, wrong: Any, out_of_bounds: OutOfBounds
) -> None:
    actions = [right] * 7
    for row in FINAL:
        actions[row] = np.zeros_like(right).tolist()
    check(space, chunk(actions), out_of_bounds)
    actions[3] = wrong
    with pytest.raises(DataError, match="outside") as raised:
        check(space, chunk(actions), out_of_bounds)
    assert "row 103" in raised.value.where
    assert "environment" in raised.value.hint
    assert "clip" not in raised.value.hint


def test_each_part_of_an_action_has_bounds_of_its_own() -> None:
    space = spaces.Dict({"arm": spaces.Box(-1, 1, (1,), np.float64), "grip": spaces.Discrete(2)})
    item = chunk([])
    del item.block.columns["action"]
    item.block.columns["action.arm"] = np.full((7, 1), 0.5)
    item.block.columns["action.grip"] = np.array([0, 1, 0, 0, 2, 0, 0])
    with pytest.raises(DataError, match=r"action\.grip 2 lies outside Discrete"):
        check(space, item)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", ["reward", "action", "behavior_log_prob"])
def test_what_is_not_finite_is_refused(column: str, value: float) -> None:
    values = np.zeros((7, 1) if column == "action" else 7)
    values[4] = value
    values[5] = value
    item = chunk([[0.0]] * 7, **{column: values})
    with pytest.raises(DataError, match=f"the {column} is .*2 such rows") as raised:
        check(spaces.Box(-np.inf, np.inf, (1,), np.float64), item)
    assert raised.value.where == f"log.csv, row 104, column '{column}'"


def test_large_numbers_are_finite_though_their_sum_is_not() -> None:
    item = chunk([[0.0]] * 7, reward=np.full(7, 1e308))
    assert check(spaces.Box(-1, 1, (1,), np.float64), item).block.num_rows == 7


def test_gaps_in_observations_are_warned_of_final_ones_too() -> None:
    log = Log(dry_run=False)
    observations = np.zeros((7, 2))
    observations[2, 1], observations[6] = np.nan, np.inf
    check(spaces.Box(-1, 1, (1,), np.float64), chunk([[0.0]] * 7, observation=observations), log=log)
    assert log.warnings == [
        "the observation holds NaN or infinity (2 in all, first at log.csv, row 102, column 'observation')"
    ]


@pytest.mark.parametrize(
    ("space", "row", "values"),
    [
        (spaces.Discrete(4), 104, [0, 1, 3, 0, 4, 1, 1]),
        (spaces.Discrete(3, start=1), 106, [1, 2, 3, 1, 2, 3, 0]),
        (spaces.MultiDiscrete([2, 3]), 102, [[0, 0], [1, 2], [2, 0], [0, 0], [0, 0], [0, 0], [0, 0]]),
    ],
)
def test_an_observation_that_is_no_choice_is_refused_final_ones_too(
    space: gym.Space[Any], row: int, values: list[Any]
) -> None:
    item = chunk([[0.0]] * 7, observation=np.array(values))
    with pytest.raises(DataError, match=r"observation .* lies outside .*\n.*row " + str(row)):
        check(spaces.Box(-1.0, 1.0, (1,)), item, observation_space=space)
    inside = np.clip(item.block.columns["observation"], [1, 1] if row == 102 else 1, [1, 2] if row == 102 else 3)
    check(spaces.Box(-1.0, 1.0, (1,)), chunk([[0.0]] * 7, observation=inside), observation_space=space)


def test_probabilities_above_one_are_refused_of_choices_but_densities_may_be_large() -> None:
    logged = np.array([-1.0, 0.0, 0.0, -0.5, 0.5, -1.0, 0.0])
    with pytest.raises(DataError, match="more than 1") as raised:
        check(spaces.Discrete(2), chunk([0] * 7, behavior_log_prob=logged))
    assert "row 104" in raised.value.where
    check(spaces.Box(-1, 1, (1,), np.float64), chunk([[0.0]] * 7, behavior_log_prob=logged))


def test_a_dry_run_lists_each_kind_of_problem_once() -> None:
    log = Log(dry_run=True)
    rewards = np.array([0, np.nan, 0, np.nan, 0, 0, 0])
    item = chunk([[0.0], [0.0], [0.0], [5.0], [6.0], [0.0], [0.0]], reward=rewards)
    check(spaces.Box(-1, 1, (1,), np.float64), item, log=log)
    assert [problem.where for problem in log.problems] == [
        "log.csv, row 101, column 'reward'",
        "log.csv, row 103, column 'action'",
    ]


def test_a_mask_that_forbids_everything_is_refused_with_its_row() -> None:
    mask = np.ones((7, 3), np.bool_)
    mask[FINAL] = False
    check(spaces.Discrete(3), chunk([0] * 7, action_mask=mask))
    mask[4] = False
    with pytest.raises(DataError, match=r"(?s)action_mask forbids every action.*row 104, column 'action_mask'"):
        check(spaces.Discrete(3), chunk([0] * 7, action_mask=mask))


def test_a_mask_that_forbids_what_was_done_is_refused_with_its_row() -> None:
    mask = np.zeros((7, 3), np.bool_)
    actions = [1, 2, 0, 3, 1, 2, 0]
    mask[np.arange(7), np.array(actions) - 1] = True
    mask[FINAL] = [True, False, False]
    check(spaces.Discrete(3, start=1), chunk([1, 2, 9, 3, 1, 2, 9], action_mask=mask))
    with pytest.raises(DataError, match=r"(?s)forbids the action taken \(5 such rows.*row 100, column 'action_mask'"):
        check(spaces.Discrete(3, start=1), chunk(actions, action_mask=~mask))
