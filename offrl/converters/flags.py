"""Flags as sources write them, and the one check that all of them pass: each says yes or no."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offrl.errors import DataError

_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}


def read_flags(
    values: NDArray[Any], *, field: str, key: str, where: str, locate: Callable[[int], str] = lambda row: f"row {row}"
) -> NDArray[np.bool_]:
    """Flags as booleans of the same shape.

    Args:
        values: [rows, ...] booleans, numbers or words.
        field: what they say, such as `terminated`; for the hint.
        key: what the source calls them.
        where: the file.
        locate: turns a row into words.

    Raises:
        DataError: one is neither yes nor no: NaN, a fraction, another number, another word.

    Example:
        >>> read_flags(np.array(["True", "0"]), field="terminated", key="done", where="log.csv")
        array([ True, False])
    """
    if values.dtype == np.bool_:
        return values
    if values.dtype.kind in "iuf":
        return _checked(values == 1, values == 0, values, field=field, key=key, where=where, locate=locate)
    words, codes = np.unique(values.astype(str), return_inverse=True)
    return read_words(words.tolist(), codes.reshape(values.shape), field=field, key=key, where=where, locate=locate)


def read_words(
    words: Sequence[str],
    codes: NDArray[np.integer[Any]],
    *,
    field: str,
    key: str,
    where: str,
    locate: Callable[[int], str] = lambda row: f"row {row}",
) -> NDArray[np.bool_]:
    """Flags that are written as words.

    Args:
        words: the different ones.
        codes: [rows, ...], the position of each row's word among them.
        field, key, where, locate: as `read_flags` takes them.

    Raises:
        DataError: a word is neither yes nor no.
    """
    meanings = [_WORDS.get(word.strip().lower()) for word in words]
    yes, no = (np.array([meaning is said for meaning in meanings], np.bool_)[codes] for said in (True, False))
    return _checked(yes, no, np.array(words, object)[codes], field=field, key=key, where=where, locate=locate)


def _checked(
    yes: NDArray[np.bool_],
    no: NDArray[np.bool_],
    values: NDArray[Any],
    *,
    field: str,
    key: str,
    where: str,
    locate: Callable[[int], str],
) -> NDArray[np.bool_]:
    unclear = ~(yes | no)
    if unclear.any():
        place = np.unravel_index(int(unclear.argmax()), unclear.shape)
        refuse_flag(values[place], int(np.count_nonzero(unclear)), locate(int(place[0])), field, key, where)
    return yes


def refuse_flag(value: Any, count: int, row: str, field: str, key: str, where: str) -> None:
    """Raise the DataError for flags that are neither yes nor no.

    Args:
        value: the first of them; empty text or None where there is none.
        count: how many there are.
        row: where the first is, in words.
        field, key, where: as `read_flags` takes them.
    """
    empty = value is None or (isinstance(value, str) and not value.strip())
    shown = repr(value) if isinstance(value, str) else str(value)
    raise DataError(
        f"column '{key}' is empty, it says neither yes nor no ({count} such values)"
        if empty
        else f"column '{key}' holds {shown}, which is neither true nor false ({count} such values)",
        where=f"{where}, {row}, column '{key}'",
        hint=f"write true or false, 1 or 0, in every row, or leave the column out: --map {field}=",
    )
