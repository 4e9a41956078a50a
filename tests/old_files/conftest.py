"""Copies of the old files, where tests may write to them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import offrl
from tests.old_files.library import FILES, RUNS_HERE, replace_in_recipes

__all__ = ["offrl", "old"]


@pytest.fixture
def old(tmp_path: Path, offrl_home: Path) -> Path:
    """The folder of the files; their stores are local datasets, and runs that refer to others find these."""
    copy = tmp_path / "old"
    shutil.copytree(FILES, copy, ignore=shutil.ignore_patterns("stores"))
    shutil.copytree(FILES / "stores", offrl_home / "stores")
    replace_in_recipes(copy / "runs", RUNS_HERE, str(copy / "runs"))
    return copy
