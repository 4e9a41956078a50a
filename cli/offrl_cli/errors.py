"""What a command says when it fails: one readable message on stderr, and an exit code."""

from __future__ import annotations

import errno
import functools
import traceback
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

import typer

from offrl.errors import OffrlError
from offrl_cli.output import in_words, say

WORK_FAILED = 1
INTERRUPTED = 130
"""The exit code that shells give a program stopped by Ctrl-C: 128 + SIGINT."""

P = ParamSpec("P")
T = TypeVar("T")


class _Debugging:
    """Whether tracebacks are shown; set by `offrl --debug` before any command runs."""

    enabled = False


def show_tracebacks(enabled: bool) -> None:
    """Show the traceback of every error after its message, or don't."""
    _Debugging.enabled = enabled


def command(function: Callable[P, T]) -> Callable[P, T]:
    """Turn a command's exceptions into messages and exit codes."""

    @functools.wraps(function)
    def reported(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except OffrlError as error:
            fail(f"Error: {in_words(error.what, error.where, error.hint)}", error.exit_code)
        except KeyboardInterrupt:
            fail("Interrupted", INTERRUPTED)
        except OSError as error:
            fail(_describe_os_error(error), WORK_FAILED)
        except Exception as error:
            fail(_describe_unexpected(error), WORK_FAILED)

    return reported


def fail(message: str, exit_code: int) -> NoReturn:
    """Leave the program with a message on stderr."""
    if _Debugging.enabled:
        say(traceback.format_exc(), error=True)
    say(message, error=True)
    raise typer.Exit(exit_code)


def _describe_os_error(error: OSError) -> str:
    room = "make room on that disk; what had been committed before is still there"
    where = "" if error.filename is None else str(error.filename)
    return f"Error: {in_words(error.strerror or str(error), where, room if error.errno == errno.ENOSPC else '')}"


def _describe_unexpected(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"Error: {type(error).__name__}: {text or 'no message'}\n  hint:  offrl --debug shows where it came from"
