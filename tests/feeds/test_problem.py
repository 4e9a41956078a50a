"""What a recipe's names stand for, and which data can't be trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offrl.data.store import StoreWriter
from offrl.errors import DataError
from offrl.feeds import open_problem
from tests.data.stores import SPEC, make_block
from tests.training.runs import bc_recipe


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("column", "row"), [("observation", 1), ("observation", 3), ("action", 5), ("reward", 5)])
def test_data_that_are_not_finite_are_refused(tmp_path: Path, column: str, row: int, value: float) -> None:
    block = make_block([3, 4])  # row 3 holds the final observation of an episode
    block.columns[column][row] = value
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(block)
    with pytest.raises(DataError, match=f"'{column}' of the dataset") as raised:
        open_problem(bc_recipe(tmp_path / "s", env="none"))
    assert f"offrl datasets validate {tmp_path / 's'}" in raised.value.hint
