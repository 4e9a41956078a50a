"""Git LFS pointers: small texts that a checkout without LFS holds in the place of large files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offrl.errors import OffrlError, SourceError

_START = b"version https://git-lfs"
_LONGEST = 1024


@contextmanager
def naming_pointers(path: Path) -> Iterator[None]:
    """Where a source can't be converted because it, or a file in it, is a pointer, say so.

    Raises:
        SourceError: it is one.
    """
    try:
        yield
    except OffrlError as error:
        found = next(_pointers(path), None)
        if found is None:
            raise
        raise SourceError(
            "this is a Git LFS pointer, a text that stands for the file: the file itself was never fetched",
            where=str(found),
            hint=f"fetch it, in the repository that it lies in: git lfs pull --include '*{found.suffix or found.name}'",
        ) from error


def _pointers(path: Path) -> Iterator[Path]:
    for file in [path] if path.is_file() else path.rglob("*"):
        if not file.is_file() or file.stat().st_size > _LONGEST:
            continue
        with open(file, "rb") as opened:
            if opened.read(len(_START)) == _START:
                yield file
