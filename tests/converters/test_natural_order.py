"""Names in the order of the numbers in them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offrl.converters.natural_order import natural_key


@given(
    numbers=st.lists(st.integers(0, 10**30), unique=True),
    around=st.tuples(st.text(max_size=5), st.text(max_size=5)),
    seed=st.integers(0, 99),
)
def test_numbers_between_the_same_texts_are_in_the_order_of_numbers(
    numbers: list[int], around: tuple[str, str], seed: int
) -> None:
    before, after = (text.strip("0123456789") for text in around)
    names = [f"{before}{number}{after}" for number in sorted(numbers)]
    shuffled = random.Random(seed).sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == names


@given(names=st.lists(st.text(alphabet="ab.-0123456789٣²", max_size=8), unique=True), seed=st.integers(0, 99))
def test_any_names_have_one_order(names: list[str], seed: int) -> None:
    shuffled = random.Random(seed).sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == sorted(names, key=natural_key)


@pytest.mark.parametrize(
    "names",
    [
        ["part.0.csv", "part.1.csv", "part.2.csv", "part.10.csv", "part.11.csv"],
        ["a-9-b-10", "a-9-b-11", "a-10-b-2"],
        ["part-00001-c0ffee", "part-00002-abc", "part-00010-0"],
        ["file1", "file01", "file2"][1:],
        ["1", "2", "10", "a"],
    ],
)
def test_examples(names: list[str]) -> None:
    backwards = list(reversed(names))
    assert sorted(backwards, key=natural_key) == names
