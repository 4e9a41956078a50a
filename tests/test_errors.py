"""The exception tree: one root, three parts to a message, exit codes."""

from __future__ import annotations

import inspect
import pickle

import pytest

from offrl import errors
from offrl.errors import OffrlError, RequestError

ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, OffrlError)]
WRONG_REQUESTS = {
    "RequestError",
    "RecipeError",
    "DatasetNotFoundError",
    "SourceError",
    "UnsafeEnvironmentError",
    "UnsafeSourceError",
    "SpaceMismatchError",
    "RunExistsError",
    "RunInUseError",
    "RunNotFoundError",
    "TableGivenError",
}


@pytest.mark.parametrize("kind", ERRORS)
def test_a_message_says_what_and_where_and_gives_a_hint(kind: type[OffrlError]) -> None:
    error = kind("row 3 has no reward", where="log.csv, row 3", hint="fill it in")
    assert str(error) == "row 3 has no reward\n  where: log.csv, row 3\n  hint:  fill it in"
    assert (error.what, error.where, error.hint) == ("row 3 has no reward", "log.csv, row 3", "fill it in")


def test_parts_that_are_not_there_leave_no_trace() -> None:
    assert str(OffrlError("no reward")) == "no reward"
    assert str(OffrlError("no reward", where="row 3")) == "no reward\n  where: row 3"
    assert str(OffrlError("no reward", hint="fill it in")) == "no reward\n  hint:  fill it in"


@pytest.mark.parametrize("kind", ERRORS)
def test_exit_codes_tell_wrong_requests_from_failed_work(kind: type[OffrlError]) -> None:
    assert kind("x").exit_code == (2 if kind.__name__ in WRONG_REQUESTS else 1)
    if issubclass(kind, RequestError):
        assert kind.exit_code == 2


def test_the_tree_has_the_expected_branches() -> None:
    names = {kind.__name__ for kind in ERRORS}
    assert names >= WRONG_REQUESTS
    assert issubclass(errors.DiskFullError, errors.StoreError)
    assert issubclass(errors.RunInUseError, errors.RunError)
    assert issubclass(errors.RunNotFoundError, errors.RunError)
    assert not issubclass(errors.DataError, RequestError)


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_says_when_it_is_raised(kind: type[OffrlError]) -> None:
    assert kind.__doc__
    assert kind.__module__ == "offrl.errors"


def test_errors_survive_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(errors.RecipeError("unknown key", where="a.toml", hint="remove it")))
    assert type(error) is errors.RecipeError
    assert str(error) == "unknown key\n  where: a.toml\n  hint:  remove it"
