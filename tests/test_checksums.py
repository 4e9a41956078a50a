"""Checksums are worked out once for each file, and anew where it was touched, whatever its times say."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from offrl import checksums
from offrl.checksums import MEMORY_FILE, changed_files, file_sha256, known_sha256
from offrl.files import home


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read; those that have just been changed count as settled."""
    files: list[str] = []

    def reading(path: Path) -> str:
        files.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(checksums, "file_sha256", reading)
    monkeypatch.setattr(checksums, "SETTLED", -1.0)
    return files


def forget() -> None:
    """Be a new process, which knows what stands on the disk."""
    checksums._memory.cache_clear()


def test_a_file_is_read_once(tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    for _ in range(3):
        assert known_sha256(path) == sha256("one")
        forget()
    assert read == ["a"]


def test_a_changed_file_is_read_again_though_size_and_time_are_as_they_were(tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    known_sha256(path)
    then = path.stat()
    path.write_text("two")
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (then.st_size, then.st_mtime_ns)
    assert known_sha256(path) == sha256("two")
    assert read == ["a", "a"]


def test_another_file_of_the_same_size_and_times_is_read(tmp_path: Path, read: list[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        known_sha256(tmp_path / name)
    os.replace(tmp_path / "two", tmp_path / "one")
    assert known_sha256(tmp_path / "one") == sha256("two")


def test_a_file_that_was_changed_just_now_is_not_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "SETTLED", 60.0)
    (tmp_path / "a").write_text("one")
    for _ in range(2):
        known_sha256(tmp_path / "a")
    assert read == ["a", "a"]


def test_a_link_leads_to_what_is_known_of_its_file(tmp_path: Path, read: list[str]) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert known_sha256(tmp_path / "a") == known_sha256(tmp_path / "b")
    assert read == ["a"]


def test_what_changed_is_named(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(20)]
    for file in files:
        file.write_text(file.name)
    expected = [(file, sha256(file.name)) for file in files]
    assert changed_files(expected) == []
    files[7].write_text("8")
    assert changed_files(expected) == [files[7]]
    files[7].unlink()
    with pytest.raises(FileNotFoundError):
        changed_files(expected)


@pytest.mark.parametrize(
    "text", ["", "[", "3\n", '[["b"], 1, 2]\n', '["a", 1]\n', '["a", [1], "0"]\n[["b"', "\x00\xff\n"]
)
def test_a_memory_that_cannot_be_understood_is_none(tmp_path: Path, read: list[str], text: str) -> None:
    home().mkdir(parents=True, exist_ok=True)
    (home() / MEMORY_FILE).write_text(text)
    forget()
    (tmp_path / "a").write_text("one")
    assert known_sha256(tmp_path / "a") == sha256("one")
    assert read == ["a"]


def test_where_nothing_can_be_remembered_files_are_read_each_time(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("one")
    monkeypatch.setenv("OFFRL_HOME", str(tmp_path / "a" / "no folder"))
    for _ in range(2):
        assert known_sha256(tmp_path / "a") == sha256("one")
        forget()
    assert read == ["a", "a"]


def test_the_memory_is_bounded_and_keeps_what_is_newest(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "MOST_BYTES", 4_000)
    for number in range(100):
        (tmp_path / str(number)).write_text("x")
        known_sha256(tmp_path / str(number))
    assert (home() / MEMORY_FILE).stat().st_size <= 4_000
    forget()
    read.clear()
    known_sha256(tmp_path / "99")
    known_sha256(tmp_path / "0")
    assert read == ["0"]
