"""What a failing command says, and how it exits."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from offrl.config import library as recipe_catalog
from offrl.errors import CorruptStoreError, OffrlError, RequestError
from tests.cli.conftest import Offrl

FailWith = Callable[[BaseException], None]


@pytest.fixture
def fail_with(monkeypatch: pytest.MonkeyPatch) -> FailWith:
    """Make `offrl recipes list` fail with an exception."""

    def fail(error: BaseException) -> None:
        def raise_it() -> None:
            raise error

        monkeypatch.setattr(recipe_catalog, "bundled_recipes", raise_it)

    return fail


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            RequestError("it is wrong", where="there", hint="this way"),
            2,
            "Error: it is wrong\n  where: there\n  hint:  this way\n",
        ),
        (CorruptStoreError("cut short", where="a.arrow"), 1, "Error: cut short\n  where: a.arrow\n"),
        (OffrlError("it failed"), 1, "Error: it failed\n"),
        (
            ValueError("first line\nsecond line"),
            1,
            "Error: ValueError: first line second line\n  hint:  offrl --debug shows where it came from\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 1, "Error: Permission denied\n  where: /a/b\n"),
        (KeyboardInterrupt(), 130, "Interrupted\n"),
    ],
)
def test_each_error_is_one_message_and_an_exit_code(
    offrl: Offrl, fail_with: FailWith, error: BaseException, code: int, message: str
) -> None:
    fail_with(error)
    result = offrl("recipes", "list", "--json")
    assert (result.code, result.stdout, result.stderr) == (code, "", message)


def test_a_full_disk_is_named_with_its_hint(offrl: Offrl, fail_with: FailWith) -> None:
    fail_with(OSError(errno.ENOSPC, "No space left on device", "runs/x"))
    result = offrl("recipes", "list")
    assert result.code == 1
    assert result.stderr.startswith("Error: No space left on device\n  where: runs/x\n  hint:  make room")


def test_debug_shows_the_traceback_and_keeps_the_message_and_the_code(offrl: Offrl, fail_with: FailWith) -> None:
    fail_with(RequestError("it is wrong"))
    plain, debug = offrl("recipes", "list"), offrl("--debug", "recipes", "list")
    assert "Traceback" not in plain.stderr
    assert "Traceback (most recent call last)" in debug.stderr
    assert debug.stderr.endswith(plain.stderr)
    assert (debug.code, debug.stdout) == (2, "")
    assert "Traceback" not in offrl("recipes", "list").stderr
