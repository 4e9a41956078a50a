"""Files and folders that are whole or not there, whenever their writer is killed, and that are offrl's own.

What is being written lies beside its final place as `.<name>.partial-<process>-<its start>-<machine>-<random>`, and is
renamed when it is whole and on the disk. What a killed writer left goes when the next one writes to the same folder.

A link that stands where something is to be written is replaced or refused: what lies behind it isn't offrl's.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO
from uuid import uuid4

from offrl.errors import DiskFullError, RequestError, StoreError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system calls a full disk: no room, none within the quota, or none within the limit on file sizes."""
ANOTHER_MACHINES = 24 * 3600.0
"""Seconds without a change after which what a writer on another machine left counts as abandoned: nobody here can tell
whether that process is alive."""
_TEMPORARY = re.compile(
    r"\.(?P<name>.+)\.(?P<kind>partial|replaced)-(?P<process>\d+)"
    # Versions up to 0.1.0 named the process alone.
    r"(-(?P<started>\d+)-(?P<machine>[0-9a-f]{8}))?-[0-9a-f]{8}(\.[^.]*)?"
)


def home() -> Path:
    """Where offrl keeps what it makes by name: `$OFFRL_HOME`, or `~/.cache/offrl`."""
    return Path(os.environ.get("OFFRL_HOME") or Path.home() / ".cache" / "offrl")


@contextmanager
def whole_file(path: Path) -> Iterator[HashingFile]:
    """Open a file that appears under its name only when the block ends well, whole and on the disk.

    Args:
        path: where the file is to be, in a folder that is there; what was there is replaced.

    Raises:
        DiskFullError: there is no room; what was there before still is.
        StoreError: the file can't be written for another reason.

    Example:
        >>> with whole_file(folder / "rows.arrow") as file:
        ...     file.write(b"rows")
        4
        >>> file.size, file.sha256[:8]
        (4, 'bc51e9e6')
    """
    with whole_path(path) as temporary, open(temporary, "xb", buffering=0) as raw:
        yield HashingFile(raw)


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a small file, of UTF-8 where it is text: a reader sees the old or the new one, never a part.

    Raises:
        DiskFullError: there is no room; what was there before still is.
        StoreError: the file can't be written for another reason.
    """
    with whole_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """A temporary path for a writer that opens its file itself; see `whole_file`. It ends in the same suffix.

    Raises:
        DiskFullError: there is no room; what was there before still is.
        StoreError: the file can't be written for another reason.
    """
    with naming(path):
        remove_leftovers(path.parent)
        temporary = path.with_name(f"{_temporary(path)}{path.suffix}")
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            _remove(temporary)


@contextmanager
def whole_folder(dest: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A path for a folder that the block makes; it takes its name when the block ends well, and is removed otherwise.

    Args:
        dest: where the folder is to be; its parents are made if need be.
        overwrite: replace what is there.

    Raises:
        RequestError: something is at `dest`, and is not to be replaced.
        DiskFullError: there is no room; what was there before still is.
        StoreError: the folder can't be written for another reason.
    """
    with naming(dest), temporary_folder(dest) as temporary:
        if not overwrite:
            require_free(dest)
        yield temporary
        _settle(temporary)
        if overwrite:
            _rename(temporary, dest)
        else:
            require_free(dest)
            os.replace(temporary, dest)
        sync(dest.parent)


@contextmanager
def temporary_folder(dest: Path) -> Iterator[Path]:
    """A path beside `dest`, whose parents are made if need be, for a folder that is removed in the end."""
    remove_leftovers(dest.parent)
    dest.parent.mkdir(parents=True, exist_ok=True)
    temporary = dest.with_name(_temporary(dest))
    try:
        yield temporary
    finally:
        _remove(temporary)


def _settle(folder: Path) -> None:
    """Make all that is in a folder survive a power cut, and files as readable as the folder is.

    Safetensors files are for their writer's eyes alone otherwise.
    """
    readable = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        if path.is_file() and path.stat().st_mode & 0o777 != readable:
            path.chmod(readable)
        sync(path)
    sync(folder)


def _rename(temporary: Path, dest: Path) -> None:
    """Give a folder its final name; what has that name is back if this fails, and is removed if it doesn't."""
    if not os.path.lexists(dest):
        os.replace(temporary, dest)
        return
    replaced = temporary.with_name(temporary.name.replace(".partial-", ".replaced-"))
    try:
        os.replace(dest, replaced)
        os.replace(temporary, dest)
    except BaseException:
        if not os.path.lexists(dest):
            os.replace(replaced, dest)
        raise
    os.replace(replaced, temporary)  # under this name it isn't given back any more


def remove_leftovers(folder: Path) -> None:
    """Remove what this user's killed writers left in a folder, and give back what they were replacing.

    Only what has a name that `whole_path` or `whole_folder` gives is looked at, and nothing that may still be written.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        match = _TEMPORARY.fullmatch(name)
        if match is None or not _is_abandoned(folder / name, match):
            continue
        # Another process may be doing the same.
        with suppress(FileNotFoundError):
            if match["kind"] == "replaced" and not os.path.lexists(folder / match["name"]):
                os.replace(folder / name, folder / match["name"])
            else:
                _remove(folder / name)


def _is_abandoned(path: Path, match: re.Match[str]) -> bool:
    """Whether what has a temporary name is this user's, and nobody writes to it any more."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return False
    if facts.st_uid != os.geteuid():
        return False
    if match["machine"] not in (None, _machine()):
        return time.time() - facts.st_mtime > ANOTHER_MACHINES
    return not _is_running(int(match["process"]), match["started"])


def require_free(dest: Path) -> None:
    """Raise `RequestError` if there is something at a destination."""
    if os.path.lexists(dest):
        raise RequestError("the destination exists", where=str(dest), hint="choose another --out")


def require_no_link(path: Path) -> None:
    """Raise `StoreError` if a link stands where offrl keeps something of its own."""
    if path.is_symlink():
        raise _a_link(path)


def own_folder(path: Path) -> None:
    """Make a folder, where it isn't there yet, inside one that is offrl's.

    Raises:
        StoreError: it can't be made, or is a link to a folder that others may use too.
    """
    require_no_link(path)
    with naming(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def appending(path: Path) -> Iterator[TextIO]:
    """Open a text file of offrl's own to write at its end; it is made if need be.

    Raises:
        DiskFullError: there is no room.
        StoreError: it can't be written for another reason, or is a link.
    """
    with naming(path), os.fdopen(_open_own(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8", newline="") as file:
        yield file


def take_lock(path: Path) -> int | None:
    """Take a lock, which closing the descriptor or the process's end gives back; None where another process has it.

    Raises:
        StoreError: the file can't be made, or is a link.
    """
    with naming(path):
        descriptor = _open_own(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _open_own(path: Path, flags: int) -> int:
    """Open a file, made if need be, without a look behind links and without taking anything out of it."""
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _a_link(path) from error
        raise


def _a_link(path: Path) -> StoreError:
    return StoreError(
        f"this is a link to {os.readlink(path)}, and offrl writes to nothing behind links",
        where=str(path),
        hint="put the file or folder itself there in place of the link, or link the whole run or dataset",
    )


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn errors of the system in the block, which needn't say what they met, into ones that name a file or folder.

    Raises:
        DiskFullError: there is no room.
        StoreError: it can't be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFullError(
                "the disk is full (or a quota or file size limit is reached); nothing committed before is lost",
                where=str(path),
                hint="free some space, then run the command again",
            ) from error
        raise StoreError(
            f"this can't be written ({error.strerror or error})",
            where=str(path),
            hint="check the path and who may write there",
        ) from error


class HashingFile:
    """A file to write to that knows the length and SHA-256 of what went through it."""

    closed = False

    def __init__(self, raw: BinaryIO | Any) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view):  # an unbuffered file may take less than it was given
            written += self._raw.write(view[written:])
        self._hash.update(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Whoever opened the file closes it."""

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def _remove(path: Path) -> None:
    """Remove a file, a folder or a link, and nothing behind links."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _temporary(path: Path) -> str:
    process = os.getpid()
    started = (_state(process) or ("", "0"))[1]
    return f".{path.name}.partial-{process}-{started}-{_machine()}-{uuid4().hex[:8]}"


def _machine() -> str:
    """Names this machine, or container: the numbers of its processes mean nothing elsewhere."""
    return hashlib.sha256(os.uname().nodename.encode()).hexdigest()[:8]


def _is_running(process: int, started: str | None) -> bool:
    """Whether a process is alive, and the one that began at that time where it is known."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    state, began = _state(process) or ("", started)
    return state not in ("Z", "X") and started in (None, began)


def _state(process: int) -> tuple[str, str] | None:
    """A process's state, as a letter, and when it began, in ticks; None where the system doesn't tell."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name before may have spaces and brackets in it.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]
