"""A folder is whole or not there; what was there before is not lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from offrl.errors import RequestError, StoreError
from offrl.files import whole_folder


def write(dest: Path, text: str, overwrite: bool = False) -> None:
    with whole_folder(dest, overwrite) as folder:
        folder.mkdir()
        (folder / "file").write_text(text)


def fail(dest: Path, error: BaseException, overwrite: bool = False) -> None:
    with whole_folder(dest, overwrite) as folder:
        folder.mkdir()
        raise error


def write_and_die(dest: Path) -> None:
    with whole_folder(dest) as folder:
        folder.mkdir()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_folder_takes_its_name_at_the_end(tmp_path: Path) -> None:
    dest = tmp_path / "deep" / "dest"
    with whole_folder(dest) as folder:
        folder.mkdir()
        assert not dest.exists()
    assert [path.name for path in dest.parent.iterdir()] == ["dest"]


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), RuntimeError("stop")])
def test_an_error_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error), match="stop"):
        fail(tmp_path / "dest", error)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    write(dest, "old")
    with pytest.raises(RequestError, match="something at the destination"):
        write(dest, "new")
    assert (dest / "file").read_text() == "old"
    with pytest.raises(RuntimeError, match="stop"):
        fail(dest, RuntimeError("stop"), overwrite=True)
    assert (dest / "file").read_text() == "old"
    write(dest, "new", overwrite=True)
    assert (dest / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["dest"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    process = multiprocessing.get_context("fork").Process(target=write_and_die, args=(dest,))
    process.start()
    process.join()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".dest.partial-")
    write(dest, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["dest"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be written"):
        write(tmp_path / "file" / "dest", "new")
