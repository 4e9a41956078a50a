"""A home that holds everything, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fuzzing.attempts import at_home
from tests.fuzzing.subjects import make_home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every subject, whole."""
    folder = tmp_path_factory.mktemp("fuzzing") / "home"
    folder.mkdir()
    with at_home(folder):
        make_home(folder)
    shutil.rmtree(folder / "work")
    return folder
