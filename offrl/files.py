"""Folders that are whole or not there, whenever their writer is killed."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from offrl.data.shard import sync_directory
from offrl.errors import RequestError, StoreError


def require_free(dest: Path) -> None:
    """Raise `RequestError` if there is something at a destination."""
    if dest.exists() or dest.is_symlink():
        raise RequestError("there is something at the destination", where=str(dest), hint="choose another --out")


@contextmanager
def whole_folder(dest: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `dest` that takes its name when the block ends well, and is removed otherwise.

    What killed writers left of it goes first.

    Args:
        dest: where the folder is to be.
        overwrite: replace what is there.

    Raises:
        RequestError: something is at `dest`.
        StoreError: the folder can't be written.
    """
    remove_leftovers(dest)
    if not overwrite:
        require_free(dest)
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the destination can't be written ({error.strerror})", where=str(dest.parent)) from error
    temporary = dest.with_name(f".{dest.name}.partial-{os.getpid()}-{uuid4().hex[:8]}")
    replaced = temporary.with_name(temporary.name.replace(".partial-", ".replaced-"))
    try:
        yield temporary
        if overwrite and dest.exists():
            os.rename(dest, replaced)
        os.rename(temporary, dest)
        sync_directory(dest.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists() and not dest.exists():
            os.rename(replaced, dest)
        if isinstance(error, OSError):
            raise StoreError(f"the store can't be written ({error.strerror})", where=str(dest)) from error
        raise
    if replaced.exists():
        discarded = temporary.with_name(f"{temporary.name}-old")  # from here on it isn't given back any more
        os.rename(replaced, discarded)
        shutil.rmtree(discarded, ignore_errors=True)


def remove_leftovers(dest: Path) -> None:
    """Remove what killed writers to this name left; give back what was being replaced."""
    for path in dest.parent.glob(f".{glob.escape(dest.name)}.*-*-*"):
        kind, _, rest = path.name.removeprefix(f".{dest.name}.").partition("-")
        if kind not in ("partial", "replaced") or _is_running(rest.partition("-")[0]):
            continue
        if kind == "replaced" and not dest.exists():
            os.rename(path, dest)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
