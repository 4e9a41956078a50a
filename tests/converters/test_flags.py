"""Flags: what says yes, what says no, and that nothing else passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offrl.converters.flags import read_flags
from offrl.converters.readers.table_columns import flags
from offrl.errors import DataError

YES: list[Any] = [True, 1, 1.0, "True", "true", "TRUE", "1", "1.0", "yes", "t", " true "]
NO: list[Any] = [False, 0, 0.0, -0.0, "False", "false", "0", "0.0", "no", "f"]
UNCLEAR: list[Any] = [2, -1, -100, 0.5, 1e-9, np.nan, np.inf, -np.inf, "maybe", "", " ", "nan", "None", "2", "0.5"]


def read(values: Any) -> list[bool]:
    given_ = np.asarray(values)
    found = read_flags(given_, field="terminated", key="over", where="log.npz")
    assert found.dtype == np.bool_
    assert found.shape == given_.shape
    return found.tolist()


def arrow(values: list[Any]) -> list[bool]:
    return flags(pa.chunked_array([pa.array(values)]), "terminated", "over", "log.csv").tolist()


def of_one_kind(words: list[Any]) -> st.SearchStrategy[list[Any]]:
    """Columns of any length, each of booleans, of whole numbers, of fractions or of words alone."""
    kinds = {type(item) for item in words}
    return st.one_of([st.lists(st.sampled_from([w for w in words if type(w) is kind]), min_size=1) for kind in kinds])


@given(values=of_one_kind(YES + NO))
def test_what_says_yes_or_no_is_read_so_in_arrays_and_tables(values: list[Any]) -> None:
    expected = [any(value is known for known in YES) or (value == 1) is True for value in values]
    assert read(values) == expected
    assert arrow(values) == expected


@given(values=of_one_kind(YES + NO), at=st.integers(0, 50), data=st.data())
def test_whatever_else_is_refused_by_row_and_column_with_its_value(
    values: list[Any], at: int, data: st.DataObject
) -> None:
    kind = str if isinstance(values[0], str) else (int, float)
    wrong = data.draw(st.sampled_from([value for value in UNCLEAR if isinstance(value, kind)]))
    row = min(at, len(values))
    for reader in (read, arrow):
        mixed = [*values[:row], wrong, *values[row:]]
        with pytest.raises(DataError) as raised:
            reader(mixed if kind is str else [float(value) for value in mixed])
        assert f"row {row}, column 'over'" in raised.value.where
        assert "--map terminated=" in raised.value.hint
        assert "is empty" in raised.value.what if str(wrong).strip() == "" else str(wrong).strip() in raised.value.what


@given(values=st.lists(st.sampled_from([True, False, None]), min_size=1))
def test_a_missing_flag_says_nothing(values: list[bool | None]) -> None:
    if None not in values:
        assert arrow(values) == values
        return
    for column in (values, [None if value is None else int(value) for value in values]):
        with pytest.raises(DataError, match="is empty") as raised:
            arrow(column)
        assert f"row {values.index(None)}," in raised.value.where


def test_flags_of_several_components_are_told_by_their_row() -> None:
    mask = np.array([[1, 0, 1], [1, 7, 0]], np.int8)
    with pytest.raises(DataError, match="holds 7") as raised:
        read_flags(mask, field="action_mask", key="allowed", where="log.npz", locate=lambda row: f"step {row}")
    assert raised.value.where == "log.npz, step 1, column 'allowed'"
    assert read(mask % 7) == [[True, False, True], [True, False, False]]


def test_categories_of_words_are_words(tmp_path: Path) -> None:
    column = pa.chunked_array([pa.array(["False", "True"]).dictionary_encode()])
    assert flags(column, "terminated", "over", str(tmp_path)).tolist() == [False, True]
