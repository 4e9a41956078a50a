"""One damaged file after another, each read as a user would, and what became of it.

As a program it takes the numbers of the first and the last attempt, and prints what went wrong as JSON lines:
`python -m tests.fuzzing.attempts 0 100`.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from offrl.errors import OffrlError
from tests.fuzzing.mutations import mutated
from tests.fuzzing.subjects import SUBJECTS, make_home

SECONDS = 60
"""No attempt may take longer."""
MEMORY = 4 * 2**30
"""Bytes that no attempt may need."""
UNEXPECTED = "offrl --debug shows where it came from"
"""What the command says of an exception that isn't offrl's."""


class TookTooLong(BaseException):
    """An attempt isn't over after `SECONDS`."""


@dataclass(frozen=True)
class Attempt:
    """What became of one damaged file.

    Attributes:
        number: makes the same damage again.
        subject, file: what was damaged.
        reader: which of the subject's readers read it.
        outcome: "read", "refused", or what went wrong.
        detail: the message or traceback.
        seconds: how long it took.
    """

    number: int
    subject: str
    file: str
    reader: int
    outcome: str
    detail: str
    seconds: float

    @property
    def fine(self) -> bool:
        """Whether it ended in one of the two ways that are allowed."""
        return self.outcome in ("read", "refused")


def attempt(number: int, original: Path) -> Attempt:
    """Damage a file in a copy of a home, and read it.

    Args:
        number: picks the subject, its file, the damage and the reader.
        original: what `make_home` filled.
    """
    random = Random(number)
    subject = SUBJECTS[number % len(SUBJECTS)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        shutil.copytree(original, home)
        pattern = random.choice(subject.files)
        path = random.choice(sorted(home.glob(pattern)))
        damage(path, random)
        with suppress(Exception):
            subject.repair(home)
        reader = random.randrange(len(subject.readers))
        started = time.perf_counter()
        with at_home(home):
            outcome, detail = outcome_of(lambda: subject.readers[reader](home))
        name = str(path.relative_to(home))
        return Attempt(number, subject.name, name, reader, outcome, detail, round(time.perf_counter() - started, 2))


def damage(path: Path, random: Random) -> None:
    """Change what is in a file, or take it away, or put a folder in its place."""
    content = path.read_bytes()
    kind = random.random()
    if kind < 0.95:
        path.write_bytes(mutated(path, content, random))
        return
    path.unlink()
    if kind < 0.975:
        path.mkdir()


def outcome_of(read) -> tuple[str, str]:
    """ "read" or "refused" and the message, or what went wrong and where."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors) for errors in ("strict", "replace"))
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            read()
    except OffrlError as error:
        return "refused", str(error)
    except SystemExit as stopped:
        err.flush()
        text = err.buffer.getvalue().decode()
        if UNEXPECTED in text or stopped.code not in (0, 1, 2, None):
            return f"exit {stopped.code}: {_summary(text)}", text
        return ("refused" if stopped.code else "read"), text
    except BaseException as error:
        text = traceback.format_exc()
        return f"{type(error).__name__}: {_summary(text)}", text
    finally:
        signal.alarm(0)
    return "read", ""


def _summary(text: str) -> str:
    """The last place of offrl in a traceback, and its last line but the hint."""
    places = [line.strip() for line in text.splitlines() if line.lstrip().startswith("File") and "offrl/" in line]
    errors = [line for line in text.splitlines() if line and not line.startswith((" ", "Error:"))]
    place = next((each for each in reversed(places) if "offrl_cli/errors.py" not in each), "").rpartition("/offrl/")[2]
    return f"{place} {errors[-1][:150] if errors else ''}"


def _too_long(*_: object) -> None:
    raise TookTooLong


@contextmanager
def at_home(home: Path) -> Iterator[None]:
    """With `OFFRL_HOME` there, in a working directory within it."""
    before, place = os.environ.get("OFFRL_HOME"), os.getcwd()
    os.environ["OFFRL_HOME"] = str(home)
    work = home / "work"
    work.mkdir(exist_ok=True)
    os.chdir(work)
    try:
        yield
    finally:
        os.chdir(place)
        if before is None:
            del os.environ["OFFRL_HOME"]
        else:
            os.environ["OFFRL_HOME"] = before


def run(first: int, last: int) -> None:
    """Print each attempt's number as it begins, and what went wrong; then the most memory that was needed."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "original"
        original.mkdir()
        with at_home(original), redirect_stdout(sys.stderr):
            make_home(original)
        shutil.rmtree(original / "work")
        for number in range(first, last):
            print(json.dumps({"begins": number}), flush=True)
            result = attempt(number, original)
            print(json.dumps(asdict(result)), flush=True)
        greatest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"greatest_bytes": greatest}))


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]))
