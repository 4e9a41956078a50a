"""Files and folders are whole or not there; what was there before is not lost."""

from __future__ import annotations

import ast
import errno
import functools
import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offrl.errors import DiskFullError, RequestError, StoreError
from offrl.files import (
    HashingFile,
    _machine,
    _state,
    appending,
    naming,
    own_folder,
    remove_leftovers,
    take_lock,
    whole_file,
    whole_folder,
    whole_path,
    write_whole,
)
from tests.source import syntax_trees

DEAD = 2**22 + 1
"""No process has this number: Linux counts to 2²²."""


def write(dest: Path, text: str, overwrite: bool = False) -> None:
    with whole_folder(dest, overwrite=overwrite) as folder:
        folder.mkdir()
        (folder / "file").write_text(text)


def fail(dest: Path, error: BaseException, overwrite: bool = False) -> None:
    with whole_folder(dest, overwrite=overwrite) as folder:
        folder.mkdir()
        raise error


def fail_in_a_file(path: Path, error: BaseException) -> None:
    with whole_file(path) as file:
        file.write(b"ne")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Killed(BaseException):
    """Stands for a process that ends here."""


def test_a_file_takes_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        assert file.write(b"ne") == 2
        assert file.write(memoryview(b"w")) == 1
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert (file.size, file.sha256) == (3, hashlib.sha256(b"new").hexdigest())
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), RuntimeError("stop"), Killed("stop")])
def test_an_interrupted_write_leaves_the_old_file(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(type(error), match="stop"):
        fail_in_a_file(path, error)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_text_is_written_as_utf_8(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", "ü\n")
    assert (tmp_path / "x").read_bytes() == b"\xc3\xbc\n"
    write_whole(tmp_path / "x", b"\xff")
    assert (tmp_path / "x").read_bytes() == b"\xff"


def test_a_rename_that_does_not_come_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "x", "old")

    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            write_whole(tmp_path / "x", "new" * 1000)
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_writer_that_opens_the_file_itself_sees_its_suffix(tmp_path: Path) -> None:
    with whole_path(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"pixels")
        assert not (tmp_path / "picture.png").exists()
    assert names(tmp_path) == ["picture.png"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_by_the_files_name(number: int, tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="disk is full") as caught:
        fail_in_a_file(tmp_path / "x", OSError(number, os.strerror(number)))
    assert caught.value.where == str(tmp_path / "x")
    assert names(tmp_path) == []


def test_other_failures_are_told_by_the_files_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"No such file(.|\n)*missing/x"), whole_file(tmp_path / "missing" / "x"):
        pass
    with pytest.raises(StoreError, match="Permission denied") as caught, naming(tmp_path / "y"):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert caught.value.where == str(tmp_path / "y")
    assert not isinstance(caught.value, DiskFullError)


def test_a_file_that_takes_less_than_it_is_given_gets_it_all() -> None:
    class Slow:
        def __init__(self) -> None:
            self.content = b""

        def write(self, data: memoryview) -> int:
            self.content += bytes(data[:2])
            return min(2, len(data))

    raw = Slow()
    file = HashingFile(raw)
    assert file.write(b"seven b") == 7
    assert (raw.content, file.tell()) == (b"seven b", 7)


def test_a_folder_takes_its_name_at_the_end(tmp_path: Path) -> None:
    dest = tmp_path / "deep" / "dest"
    with whole_folder(dest) as folder:
        folder.mkdir()
        assert not dest.exists()
    assert names(dest.parent) == ["dest"]


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), RuntimeError("stop")])
def test_an_error_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error), match="stop"):
        fail(tmp_path / "dest", error)
    assert names(tmp_path) == []


def test_what_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    write(dest, "old")
    with pytest.raises(RequestError, match="destination exists"):
        write(dest, "new")
    assert (dest / "file").read_text() == "old"
    with pytest.raises(RuntimeError, match="stop"):
        fail(dest, RuntimeError("stop"), overwrite=True)
    assert (dest / "file").read_text() == "old"
    write(dest, "new", overwrite=True)
    assert (dest / "file").read_text() == "new"
    assert names(tmp_path) == ["dest"]


def test_everything_in_a_folder_is_on_the_disk_before_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr("offrl.files.sync", lambda path: synced.append(path.name.partition(".partial")[0]))
    with whole_folder(tmp_path / "dest") as folder:
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").write_text("x")
    assert sorted(synced[:3]) == [".dest", "file", "inner"]
    assert synced[3:] == [tmp_path.name]


def die_in_a_folder(dest: Path) -> None:
    with whole_folder(dest) as folder:
        folder.mkdir()
        os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_file(dest: Path) -> None:
    with whole_file(dest) as file:
        file.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("dying", "again"), [(die_in_a_folder, write), (die_in_a_file, write_whole)])
def test_what_a_killed_writer_left_is_removed_by_the_next(
    dying: Callable[[Path], None], again: Callable[[Path, str], None], tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    process = multiprocessing.get_context("fork").Process(target=dying, args=(dest,))
    process.start()
    process.join()
    (left,) = names(tmp_path)
    assert left.startswith(f".dest.partial-{process.pid}-")
    again(tmp_path / "another", "new")
    assert names(tmp_path) == ["another"]


HERE, ELSEWHERE = _machine(), "0" * 8
STARTED = _state(os.getpid())
assert STARTED is not None
OWN = [
    f".dest.partial-{DEAD}-77-{HERE}-01234567",
    f".dest.partial-{DEAD}-77-{HERE}-01234567.png",
    f".dest.partial-{os.getpid()}-1-{HERE}-01234567",  # another process has the number now
    f".dest.partial-{DEAD}-01234567",  # as version 0.1.0 named it
]
OTHERS = [
    ".dest.partial-notes",
    ".dest.partial-my-own-notes",
    f".dest.partial-{DEAD}-77-{HERE}-0123",
    f"dest.partial-{DEAD}-77-{HERE}-01234567",
    f".dest.partial-{os.getpid()}-{STARTED[1]}-{HERE}-01234567",
    f".dest.partial-{os.getpid()}-01234567",
    f".dest.partial-{DEAD}-77-{ELSEWHERE}-01234567",  # nobody here knows whether that process lives
]


def test_only_what_nobody_writes_any_more_is_removed(tmp_path: Path) -> None:
    for name in (*OWN, *OTHERS):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(OTHERS)


def test_what_a_writer_on_another_machine_left_goes_after_a_day(tmp_path: Path) -> None:
    for hours in (23, 25):
        left = tmp_path / f".{hours}.partial-{DEAD}-77-{ELSEWHERE}-01234567"
        left.write_text("")
        then = time.time() - hours * 3600
        os.utime(left, (then, then))
    remove_leftovers(tmp_path)
    assert [name.partition(".partial")[0] for name in names(tmp_path)] == [".23"]


def test_a_process_that_ended_and_was_not_waited_for_writes_no_more(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    process.start()
    assert process.pid is not None
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    (tmp_path / f".dest.partial-{process.pid}-01234567").write_text("")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []
    process.join()


def test_what_was_being_replaced_is_given_back(tmp_path: Path) -> None:
    (tmp_path / f".dest.replaced-{DEAD}-77-{HERE}-01234567").mkdir()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["dest"]
    (tmp_path / f".dest.replaced-{DEAD}-77-{HERE}-01234567").mkdir()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["dest"]


def test_leftovers_that_are_links_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    for name in OWN:
        (tmp_path / name).symlink_to(tmp_path / "thesis")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["thesis"]
    assert names(tmp_path / "thesis") == ["chapter"]


@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_link_under_the_final_name_is_replaced_and_what_is_behind_it_stays(target: str, tmp_path: Path) -> None:
    behind, dest = tmp_path / "behind", tmp_path / "dest"
    if target == "file":
        behind.write_text("years of work")
    if target == "folder":
        write(behind, "years of work")
    for again in (write_whole, functools.partial(write, overwrite=True)):
        dest.unlink(missing_ok=True)
        dest.symlink_to(behind)
        with pytest.raises(RequestError, match="destination exists"):
            write(dest, "new")
        again(dest, "new")
        assert not dest.is_symlink()
        assert (dest if dest.is_file() else dest / "file").read_text() == "new"
        if target == "file":
            assert behind.read_text() == "years of work"
        if target == "folder":
            assert (behind / "file").read_text() == "years of work"
        assert names(tmp_path) == (["dest"] if target == "nothing" else ["behind", "dest"])


def append(path: Path) -> None:
    with appending(path) as file:
        file.write("more")


@pytest.mark.parametrize("use", [append, take_lock, own_folder])
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_link_in_the_place_of_what_is_offrls_own_is_refused(
    use: Callable[[Path], object], target: str, tmp_path: Path
) -> None:
    behind = tmp_path / "behind"
    if target == "file":
        behind.write_text("years of work")
    if target == "folder":
        behind.mkdir()
    (tmp_path / "own").symlink_to(behind)
    with pytest.raises(StoreError, match=r"this is a link to .*behind"):
        use(tmp_path / "own")
    assert behind.exists() == (target != "nothing")
    if target == "file":
        assert behind.read_text() == "years of work"


def test_a_lock_is_for_one_at_a_time_and_takes_nothing_out_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("kept")
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    assert take_lock(tmp_path / "lock") is None
    os.close(lock)
    again = take_lock(tmp_path / "lock")
    assert again is not None
    os.close(again)
    assert (tmp_path / "lock").read_text() == "kept"


def test_a_folder_that_another_writer_finished_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    dest = tmp_path / "dest"

    def write_late() -> None:
        with whole_folder(dest) as folder:
            folder.mkdir()
            write(dest, "theirs")

    with pytest.raises(RequestError, match="destination exists"):
        write_late()
    assert (dest / "file").read_text() == "theirs"
    assert names(tmp_path) == ["dest"]


def test_all_files_are_as_readable_as_the_umask_has_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with whole_folder(tmp_path / "folder") as folder:
            (folder / "inner").mkdir(parents=True)
            (folder / "inner" / "file").touch(mode=0o600)
        write_whole(tmp_path / "file", "")
        append(tmp_path / "lines")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"folder": 0o750, "inner": 0o750} | dict.fromkeys(("file", "lines"), 0o640)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be written"):
        write(tmp_path / "file" / "dest", "new")


WRITES = {"write_text", "write_bytes", "rename", "replace", "savefig", "get_writer", "move", "copy", "copytree"}
WITHIN_THE_KIT = {
    "offrl.files": "the kit itself",
    "offrl.collection.make_dataset": "moves a store into a whole folder",
    "offrl.converters.minari_root": "sorts what Minari wrote in a whole folder",
    "offrl.converters.remote": "fetches to a whole path",
    "offrl.deploy.file_formats": "is given a whole path",
    "offrl.envs.video": "films to a whole path",
    "offrl.reports.figures": "draws to a whole path",
    "offrl.runs.checkpoint": "writes in a whole folder",
}
"""Modules that write by other means, and why what they write is whole or absent all the same."""


def writes_by_itself(node: ast.AST) -> bool:
    """Whether a syntax tree's node opens a file for writing, or moves one."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name) and node.func.id == "open":
        modes = [each.value for each in node.args[1:2] if isinstance(each, ast.Constant)]
        return any(set(str(mode)) & set("wax+") for mode in modes)
    if not isinstance(node.func, ast.Attribute) or node.func.attr not in WRITES:
        return False
    owner = node.func.value
    return node.func.attr not in ("replace", "copy") or (isinstance(owner, ast.Name) and owner.id in ("os", "shutil"))


def test_everything_that_is_written_goes_through_the_kit() -> None:
    library = {module: tree for module, tree in syntax_trees().items() if module.startswith("offrl.")}
    found = {module for module, tree in library.items() if any(map(writes_by_itself, ast.walk(tree)))}
    assert found == set(WITHIN_THE_KIT)
