"""Files and folders that are whole or not there, whenever their writer is killed.

What is being written lies beside its final place as `.<name>.partial-<process>-<random>`, and is renamed when it is
whole and on the disk. What a killed writer left goes when the next one writes to the same name.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from offrl.errors import DiskFullError, RequestError, StoreError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system calls a full disk: no room, none within the quota, or none within the limit on file sizes."""


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
    with whole_path(path) as temporary, open(temporary, "wb", buffering=0) as raw:
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
        remove_leftovers(path)
        temporary = path.with_name(f"{_temporary(path)}{path.suffix}")
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            _remove(temporary)


@contextmanager
def whole_folder(dest: Path, *, overwrite: bool = False, merge: bool = False) -> Iterator[Path]:
    """A path for a folder that the block makes; it takes its name when the block ends well, and is removed otherwise.

    Args:
        dest: where the folder is to be; its parents are made if need be.
        overwrite: replace what is there.
        merge: where a folder is there, move the new files into it, one by one.

    Raises:
        RequestError: something is at `dest`, and is neither to be replaced nor added to.
        DiskFullError: there is no room; what was there before still is.
        StoreError: the folder can't be written for another reason.
    """
    with naming(dest):
        remove_leftovers(dest)
        if not (overwrite or (merge and dest.is_dir())):
            require_free(dest)
        dest.parent.mkdir(parents=True, exist_ok=True)
        temporary = dest.with_name(_temporary(dest))
        try:
            yield temporary
            for path in temporary.rglob("*"):
                sync(path)
            sync(temporary)
            if merge and dest.is_dir():
                for path in sorted(temporary.iterdir()):
                    os.replace(path, dest / path.name)
                sync(dest)
            else:
                _rename(temporary, dest)
            sync(dest.parent)
        finally:
            _remove(temporary)


def _rename(temporary: Path, dest: Path) -> None:
    """Give a folder its final name; what has that name is back if this fails, and is removed if it doesn't."""
    if not dest.exists():
        os.replace(temporary, dest)
        return
    replaced = temporary.with_name(temporary.name.replace(".partial-", ".replaced-"))
    try:
        os.replace(dest, replaced)
        os.replace(temporary, dest)
    except BaseException:
        if not dest.exists():
            os.replace(replaced, dest)
        raise
    os.replace(replaced, temporary)  # under this name it isn't given back any more


def remove_leftovers(dest: Path) -> None:
    """Remove what killed writers to this name left; give back what was being replaced."""
    for path in dest.parent.glob(f".{glob.escape(dest.name)}.*-*-*"):
        kind, _, rest = path.name.removeprefix(f".{dest.name}.").partition("-")
        if kind not in ("partial", "replaced") or _is_running(rest.partition("-")[0]):
            continue
        if kind == "replaced" and not dest.exists():
            os.replace(path, dest)
        else:
            _remove(path)


def require_free(dest: Path) -> None:
    """Raise `RequestError` if there is something at a destination."""
    if dest.exists() or dest.is_symlink():
        raise RequestError("there is something at the destination", where=str(dest), hint="choose another --out")


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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _temporary(path: Path) -> str:
    return f".{path.name}.partial-{os.getpid()}-{uuid4().hex[:8]}"


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
