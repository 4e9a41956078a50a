"""Every file that offrl reads back, damaged: it is read, or refused by a message, and no foreign exception ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzzing.attempts import MEMORY, SECONDS, attempt
from tests.fuzzing.subjects import SUBJECTS

EACH = 8
"""Damages of each subject that are tried whenever the tests run."""
INPUTS = 3_000
"""Of the slow test."""


def test_every_subject_is_there(home: Path) -> None:
    for subject in SUBJECTS:
        for pattern in subject.files:
            assert list(home.glob(pattern)), f"{subject.name} has no {pattern}"


@pytest.mark.parametrize("first", range(len(SUBJECTS)), ids=[subject.name for subject in SUBJECTS])
def test_a_damaged_file_is_read_or_refused(first: int, home: Path) -> None:
    attempts = [attempt(number, home) for number in range(first, EACH * len(SUBJECTS), len(SUBJECTS))]
    assert [each for each in attempts if not each.fine] == []
    assert {each.outcome for each in attempts} <= {"read", "refused"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_damaged_files_end_in_time_and_memory_and_without_foreign_exceptions() -> None:
    """In a process of its own, which may not take more than `MEMORY`, nor longer than `SECONDS` for one."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing.attempts", "1000", str(1000 + INPUTS)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    lines: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 0, f"it ended at {lines[-1:]}: {result.stderr[-2000:]}"
    attempts = [line for line in lines if "outcome" in line]
    assert len(attempts) == INPUTS
    assert [each for each in attempts if each["outcome"] not in ("read", "refused")] == []
    assert max(each["seconds"] for each in attempts) < SECONDS
    assert lines[-1]["greatest_bytes"] < MEMORY
    # Most damages matter: a harness that damages nothing would find nothing.
    assert sum(each["outcome"] == "refused" for each in attempts) > INPUTS / 3
