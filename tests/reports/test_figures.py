"""Pictures that are whole or not there, and whose text is what was given."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from offrl.errors import DiskFullError
from offrl.reports.figures import drawable, save_picture

BROKEN = r"a$\frac{b$"
"""Mathematics that matplotlib can't read, and doesn't have to."""


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def picture_with(text: str) -> Figure:
    """A figure that has the text in every place where names stand."""
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1.0, 2.0], label=text)
    axes.set_yticks([1.0, 2.0], [text, "other"])
    axes.set_title(text)
    axes.set_xlabel(text)
    figure.suptitle(text)
    figure.legend(title=text)
    return figure


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
@pytest.mark.parametrize("tex", [False, True])
def test_text_is_taken_as_it_is(suffix: str, tex: bool, tmp_path: Path) -> None:
    with rc_context({"text.usetex": tex}):
        save_picture(picture_with(BROKEN), tmp_path / f"p{suffix}")
    assert (tmp_path / f"p{suffix}").stat().st_size > 1000


def test_dollar_signs_are_written(tmp_path: Path) -> None:
    with rc_context({"svg.fonttype": "none"}):
        save_picture(picture_with("5$ and 6$"), tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_text().count(">5$ and 6$<") == 6


def test_a_full_disk_leaves_the_picture_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"before")
    with small_disk(1000), pytest.raises(DiskFullError, match=r"disk is full.*\n.*p\.png"):
        save_picture(picture_with("text"), tmp_path / "p.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("p.png", b"before")]


def test_what_no_axis_can_hold_is_a_gap() -> None:
    values = np.array([1.0, np.inf, -np.inf, np.nan, 1e305, -1e299])
    np.testing.assert_array_equal(drawable(values), [1.0, np.nan, np.nan, np.nan, np.nan, -1e299])


def test_text_holds_nothing_that_its_reader_obeys(tmp_path: Path) -> None:
    figure = picture_with("a\x1b[31m\u202eb")
    figure.axes[0].set_yticks([1.0, 2.0], ["names of estimators", "which are no data"])
    with rc_context({"svg.fonttype": "none"}):
        save_picture(figure, tmp_path / "p.svg")
    written = (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert "\x1b" not in written
    assert "\u202e" not in written
    assert written.count("a\\x1b[31m\\u202eb") >= 4
