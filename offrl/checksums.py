"""SHA-256 of files, worked out once for each.

`$OFFRL_HOME/checksums.jsonl` remembers what was found, with the size, the times and the number (inode) that the file
had: as long as these are the same, the file isn't read again. A file that is changed gets another `ctime`, whatever is
done to its time of modification.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from offrl.documents import parse_json
from offrl.errors import StoreError
from offrl.files import appending, home, own_folder, write_whole

SETTLED = 2.0
"""Seconds: a file that was changed less than this before it was read may change again without another time; no file
system counts in longer ones."""
MEMORY_FILE = "checksums.jsonl"
MOST_BYTES = 16 * 2**20
"""Of the memory, of which the newer half is kept then; a line is some 200 bytes."""
THREADS = 4

Identity = list[int]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """The same; of a file that was read before and hasn't changed since, what was found then.

    Raises:
        OSError: the file can't be read.
    """
    place = os.path.realpath(path)
    before, now = _identity(place), time.time()
    memory = _memory(home() / MEMORY_FILE)
    remembered, digest = memory.get(place, (None, ""))
    if remembered == before:
        return digest
    digest = file_sha256(path)
    # Its times are in nanoseconds.
    if _identity(place) == before and now - max(before[1:3]) / 1e9 > SETTLED:
        memory[place] = before, digest
        _remember(home() / MEMORY_FILE, json.dumps([place, before, digest]))
    return digest


def changed_files(expected: Iterable[tuple[Path, str]]) -> list[Path]:
    """Of files and the SHA-256 that each had, those whose content is another now; several are read at a time.

    Raises:
        OSError: a file can't be read.
    """
    pairs = list(expected)
    with ThreadPoolExecutor(max_workers=min(THREADS, os.cpu_count() or 1)) as threads:
        found = threads.map(known_sha256, [path for path, _ in pairs])
        return [path for (path, digest), now in zip(pairs, found, strict=True) if digest != now]


def _identity(place: str) -> Identity:
    facts = os.stat(place)
    if not stat.S_ISREG(facts.st_mode):
        # Reading a pipe may never end.
        raise OSError(None, "it is no regular file", place)
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


@functools.cache
def _memory(file: Path) -> dict[str, tuple[Identity, str]]:
    """What is remembered, by path; later lines go before earlier ones, and one cut short by a kill is left out."""
    known: dict[str, tuple[Identity, str]] = {}
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                match parse_json(line):
                    case [str(place), list(identity), str(digest)]:
                        known[place] = identity, digest
    return known


def _remember(file: Path, line: str) -> None:
    """Where nothing can be written, files are read each time."""
    with suppress(StoreError):
        own_folder(file.parent)
        with appending(file) as lines:
            lines.write(f"{line}\n")
        if file.stat().st_size > MOST_BYTES:
            kept = file.read_text(encoding="utf-8").splitlines(keepends=True)
            write_whole(file, "".join(kept[len(kept) // 2 :]))
