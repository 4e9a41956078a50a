"""Blocks that don't hold together are refused, by column and episode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from offrl.data.block import EpisodeBlock, fix_columns, inexact_rows, prepare_block
from offrl.errors import DataError
from offrl.types import Spec
from tests.data.stores import SPEC, make_block


def test_first_and_final_rows_and_returns() -> None:
    block = make_block([3, 1, 2])
    block.columns["reward"] = np.array([1, 2, 3, 0, 4, 0, 5, 6, 0.0])
    assert block.first_rows.tolist() == [0, 4, 6]
    assert block.final_rows.tolist() == [3, 5, 8]
    assert block.returns().tolist() == [6, 4, 11]
    part = block.slice(1, 3)
    assert (part.num_rows, part.returns().tolist(), part.sources) == (5, [4, 11], ["f#1", "f#2"])
    assert np.shares_memory(part.columns["reward"], block.columns["reward"])


def test_statistics_leave_final_rows_out() -> None:
    block = make_block([3, 4])
    found = block.statistics()
    assert set(found) == {"observation", "action", "reward", "return", "length"}
    steps = np.delete(block.columns["observation"], block.final_rows, axis=0)
    np.testing.assert_allclose(found["observation"].mean, steps.mean(axis=0, dtype=np.float64))
    assert found["reward"].count == 7
    assert found["length"].mean == 3.5


def test_dtypes_are_kept_where_the_space_allows() -> None:
    block = make_block([3])
    block.columns["reward"] = block.columns["reward"].astype(">f4")
    block.columns["observation"] = block.columns["observation"].astype(np.float64)
    columns = fix_columns(SPEC, block)
    assert [(c.name, c.dtype.str) for c in columns[:3]] == [
        ("observation", "<f8"),
        ("action", "<f4"),
        ("reward", "<f4"),
    ]
    prepared = prepare_block(columns, block)
    assert prepared.columns["reward"].dtype == np.float32
    assert np.shares_memory(prepared.columns["action"], block.columns["action"])


def test_discrete_columns_become_int64() -> None:
    block = make_block([3])
    block.columns["action"] = np.array([1, 0, 2, 0], np.uint8)
    spec = Spec(SPEC.observation_space, spaces.Discrete(3))
    prepared = prepare_block(fix_columns(spec, block), block)
    assert prepared.columns["action"].dtype == np.int64
    assert prepared.columns["action"].tolist() == [1, 0, 2, 0]


def _drop_reward(block: EpisodeBlock) -> None:
    del block.columns["reward"]


def _shorten(block: EpisodeBlock) -> None:
    block.columns["reward"] = block.columns["reward"][:-1]


def _widen(block: EpisodeBlock) -> None:
    block.columns["observation"] = np.zeros((len(block.columns["reward"]), 3), np.float32)


def _column_rewards(block: EpisodeBlock) -> None:
    block.columns["reward"] = block.columns["reward"][:, None]


def _integer_flags(block: EpisodeBlock) -> None:
    block.columns["terminated"] = block.columns["terminated"].astype(np.int64)


def _text(block: EpisodeBlock) -> None:
    block.columns["info.name"] = np.array(["x"] * len(block.columns["reward"]))


def _unknown(block: EpisodeBlock) -> None:
    block.columns["qpos"] = block.columns["reward"]


def _empty_episode(block: EpisodeBlock) -> None:
    block.lengths = np.array([3, 0, 6])


def _padding(block: EpisodeBlock) -> None:
    block.columns["action"][block.final_rows[1]] = 0.5


def _no_end(block: EpisodeBlock) -> None:
    block.columns["truncated"][block.final_rows[1] - 1] = False


def _inside(block: EpisodeBlock) -> None:
    block.columns["terminated"][5] = True


def _seeds(block: EpisodeBlock) -> None:
    block.seeds = np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_reward, r"no column 'reward'"),
        (_shorten, r"'reward' has 11 rows, 3 episodes of these lengths have 12"),
        (_widen, r"'observation' have the shape \(3,\), \(2,\)"),
        (_column_rewards, r"'reward' have the shape \(1,\), \(\)"),
        (_integer_flags, r"'terminated' has the dtype int64, which bool"),
        (_text, r"'info.name'"),
        (_unknown, r"'qpos'(.|\n)*info\.qpos"),
        (_empty_episode, r"0 transitions(.|\n)*episode 1 of the block \(f#1\)"),
        (_padding, r"'action' isn't zero(.|\n)*episode 1 of the block \(f#1\)"),
        (_no_end, r"neither terminated nor truncated(.|\n)*episode 1"),
        (_inside, r"goes on(.|\n)*row 5, episode 1"),
        (_seeds, r"2 seeds for 3 episodes"),
    ],
)
def test_damage_is_named(damage: Callable[[EpisodeBlock], None], message: str) -> None:
    block = make_block([3, 4, 2])
    damage(block)
    with pytest.raises(DataError, match=message):
        prepare_block(fix_columns(SPEC, block), block)


def test_later_blocks_need_the_same_columns() -> None:
    columns = fix_columns(SPEC, make_block([3]))
    block = make_block([3])
    block.columns["info.x"] = block.columns["reward"]
    with pytest.raises(DataError, match=r"info\.x"):
        prepare_block(columns, block)
    wide = make_block([3])
    wide.columns["observation"] = wide.columns["observation"].astype(np.float64)
    with pytest.raises(DataError, match="float64, which float32 can't hold"):
        prepare_block(columns, wide)


def test_integers_too_wide_for_a_discrete_space_are_refused() -> None:
    block = make_block([3])
    block.columns["action"] = np.zeros(4, np.uint64)
    with pytest.raises(DataError, match="uint64"):
        fix_columns(Spec(SPEC.observation_space, spaces.Discrete(3)), block)


def test_a_mask_that_forbids_everything_is_refused_but_in_final_rows_says_nothing() -> None:
    block = make_block([2, 3])
    mask = np.ones((7, 4), np.bool_)
    mask[block.final_rows] = False
    block.columns["action_mask"] = mask
    columns = fix_columns(SPEC, block)
    prepare_block(columns, block)
    mask[4] = mask[5] = False
    with pytest.raises(DataError, match=r"action_mask forbids every action \(2 such rows.*\n.*row 4, episode 1 .*f#1"):
        prepare_block(columns, block)


WHOLE = st.one_of(
    st.integers(0, 2**63 - 1), st.integers(2**53 - 2, 2**53 + 2), st.integers(2**63 - 1200, 2**63 - 1), st.just(0)
)


@given(values=st.lists(WHOLE, max_size=5), sign=st.sampled_from([1, -1]))
def test_whole_numbers_that_floats_cannot_hold_are_found(values: list[int], sign: int) -> None:
    signed = [sign * value for value in values]
    expected = [row for row, value in enumerate(signed) if int(float(value)) != value]
    assert inexact_rows(np.array(signed, np.int64), np.dtype(np.float64)).tolist() == expected
    doubled = [2 * value + 1 for value in values]
    expected = [row for row, value in enumerate(doubled) if int(float(value)) != value]
    assert inexact_rows(np.array(doubled, np.uint64), np.dtype(np.float64)).tolist() == expected


def test_rewards_that_would_change_are_refused() -> None:
    block = make_block([3])
    block.columns["reward"] = np.array([1, 2**53 + 1, 2, 0])
    with pytest.raises(DataError, match=f"'reward' is {2**53 + 1}, which float64 can't hold") as raised:
        prepare_block(fix_columns(SPEC, make_block([3])), block)
    assert "row 1" in raised.value.where
    block.columns["reward"] = np.array([1, 2**53, 2, 0])
    columns = fix_columns(SPEC, block)
    assert prepare_block(columns, block).columns["reward"].tolist() == [1, 2**53, 2, 0]


@pytest.mark.parametrize(("column", "width"), [("observation", 3), ("action", 2), ("info.x", 1)])
def test_columns_without_components_or_of_a_precision_that_no_store_has_are_refused(column: str, width: int) -> None:
    block = make_block([3])
    block.columns["info.x"] = np.zeros((4, 1))
    spec = SPEC
    block.columns[column] = np.zeros((4, 0), np.float32)
    if column == "observation":
        spec = Spec(spaces.Box(-1, 1, (0,), np.float32), SPEC.action_space)
    elif column == "action":
        spec = Spec(SPEC.observation_space, spaces.Box(-1, 1, (0,), np.float32))
    with pytest.raises(DataError, match=rf"rows of '{column}' have the shape \(0,\)"):
        fix_columns(spec, block)
    block.columns[column] = np.zeros((4, width), np.longdouble)
    with pytest.raises(DataError, match=rf"'{column}' holds float128"):
        fix_columns(SPEC, block)
